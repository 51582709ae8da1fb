"""python -m offlinerlkit_damo figures"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import torch

from offlinerlkit_damo.analysis.calibration import draw_calibration
from offlinerlkit_damo.analysis.curves import draw_alpha, draw_curves
from offlinerlkit_damo.analysis.distributions import draw_distributions
from offlinerlkit_damo.analysis.drawing import Drawn, write
from offlinerlkit_damo.analysis.runs import Learned, Run, find_runs, load_dataset
from offlinerlkit_damo.analysis.settings import Settings
from offlinerlkit_damo.analysis.values import draw_values
from offlinerlkit_damo.errors import UserError, unknown
from offlinerlkit_damo.files import check_writable
from offlinerlkit_damo.flags import listed
from offlinerlkit_damo.tasks import OfflineDataset

FROM_LOGS: dict[str, Callable[[Sequence[Run]], Drawn]] = {"curves": draw_curves, "alpha": draw_alpha}
FROM_NETWORKS: dict[str, Callable[[Sequence[Learned], OfflineDataset, Settings], Drawn]] = {
    "values": draw_values,
    "distributions": draw_distributions,
    "calibration": draw_calibration,
}
NAMES = (*FROM_LOGS, *FROM_NETWORKS)


def figures(arguments: argparse.Namespace) -> None:
    """Run the command. Of figures asked for by name nothing may be missing; otherwise a figure or a run is left out, with its reason."""
    chosen = NAMES if arguments.only is None else tuple(dict.fromkeys(listed(arguments.only)))
    for name in chosen:
        if name not in NAMES:
            raise unknown("figure", name, NAMES)
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
    runs = find_runs(arguments.runs)
    check_writable(arguments.out)
    if arguments.only is not None and "calibration" in chosen:  # before minutes of the other figures
        for run in runs:
            run.check_classifier()
    torch.set_num_threads(1)
    loaded: list[tuple[list[Learned], OfflineDataset]] = []  # at most once, and not where the logs are enough

    def learned() -> tuple[list[Learned], OfflineDataset]:
        if not loaded:
            dataset, found = load_dataset(runs[0]), []
            for run in runs:
                try:
                    found.append(Learned(run, dataset))
                except UserError as error:
                    if arguments.only is not None:
                        raise
                    print(f"{run.name}: left out where networks are needed: {error}", file=sys.stderr)
            loaded.append((found, dataset))
        if not loaded[0][0]:
            raise UserError("no run could be loaded")
        return loaded[0]

    written = 0
    for name in chosen:
        try:
            if name in FROM_LOGS:
                drawn = FROM_LOGS[name](runs)
            else:
                ours, dataset = learned()
                if name == "calibration" and arguments.only is None:
                    ours = [run for run in ours if run.config.damo.data_alignment]
                    if not ours:
                        raise UserError("no run has a classifier")
                drawn = FROM_NETWORKS[name](ours, dataset, settings)
        except UserError as error:
            if arguments.only is not None:
                raise
            print(f"{name}: not drawn: {error}", file=sys.stderr)
            continue
        print(write(name, drawn, arguments.out, arguments.format))
        written += 1
    if not written:
        raise UserError("none of the figures could be drawn from these runs; --only with a figure's name says why")
