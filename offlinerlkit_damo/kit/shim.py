"""Placeholders for the modules the kit imports but does not need.

OfflineRL-Kit imports `gym` in every model-based policy (for annotations) and `gym.envs.mujoco.mujoco_env` in
`offlinerlkit.dynamics` (for one oracle model). Neither `gym` nor its MuJoCo extras install on a current Python, so
while the kit is being imported, and only then, this file stands in for whichever of them is absent.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Missing:
    """Base of a placeholder class: usable in an annotation, not to be instantiated."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        name = f"{type(self).__module__}.{type(self).__qualname__}"
        raise ImportError(f"{name} is a placeholder: install the package that provides it to use this part of the kit")


def _module(name: str, **attributes: object) -> ModuleType:
    module = ModuleType(name, "Placeholder made by offlinerlkit_damo.kit.shim")
    module.__path__ = []  # a package, so that `import name.child` is looked up
    module.__dict__.update(attributes)
    return module


def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # an old gym fails in many ways beside a new numpy or without mujoco_py
        return None


def _gym() -> ModuleType:
    """A `gym` whose classes are gymnasium's where that is installed."""
    modern: Any = _importable("gymnasium")
    if modern is None:
        space: Any = type("Space", (_Missing,), {"__module__": "gym.spaces"})
        env: Any = type("Env", (_Missing,), {"__module__": "gym"})
        return _module("gym", Env=env, Space=space, spaces=_module("gym.spaces", Space=space))
    return _module("gym", Env=modern.Env, Space=modern.Space, spaces=modern.spaces)


@contextmanager
def legacy_modules() -> Iterator[list[str]]:
    """Make `gym` and `gym.envs.mujoco.mujoco_env` importable inside the block; yield the names that are placeholders.

    A real, working module is always preferred and stays imported. Placeholders leave `sys.modules` (and their parents)
    with the block, so code that asks `import gym` later gets the truth.
    """
    added: dict[str, ModuleType] = {}
    before = dict(sys.modules)
    gym = _importable("gym")
    if gym is None:
        gym = added["gym"] = _gym()
        added["gym.spaces"] = gym.spaces
    if _importable("gym.envs.mujoco.mujoco_env") is None:
        base = type("MujocoEnv", (_Missing,), {"__module__": "gym.envs.mujoco.mujoco_env"})
        added["gym.envs.mujoco.mujoco_env"] = _module("gym.envs.mujoco.mujoco_env", MujocoEnv=base)
        added["gym.envs.mujoco"] = _module("gym.envs.mujoco", mujoco_env=added["gym.envs.mujoco.mujoco_env"])
        if "gym" in added or _importable("gym.envs") is None:
            added["gym.envs"] = _module("gym.envs", mujoco=added["gym.envs.mujoco"])
    sys.modules.update(added)
    try:
        yield sorted(added)
    finally:
        for name, module in added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]
