"""Which host is used, and what happens when it cannot be."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo import kit, patching
from offlinerlkit_damo.kit import contract, shim
from offlinerlkit_damo.kit import host as seam
from offlinerlkit_damo.kit.shim import legacy_modules

ROOT = Path(kit.__file__).parents[2]
SHOW = "import offlinerlkit_damo.kit as k; print(k.HOST.name, k.HOST.commit, k.MOPOPolicy.__module__)"


def run(code: str, *path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", seam.HOST_VARIABLE)}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path])), "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def text_of(name: str, arguments: dict[str, str]) -> str:
    """The source of an export of the contract that does nothing; `arguments` replaces those of some paths (`contract.ARGUMENTS`)."""
    takes = {
        path: ", ".join(f"{argument}=None" if argument in expected.defaults else argument for argument in expected.names)
        for path, expected in contract.ARGUMENTS.items()
    }
    takes |= arguments
    lines = [f"class {name}:", f"    def __init__(self, {takes.get(name, '')}): pass"]
    for method in contract.METHODS.get(name, "").split():
        lines.append(f"    def {method}({takes.get(f'{name}.{method}', 'self')}): pass")
    return "\n".join(lines)


def fake_kit(folder: Path, arguments: dict[str, str] | None = None, **broken: str) -> Path:
    """A package `offlinerlkit` that keeps the contract, but for other `arguments`; `broken` replaces the text of some modules."""
    texts: dict[str, list[str]] = {}
    for name, module in seam.EXPORTS.items():
        texts.setdefault(module, ["import gym", "from gym.envs.mujoco import mujoco_env"]).append(text_of(name, arguments or {}))
    for module, lines in texts.items():
        path = folder / "offlinerlkit" / (module.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(broken.get(module, "\n".join(lines)))
    for package in ("offlinerlkit", "offlinerlkit/utils"):
        (folder / package / "__init__.py").write_text("")
    return folder


def test_all_names_are_exported() -> None:
    assert set(seam.EXPORTS) | {"HOST", "Host", "RunLogger"} == set(kit.__all__)
    assert all(getattr(kit, name) is not None for name in kit.__all__)


def test_host_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        kit.HOST.name = "other"  # type: ignore[misc]


def test_standin_can_be_forced_although_a_kit_is_there(tmp_path: Path) -> None:
    """And importing it leaves the process alone: no placeholder, no slow optional package, no argv, no threads."""
    code = f"""
