"""A film of one episode of a saved policy, as .mp4 or .gif."""

from __future__ import annotations

import math
import os
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

from offlinerlkit_damo.config import check_seed
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.tasks import SimulatorEnv
from offlinerlkit_damo.training.dynamics import seed_everything
from offlinerlkit_damo.training.saved import SavedPolicy, simulator_of, task_of

VIEW = {"render_mode": "rgb_array"}
ROBOT_VIEW = {**VIEW, "camera_name": "track", "width": 400, "height": 300}
"""Of MuJoCo's robots: the camera that follows them."""

MAX_FPS = 50  # a GIF has no shorter frames; frames of faster simulators are left out, so that the film runs at the robot's own speed


def check_film(path: Path) -> None:
    """Raises UserError if no film can be written with this name: its ending, or a missing encoder."""
    if path.suffix not in (".mp4", ".gif"):
        raise UserError(f"a film is .mp4 or .gif, not {path.name!r}")
    if path.suffix == ".mp4":
        try:
            import_module("imageio_ffmpeg")
        except ImportError:
            raise UserError('an .mp4 needs an encoder; run: pip install "imageio[ffmpeg]", or write a .gif') from None


def film_episode(
    policy: SavedPolicy, path: Path, *, task: str | None = None, env: str | None = None, seed: int = 0, deterministic: bool = True
) -> float:
    """Play the episode seeded `seed`, write its film to `path`, and return its undiscounted return.

    Raises UserError for another ending than .mp4 and .gif, without the encoder that it needs, and where nothing can be drawn.
    """
    check_film(path)
    check_seed(seed)
    spec = task_of(policy, task, env)
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # without a screen
    seed_everything(seed)
    with closing(simulator_of(spec, policy, ROBOT_VIEW if spec.robot else VIEW)) as simulator, replacing(path) as temporary:
        fps = float(simulator.metadata.get("render_fps", MAX_FPS))
        stride = math.ceil(fps / MAX_FPS)
        pace: dict[str, Any] = {"fps": fps / stride} if path.suffix == ".mp4" else {"duration": 1000 * stride / fps, "loop": 0}
        simulator.seed(seed)
        obs = simulator.reset()
        first = _drawn(simulator)
        film: Any
        with imageio.get_writer(temporary, **pace) as film:
            film.append_data(first)
            total, step, over = 0.0, 0, False
            while not over:
                action = policy.select_action(obs, deterministic=deterministic)
                obs, reward, over, _ = simulator.step(action)
                total, step = total + reward, step + 1
                if step % stride == 0:
                    film.append_data(_drawn(simulator))
    return total


def _drawn(env: SimulatorEnv) -> NDArray[np.uint8]:
    try:
        return np.asarray(env.render(), np.uint8)
    except Exception as error:  # graphics libraries that are missing or do not work fail in many ways
        reason = " ".join(str(error).split())[:150]
        raise UserError(
            f"MuJoCo cannot draw here ({reason}); install the system's OpenGL libraries (Debian: libegl1 or libosmesa6) and set MUJOCO_GL "
            "to egl, osmesa or glfw"
        ) from error
