"""Building a bare Gymnasium simulator, with its expected notices silenced and its failures explained."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium

from offlinerlkit_damo.errors import UserError, unknown

Simulator = gymnasium.Env[Any, Any]


def make_simulator(env_id: str, **options: Any) -> Simulator:
    """The bare Gymnasium environment, time limit included; `options` are its own. Raises UserError when it is unknown or not installed."""
    try:
        with _quiet_construction():
            return gymnasium.make(env_id, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise unknown("environment", env_id, gymnasium.registry) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        newer = _newer(env_id)
        if newer:  # of which there is no package to install
            raise UserError(f"the simulator {env_id} is too old for this Gymnasium ({error}); choose {' or '.join(newer)}") from error
        remedy = '; run: pip install "gymnasium[mujoco]"' if "mujoco" in str(error).lower() else ""
        raise UserError(f"the simulator {env_id} needs a package that is missing ({error}){remedy}") from error
    except gymnasium.error.Error as error:  # an outdated version, a malformed name
        raise UserError(f"Gymnasium cannot make {env_id!r} ({' '.join(str(error).split())})") from error


def _newer(env_id: str) -> list[str]:
    """Later versions of one of MuJoCo's simulators, where MuJoCo itself is installed and so is not what is missing."""
    name, _, version = env_id.rpartition("-v")
    if importlib.util.find_spec("mujoco") is None or not version.isdigit():
        return []
    versions = [spec.version for spec in gymnasium.registry.values() if spec.name == name and "mujoco" in str(spec.entry_point)]
    return [f"{name}-v{later}" for later in sorted(filter(None, versions)) if later >= max(4, int(version) + 1)]


@contextmanager
def _quiet_construction() -> Iterator[None]:
    """Silence two expected notices while a simulator is built: "v4 is out of date" and deprecations in model files.

    The v4 simulators are meant: they are nearest to the ones that D4RL was recorded in. MuJoCo would print its notice
    and append it to MUJOCO_LOG.TXT in the working folder; its other messages become Python warnings.
    """
    try:
        import mujoco
    except ImportError:  # Gymnasium says so itself if the environment needs it
        mujoco = None

    def pass_on(message: str) -> None:
        if "deprecated" not in message:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)

    before = mujoco.get_mju_user_warning() if mujoco else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*The environment .* is out of date", category=DeprecationWarning)
        try:
            if mujoco:
                mujoco.set_mju_user_warning(pass_on)
            yield
        finally:
            if mujoco:
                mujoco.set_mju_user_warning(before)
