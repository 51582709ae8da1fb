"""What this machine has for a run, and what is missing and how to get it: `python -m offlinerlkit_damo doctor`."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

REQUIRED = {
    # import name: what pip calls it
    "torch": "torch",
    "numpy": "numpy",
    "gymnasium": "gymnasium[mujoco]",
    "mujoco": "gymnasium[mujoco]",
    "h5py": "h5py",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "tensorboard": "tensorboard",
}
OPTIONAL = {
    "scipy": ("scipy", "statistics over many runs"),
    "minari": ("minari[hdf5,hf]", "Minari's datasets"),
    "d4rl": ("d4rl", "D4RL's own loader; its HDF5 files are read without it"),
    "gym": ("gym<0.25", "the simulators that d4rl registers"),
    "imageio": ("imageio[ffmpeg]", "videos of policies"),
    "ray": ("ray[tune]", "comparisons on a cluster, searches over options"),
    "pytest": ("pytest", "the tests"),
}
SIMULATORS = ("Hopper-v4", "HalfCheetah-v4", "Walker2d-v4", "Ant-v4")


def examine() -> str:
    """The whole report. It never raises: what is missing or broken is a line that says so, with the remedy."""
    sections: dict[str, Callable[[], Iterator[str]]] = {
        "host": _host,
        "versions": _versions,
        "devices": _devices,
        "simulators": _simulators,
        "generated datasets": _generated,
        "D4RL files": _d4rl_files,
        "dynamics models": _dynamics,
        "disk": _disk,
        "optional packages": _optional,
    }
    lines: list[str] = []
    for title, section in sections.items():
        lines.append(title)
        try:
            for line in section():
                lines.append(f"  {line}")
        except Exception as error:  # whatever goes wrong here is what the reader wants to know
            lines.append(f"  {_failure(error)}")
    return "\n".join(lines)


def _failure(error: Exception) -> str:
    """One line about a part of the report that could not be made."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIRED:
        return f'not known: {error.name} is missing; run: pip install "{REQUIRED[error.name]}"'
    return f"failed: {reason}"


def _host() -> Iterator[str]:
    from offlinerlkit_damo.kit import HOST
    from offlinerlkit_damo.kit.host import HOST_VARIABLE

    meaning = {"standin": "bundled with this package", "offlinerlkit": "the installed OfflineRL-Kit"}
    yield f"{HOST.name} {HOST.version} ({meaning.get(HOST.name, 'unknown')}), commit {HOST.commit or 'not known'}"
    yield HOST.path
    forced = os.environ.get(HOST_VARIABLE)
    if forced:
        yield f"forced by {HOST_VARIABLE}={forced}; unset it to prefer an installed kit"
    else:
        yield f"chosen freely: the installed kit if there is one; {HOST_VARIABLE}=standin or =offlinerlkit forces one"


def _versions() -> Iterator[str]:
    from offlinerlkit_damo import __version__

    yield f"offlinerlkit_damo {__version__}"
    yield f"python {platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    for name, package in REQUIRED.items():
        yield _version_line(name, package, "needed")


def _version_line(name: str, package: str, purpose: str) -> str:
    """Version of an importable package, or how to get it; looks it up without importing it."""
    if importlib.util.find_spec(name) is None:
        return f'{name}: missing ({purpose}); run: pip install "{package}"'
    try:
        return f"{name} {metadata.version({'yaml': 'pyyaml'}.get(name, name))}"
    except metadata.PackageNotFoundError:
        return f"{name}: present, version not known"


def _devices() -> Iterator[str]:
    import torch

    from offlinerlkit_damo.cores import usable_cores

    yield f"cpu: {usable_cores()} cores for this process; torch would use {torch.get_num_threads()} threads, a run uses its --threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield f"cuda:{index}: {torch.cuda.get_device_name(index)}"
    elif torch.version.cuda is None:
        yield "cuda: this torch is built without it; for --device cuda install a CUDA build of torch"
    else:
        yield f"cuda: torch is built for CUDA {torch.version.cuda} but sees no device; check the driver"


def _simulators() -> Iterator[str]:
    from offlinerlkit_damo.tasks import make_env

    for env_id in SIMULATORS:
        try:
            env = make_env(env_id)
            env.close()
        except Exception as error:  # one broken simulator must not hide the others
            yield f"{env_id}: {_failure(error)}"
        else:
            yield f"{env_id}: works"


def _generated() -> Iterator[str]:
    from offlinerlkit_damo.tasks import snapshots
    from offlinerlkit_damo.tasks.cache import cache_dir

    robots = sorted(path.stem for path in snapshots.FOLDER.glob("*.npz"))
    yield f"behaviour policies for {', '.join(robots) or 'no robot'}; of other robots only the random task can be made"
    folder = cache_dir() / "datasets" / "generated"
    files = sorted(folder.glob("*.hdf5"))
    for path in files:
        yield f"{path} ({_size(path)})"
    if not files:
        task = f"{robots[0]}-medium-expert" if robots else "hopper-random"
        yield f"none in {folder} yet; a run makes its own, or run: python -m offlinerlkit_damo data make {task}"


def _d4rl_files() -> Iterator[str]:
    from offlinerlkit_damo.tasks.d4rl import FOLDER_VARIABLE, d4rl_file, d4rl_folder
    from offlinerlkit_damo.tasks.task import get_task, list_tasks

    folder = d4rl_folder()
    tasks = {d4rl_file(get_task(name)): name for name in list_tasks("d4rl")}
    files = sorted(folder.glob("*.hdf5"))
    for path in files:
        use = f"--task {tasks[path.name]}" if path.name in tasks else "--data"
        yield f"{path} ({_size(path)}); learn from it with {use}"
    if not files:
        yield f"none in {folder}; --task hopper-medium-v2 fetches D4RL's file into it ({FOLDER_VARIABLE} names another folder)"


def _dynamics() -> Iterator[str]:
    from offlinerlkit_damo.tasks.cache import cache_dir

    folder = cache_dir() / "dynamics"
    models = sorted(path for path in folder.glob("*") if (path / "dynamics.pth").is_file())
    for path in models:
        yield f"{path} ({_size(path)}{_quality(path)})"
    if not models:
        yield f"none in {folder} yet; a run trains its own and keeps it there"


def _quality(folder: Path) -> str:
    try:
        error = json.loads((folder / "facts.json").read_text(encoding="utf-8"))["holdout_mse"]
        return f", holdout MSE {error:.3g}"
    except (OSError, ValueError, KeyError, TypeError):
        return ", facts.json missing or unreadable: remove the folder to have it trained again"


def _disk() -> Iterator[str]:
    from offlinerlkit_damo.tasks.cache import CACHE_VARIABLE, cache_dir

    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    yield f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free for the cache {folder}"
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield f"{existing} cannot be written to; set {CACHE_VARIABLE} to a folder that you may write to"


def _optional() -> Iterator[str]:
    for name, (package, purpose) in OPTIONAL.items():
        yield _version_line(name, package, purpose)


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [inner for inner in path.rglob("*") if inner.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 2**20:.1f} MiB"
