"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import offlinerlkit_damo


def test_public_names_are_there() -> None:
    assert {name: getattr(offlinerlkit_damo, name).__name__ for name in offlinerlkit_damo.__all__} == {
        name: name for name in offlinerlkit_damo.__all__
    }
    with pytest.raises(AttributeError, match="DAMOPolicie"):
        _ = offlinerlkit_damo.DAMOPolicie


def test_importing_does_nothing_heavy() -> None:
    """No torch, no host and no simulator until something is used; the command line's help needs none of them either."""
    code = "import sys, offlinerlkit_damo.__main__; print([m for m in ('torch', 'gymnasium', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
