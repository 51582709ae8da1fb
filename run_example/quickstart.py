"""From nothing to a learned policy: data, dynamics, DAMO, evaluation, figure. `make quickstart` runs this.

Leaves `quickstart/` with learning_curve.png, results.json and the run folder with its checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from offlinerlkit_damo.config import resolve
from offlinerlkit_damo.flags import Parser, run_command, train_and_report

CONFIG = Path(__file__).with_name("quickstart.yaml")


def main(argv: Sequence[str]) -> None:
    """Train with the settings of quickstart.yaml, and put figure and results where they are easy to find."""
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder for the run, the figure and the results [quickstart]")
    parser.add_argument("--epoch", type=int, help="epochs of 1000 gradient steps instead of the file's")
    arguments = parser.parse_args(argv)
    flags = {"logdir": str(arguments.out / "log"), **({} if arguments.epoch is None else {"epoch": arguments.epoch})}
    folder = train_and_report(resolve(flags, config_file=CONFIG))
    for name in ("learning_curve.png", "results.json"):
        shutil.copyfile(folder / "result" / name, arguments.out / name)
    print(f"figure: {arguments.out / 'learning_curve.png'}\nresults: {arguments.out / 'results.json'}")


if __name__ == "__main__":
    run_command(main)
