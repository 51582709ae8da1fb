"""Which host this process runs on: the installed OfflineRL-Kit, or the stand-in that ships with this package."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from . import contract
from .shim import legacy_modules

HOST_VARIABLE = "OFFLINERLKIT_DAMO_HOST"
HOSTS = ("standin", "offlinerlkit")
OR_STANDIN = f"or set {HOST_VARIABLE}=standin to run on the bundled stand-in"

# every name the plugin takes from the host, and the kit's module that defines it
EXPORTS: dict[str, str] = {
    "BasePolicy": "policy",
    "SACPolicy": "policy",
    "MOPOPolicy": "policy",
    "MOBILEPolicy": "policy",
    "CQLPolicy": "policy",
    "COMBOPolicy": "policy",
    "RAMBOPolicy": "policy",
    "MBPolicyTrainer": "policy_trainer",
    "EnsembleDynamics": "dynamics",
    "EnsembleDynamicsModel": "modules",
    "ActorProb": "modules",
    "Critic": "modules",
    "TanhDiagGaussian": "modules",
    "MLP": "nets",
    "ReplayBuffer": "buffer",
    "StandardScaler": "utils.scaler",
    "get_termination_fn": "utils.termination_fns",
    "qlearning_dataset": "utils.load_dataset",
    "Logger": "utils.logger",
    "make_log_dirs": "utils.logger",
}


@dataclass(frozen=True)
class Host:
    """The host in use, for run records and bug reports."""

    name: str  # "offlinerlkit" or "standin"
    version: str  # its distribution's version, "unknown" for a bare folder on the path
    path: str  # the folder it was imported from
    commit: str | None  # the git commit, where it was installed from git or is a checkout


def load_host(choice: str | None = None) -> tuple[Host, dict[str, Any]]:
    """Import a host and return its description and its `EXPORTS` by name.

    Args:
        choice: "standin", "offlinerlkit", or None / "" for the installed kit if there is one, else the stand-in.

    Raises:
        ImportError: unknown choice, "offlinerlkit" asked for but not installed, or an installed kit that fails to
            import or does not keep the contract (`contract.misfit`), as that of another commit. A broken kit is never replaced
            silently by the stand-in: results would change without notice.
    """
    if choice and choice not in HOSTS:
        raise ImportError(f"{HOST_VARIABLE}={choice!r} is not a host; use one of {', '.join(HOSTS)}, or unset it")
    installed = choice != "standin" and _installed()
    if choice == "offlinerlkit" and not installed:
        raise ImportError(
            f"{HOST_VARIABLE}=offlinerlkit, but offlinerlkit is not installed; install it "
            "(pip install --no-deps git+https://github.com/yihaosun1124/OfflineRL-Kit) or unset the variable"
        )
    return _load_kit() if installed else _load_standin()


def _installed() -> bool:
    if "offlinerlkit" in sys.modules:
        return True
    try:
        return importlib.util.find_spec("offlinerlkit") is not None
    except (ImportError, ValueError):
        return False


def _load_standin() -> tuple[Host, dict[str, Any]]:
    standin = importlib.import_module(".standin", __package__)
    folder = str(Path(str(standin.__file__)).parent)
    return Host("standin", standin.__version__, folder, None), {name: getattr(standin, name) for name in EXPORTS}


def _load_kit() -> tuple[Host, dict[str, Any]]:
    before = set(sys.modules)
    names: dict[str, Any] = {}
    step = "offlinerlkit"
    try:
        with legacy_modules():
            package = importlib.import_module("offlinerlkit")
            for name, module in EXPORTS.items():
                step = f"offlinerlkit.{module}.{name}"
                names[name] = getattr(importlib.import_module(f"offlinerlkit.{module}"), name)
    except Exception as error:
        _forget_kit(before)
        raise ImportError(
            f"the installed offlinerlkit does not import ({step}: {type(error).__name__}: {error}); "
            f"repair it (its commit {contract.COMMIT} fits) or uninstall it, {OR_STANDIN}"
        ) from error
    folder = Path(str(package.__file__)).resolve().parent
    problem = contract.misfit(names)
    if problem is not None:
        _forget_kit(before)
        raise ImportError(
            f"the offlinerlkit in {folder} is of another version than this package needs: {problem}; "
            f"use its commit {contract.COMMIT}, {OR_STANDIN}"
        )
    version, installed_commit = _installation(folder)
    return Host("offlinerlkit", version, str(folder), _checkout_commit(folder.parent) or installed_commit), names


def _forget_kit(before: set[str]) -> None:
    """Undo a failed import: a half-imported kit would hide the cause from the next attempt. `before`: the modules there were."""
    for module in set(sys.modules) - before:
        if module.split(".")[0] == "offlinerlkit":
            del sys.modules[module]


def _installation(folder: Path) -> tuple[str, str | None]:
    """Version and git commit that pip recorded for the package in `folder`; ("unknown", None) where it did not."""
    try:
        distribution = metadata.distribution("offlinerlkit")
    except metadata.PackageNotFoundError:
        return "unknown", None
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    places = [Path(str(distribution.locate_file("offlinerlkit")))]
    if origin.get("url", "").startswith("file:"):  # an editable install
        places.append(Path(url2pathname(urlparse(origin["url"]).path)) / "offlinerlkit")
    if folder not in [place.resolve() for place in places]:
        return "unknown", None  # the record is about another copy
    return distribution.version, origin.get("vcs_info", {}).get("commit_id")


def _checkout_commit(root: Path) -> str | None:
    """The commit of the git checkout in `root`, None where there is none."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head[len("ref: ") :]
        if (git / ref).is_file():
            return (git / ref).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)