import sys, torch
threads, argv = torch.get_num_threads(), list(sys.argv)
{SHOW}
assert torch.get_num_threads() == threads and sys.argv == argv
assert not [m for m in sys.modules if m.split('.')[0] in ('gym', 'd4rl', 'tensorboard', 'offlinerlkit')]
"""
    result = run(code, fake_kit(tmp_path), **{seam.HOST_VARIABLE: "standin"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("standin None offlinerlkit_damo.kit.standin")


def test_an_installed_kit_is_preferred(tmp_path: Path) -> None:
    result = run(SHOW, fake_kit(tmp_path))
    assert result.stdout.split() == ["offlinerlkit", "None", "offlinerlkit.policy"], result.stderr


@pytest.mark.parametrize("value", ["kit", "Standin", "0"])
def test_an_unknown_host_is_refused(value: str) -> None:
    with pytest.raises(ImportError, match=rf"OFFLINERLKIT_DAMO_HOST='{value}' .*standin, offlinerlkit"):
        seam.load_host(value)


def test_the_variable_is_read_at_import() -> None:
    result = run(SHOW, **{seam.HOST_VARIABLE: "nonsense"})
    assert result.returncode == 1
    assert "ImportError: OFFLINERLKIT_DAMO_HOST='nonsense' is not a host" in result.stderr


def test_a_forced_kit_that_is_absent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "_installed", lambda: False)
    with pytest.raises(ImportError, match="offlinerlkit is not installed; install it"):
        seam.load_host("offlinerlkit")
    assert seam.load_host("")[0].name == "standin"


def test_a_broken_kit_is_an_error_that_names_the_cause(tmp_path: Path) -> None:
    result = run(SHOW, fake_kit(tmp_path, dynamics="import a_module_that_is_missing"))
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "offlinerlkit does not import" in last
    assert "No module named 'a_module_that_is_missing'" in last
    assert "OFFLINERLKIT_DAMO_HOST=standin" in last


def test_a_kit_without_one_of_the_names_is_broken(tmp_path: Path) -> None:
    result = run(SHOW, fake_kit(tmp_path, buffer="x = 1"))
    assert "offlinerlkit.buffer.ReplayBuffer" in result.stderr.strip().splitlines()[-1]


def misfit(path: str, arguments: str) -> str | None:
    """What is wrong with a host of which one export, or one method, has other arguments."""
    names: dict[str, Any] = {}
    for name in seam.EXPORTS:
        exec(text_of(name, {path: arguments}), names)
    return contract.misfit(names)


MOPO = "dynamics, actor, critic1, critic2, actor_optim, critic1_optim, critic2_optim"
MOBILE = "dynamics, actor, critics, actor_optim, critics_optim"


@pytest.mark.parametrize(
    ("path", "arguments", "problem"),
    [
        ("MOPOPolicy", f"{MOPO}, tau=0, gamma=0", "takes no argument 'alpha'"),
        ("MOPOPolicy", f"{MOPO}, penalty, tau=0, gamma=0, alpha=0", "needs an argument 'penalty', which is not known here"),
        ("ActorProb", "dist_net, backbone, device=0", "does not take 'backbone' as its 1. argument"),
        ("EnsembleDynamics.train", "self, data, logger, max_epochs=0", "takes no argument 'max_epochs_since_update'"),
        ("Critic", "backbone, layers=2, device=0", "does not take 'device' as its 2. argument"),
        ("make_log_dirs", "task_name, algo_name, seed, args, record_params", "has no default for its argument 'record_params'"),
    ],
)
def test_a_host_whose_arguments_differ_does_not_fit(path: str, arguments: str, problem: str) -> None:
    assert misfit(path, arguments) == f"{path} {problem}"


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("MOPOPolicy", f"{MOPO}, extra=1, tau=0, gamma=0, alpha=0"),
        ("MOPOPolicy", f"{MOPO}, tau=0, gamma=0, alpha=0, *, extra=1"),
        ("MOPOPolicy", "dynamics, *args, **kwargs"),
        ("MOBILEPolicy", f"{MOBILE}, **kwargs"),
        ("Critic", "backbone, device=0, layers=2"),
    ],
)
def test_a_host_that_takes_more_fits(path: str, arguments: str) -> None:
    assert misfit(path, arguments) is None


def test_a_host_without_one_of_the_methods_does_not_fit() -> None:
    class Bare: ...

    assert contract.misfit(dict.fromkeys(seam.EXPORTS, Bare)) == "SACPolicy has no method train"


def test_the_commands_say_in_one_line_that_the_kit_does_not_fit(tmp_path: Path) -> None:
    """A run says so before it trains anything; the doctor in its section about the host, and goes on with the others."""
    fake_kit(tmp_path, {"MOBILEPolicy": f"{MOBILE}, tau=0, gamma=0, alpha=0"})
    call = "import runpy, sys; sys.argv[1:] = {!r}; runpy.run_module('offlinerlkit_damo', run_name='__main__')"
    arguments = ["train", "--algo-name", "mobile", "--task", "hopper-medium-replay", "--logdir", str(tmp_path / "log")]
    trained = run(call.format(arguments), tmp_path)
    assert trained.returncode == 2
    assert trained.stderr == (
        f"error: the offlinerlkit in {tmp_path / 'offlinerlkit'} is of another version than this package needs: MOBILEPolicy takes no "
        f"argument 'penalty_coef'; use its commit {contract.COMMIT}, or set OFFLINERLKIT_DAMO_HOST=standin to run on the bundled stand-in\n"
    )
    assert not (tmp_path / "log").exists()
    report = run(call.format(["doctor"]), tmp_path).stdout.splitlines()
    assert report[0] == "host"
    assert report[1].startswith("  failed: the offlinerlkit in") and "MOBILEPolicy takes no argument" in report[1]
    assert "versions" in report


def test_the_commit_that_fits_is_the_one_that_is_patched() -> None:
    assert patching.COMMIT.startswith(contract.COMMIT)


def test_after_a_failure_the_next_attempt_starts_afresh(tmp_path: Path) -> None:
    fake_kit(tmp_path, buffer="raise RuntimeError('first')")
    code = f"""
