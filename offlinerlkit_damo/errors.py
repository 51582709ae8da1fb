"""Errors meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing prerequisite: one sentence that names the thing, the value and the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """


class Stopped(Exception):
    """A run was stopped from outside before its end, after a checkpoint; `code` is what its process exits with."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def unknown(kind: str, value: object, choices: Iterable[str]) -> UserError:
    """An error for `value`, which is none of `choices`, naming the nearest ones or all of them."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    return UserError(f"unknown {kind} {str(value)!r}; {hint}")
