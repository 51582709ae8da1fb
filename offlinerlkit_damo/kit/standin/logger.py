"""Logs of a run: folders, tables on the console, CSV files and TensorBoard."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from offlinerlkit_damo.files import replacing

from .log_handlers import HANDLERS, ConsoleHandler, Handler

ROOT_DIR = "log"
DEBUG, INFO, WARN, ERROR, BACKUP = 10, 20, 30, 40, 60
X_NAME = "timestep"


class Logger:
    """Collects named values and writes them, one row per `dumpkvs`, to every output.

    Args:
        dir: the run's folder; record/, checkpoint/, model/ and result/ are made in it.
        ouput_config: name of an output -> its kind, "stdout" (record/<name>.txt), "csv" (record/<name>.csv) or
            "tensorboard" (record/<name>/). The console is always an output.
    """

    def __init__(self, dir: str, ouput_config: dict[str, str]) -> None:
        unknown = {kind for kind in ouput_config.values() if kind not in HANDLERS}
        if unknown:
            raise ValueError(f"unknown output kinds {sorted(unknown)}; known: {', '.join(HANDLERS)}")
        self._dir = dir
        folders = [os.path.join(dir, name) for name in ("record", "checkpoint", "model", "result")]
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
        self._record_dir, self._checkpoint_dir, self._model_dir, self._result_dir = folders
        record = Path(self._record_dir)
        self._output_handlers: list[Handler] = [HANDLERS[kind](record, name) for name, kind in ouput_config.items()]
        self._output_handlers.append(ConsoleHandler())
        self._name2val: defaultdict[str, Any] = defaultdict(float)
        self._name2cnt: defaultdict[str, int] = defaultdict(int)
        self._level = INFO
        self._timestep = 0

    def mute(self) -> None:
        """Leave the console out from here on; the host has no such thing."""
        self._output_handlers = [handler for handler in self._output_handlers if not isinstance(handler, ConsoleHandler)]

    def log_hyperparameters(self, hyper_param: dict[str, Any]) -> None:
        """Write record/hyper_param.json and a table for TensorBoard; `hyper_param` is left as it is."""
        with replacing(Path(self._record_dir) / "hyper_param.json") as partial:
            partial.write_text(json.dumps(hyper_param, default=_jsonable))
        for handler in self._output_handlers:
            handler.write_hyperparameters(hyper_param)

    def logkv(self, key: str, val: Any) -> None:
        """Set a value of the present row."""
        self._name2val[key] = val

    def logkv_mean(self, key: str, val: float) -> None:
        """Add to a value of the present row that is the mean of all those added."""
        seen = self._name2cnt[key]
        self._name2val[key] = (self._name2val[key] * seen + val) / (seen + 1)
        self._name2cnt[key] = seen + 1

    def dumpkvs(self, exclude: str | Sequence[str] | None = None) -> None:
        """Write the present row, with its time step, to all outputs but those named; then start a new one."""
        excluded = [exclude] if isinstance(exclude, str) else exclude or []
        row = {**self._name2val, X_NAME: self._timestep}
        for handler in self._output_handlers:
            if handler.name not in excluded:
                handler.write_row(row, self._timestep)
        self._name2val.clear()
        self._name2cnt.clear()

    def log(self, s: str, level: int = INFO) -> None:
        """Write a line to the console outputs, if `level` is at least the logger's."""
        if level >= self._level:
            for handler in self._output_handlers:
                handler.write_line(s)

    def set_timestep(self, timestep: int) -> None:
        """The time step of the rows to come."""
        self._timestep = timestep

    def set_level(self, level: int) -> None:
        """Ignore lines below `level`."""
        self._level = level

    @property
    def record_dir(self) -> str:
        return self._record_dir

    @property
    def checkpoint_dir(self) -> str:
        return self._checkpoint_dir

    @property
    def model_dir(self) -> str:
        return self._model_dir

    @property
    def result_dir(self) -> str:
        return self._result_dir

    def close(self) -> None:
        """Close all files."""
        for handler in self._output_handlers:
            handler.close()


def make_log_dirs(
    task_name: str, algo_name: str, seed: int, args: dict[str, Any], record_params: Sequence[str] | None = None
) -> str:
    """Make and name the folder of a run: log/<task>/<algo>[&param=value...]/seed_<seed>&timestamp_<time>.

    A second run that starts within the same second gets a number after the time.
    """
    algo = algo_name + "".join(f"&{name}={args[name]}" for name in record_params or ())
    stamp = time.strftime("%y-%m%d-%H%M%S")
    path = os.path.join(ROOT_DIR, task_name, algo, f"seed_{seed}&timestamp_{stamp}")
    attempt, folder = 1, path
    while True:
        try:
            os.makedirs(folder)
            return folder
        except FileExistsError:
            attempt += 1
            folder = f"{path}-{attempt}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