from pathlib import Path
try:
    import offlinerlkit_damo.kit
except ImportError as error:
    assert 'RuntimeError: first' in str(error)
Path({str(tmp_path / "offlinerlkit/buffer.py")!r}).write_text({text_of("ReplayBuffer", {})!r})
import offlinerlkit_damo.kit as k
print(k.HOST.name)
"""
    result = run(code, tmp_path)
    assert result.stdout.strip() == "offlinerlkit", result.stderr


@pytest.mark.parametrize("packed", [False, True])
def test_the_commit_of_a_checkout_is_recorded(tmp_path: Path, packed: bool) -> None:
    fake_kit(tmp_path)
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    if packed:
        (git / "packed-refs").write_text(f"# pack-refs with: peeled\n{'b' * 40} refs/heads/main\n")
    else:
        (git / "refs/heads/main").write_text("b" * 40 + "\n")
    result = run(SHOW, tmp_path)
    assert result.stdout.split()[:2] == ["offlinerlkit", "b" * 40], result.stderr


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_pip_recorded_is_used_for_that_copy_only(tmp_path: Path, elsewhere: bool) -> None:
    installed = tmp_path / "site"
    fake_kit(installed)
    record = installed / "offlinerlkit-9.9.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: offlinerlkit\nVersion: 9.9\n")
    origin = {"url": "https://host/kit", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}
    (record / "direct_url.json").write_text(json.dumps(origin))
    path = [fake_kit(tmp_path / "other")] if elsewhere else []
    result = run(f"{SHOW}; print(k.HOST.version)", *path, installed)
    expected = ["None", "unknown"] if elsewhere else ["c" * 40, "9.9"]
    assert [result.stdout.split()[i] for i in (1, 3)] == expected, result.stderr


def test_a_real_gym_is_used(tmp_path: Path) -> None:
    fake_kit(tmp_path)
    gym = tmp_path / "gym" / "envs" / "mujoco"
    gym.mkdir(parents=True)
    for folder in (gym, gym.parent, gym.parent.parent):
        (folder / "__init__.py").write_text("real = True")
    (gym / "mujoco_env.py").write_text("class MujocoEnv: pass")
    code = SHOW + "; import offlinerlkit.policy as p, sys; print(p.gym.real, p.gym is sys.modules['gym'])"
    result = run(code, tmp_path)
    assert result.stdout.splitlines()[-1] == "True True", result.stderr


def test_only_the_part_of_gym_that_fails_is_replaced(tmp_path: Path) -> None:
    fake_kit(tmp_path)
    mujoco = tmp_path / "gym" / "envs" / "mujoco"
    mujoco.mkdir(parents=True)
    (mujoco / "__init__.py").write_text("raise ImportError('you need mujoco_py')")
    for folder in (mujoco.parent, mujoco.parent.parent):
        (folder / "__init__.py").write_text("real = True")
    show = "; import offlinerlkit.policy as p, sys; print(p.gym.real, 'gym.envs.mujoco' in sys.modules)"
    result = run(SHOW + show, tmp_path)
    assert result.stdout.splitlines()[-1] == "True False", result.stderr


def test_without_any_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shim, "_importable", lambda name: None)
    with legacy_modules():
        gym = importlib.import_module("gym")
        assert gym.spaces.Space is gym.Space
        with pytest.raises(ImportError, match=r"gym\.Env is a placeholder"):
            gym.Env()


def test_placeholders_do_not_stay_importable() -> None:
    with legacy_modules() as placeholders:
        for name in placeholders:
            assert name in sys.modules
        assert importlib.import_module("gym").Env is not None
        assert importlib.import_module("gym.envs.mujoco.mujoco_env").MujocoEnv is not None
    assert not set(placeholders) & set(sys.modules)


def test_a_placeholder_class_says_that_it_is_one() -> None:
    with legacy_modules() as placeholders:
        if "gym.envs.mujoco.mujoco_env" not in placeholders:
            pytest.skip("a real gym with MuJoCo is installed")
        mujoco_env = importlib.import_module("gym.envs.mujoco.mujoco_env")
        with pytest.raises(ImportError, match=r"MujocoEnv is a placeholder"):
            mujoco_env.MujocoEnv()
