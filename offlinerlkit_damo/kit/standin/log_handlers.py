"""Where log rows go: the console and text files, CSV files, TensorBoard."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any, TextIO

from offlinerlkit_damo.files import replacing


class Handler:
    """An output; each kind overrides what it can show."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write_row(self, row: dict[str, Any], step: int) -> None:
        """A row of values."""

    def write_line(self, line: str) -> None:
        """A line of text."""

    def write_hyperparameters(self, hyper_param: dict[str, Any]) -> None:
        """The settings of the run."""

    def close(self) -> None:
        """Close the file."""


class ConsoleHandler(Handler):
    """Tables on the standard output, or in a text file."""

    def __init__(self, name: str = "", file: TextIO | None = None) -> None:
        super().__init__(name)
        self._file = file

    def write_row(self, row: dict[str, Any], step: int) -> None:
        cells = {key: f"{row[key]:<8.3g}" if isinstance(row[key], float) else str(row[key]) for key in sorted(row)}
        key_width = max(map(len, cells))
        value_width = max(map(len, cells.values()))
        rule = "-" * (key_width + value_width + 7)
        lines = [f"| {key:<{key_width}} | {value:<{value_width}} |" for key, value in cells.items()]
        self.write_line("\n".join([rule, *lines, rule]))

    def write_line(self, line: str) -> None:
        print(line, file=self._file or sys.stdout, flush=True)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class CSVHandler(Handler):
    """One CSV row per dump, flushed; a new column rewrites the file with empty cells in the earlier rows.

    A file that is there already is continued, not erased.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.stem)
        self._path = path
        self._file = path.open("a+", newline="")
        self._file.seek(0)
        self._columns: list[str] = next(csv.reader(self._file), [])

    def write_row(self, row: dict[str, Any], step: int) -> None:
        new = sorted(set(row) - set(self._columns))
        if new:
            self._add_columns(new)
        csv.writer(self._file, lineterminator="\n").writerow([row.get(column, "") for column in self._columns])
        self._file.flush()

    def _add_columns(self, new: list[str]) -> None:
        self._file.seek(0)
        earlier = list(csv.reader(self._file))[1:]
        self._file.close()
        self._columns += new
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self._columns)
            writer.writerows(cells + [""] * (len(self._columns) - len(cells)) for cells in earlier)
        self._file = self._path.open("a+", newline="")

    def close(self) -> None:
        self._file.close()


class TensorBoardHandler(Handler):
    """Scalars by time step. TensorBoard is imported here, when a run asks for it."""

    def __init__(self, path: Path) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        super().__init__(path.name)
        self.writer: Any = SummaryWriter(str(path))

    def write_row(self, row: dict[str, Any], step: int) -> None:
        for key, value in row.items():
            if key != "timestep":
                self.writer.add_scalar(key, float(value), step)
        self.writer.flush()

    def write_hyperparameters(self, hyper_param: dict[str, Any]) -> None:
        rows = [f"|{key}|{value}|" for key, value in hyper_param.items()]
        self.writer.add_text("hyperparameters", "\n".join(["|param|value|", "|-|-|", *rows]))

    def close(self) -> None:
        self.writer.close()


def _text(record: Path, name: str) -> Handler:
    return ConsoleHandler(name, (record / f"{name}.txt").open("a"))


def _csv(record: Path, name: str) -> Handler:
    return CSVHandler(record / f"{name}.csv")


def _tensorboard(record: Path, name: str) -> Handler:
    return TensorBoardHandler(record / name)


HANDLERS = {"stdout": _text, "csv": _csv, "tensorboard": _tensorboard}
