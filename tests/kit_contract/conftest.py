"""Every contract test runs against every host: the stand-in always, the kit where it is importable.

A checkout of the kit that is not on the path can be named by the environment variable OFFLINERLKIT_PATH.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import offlinerlkit_damo.kit  # noqa: F401  settles this process's own host before another is loaded here
from offlinerlkit_damo.kit.host import load_host
from offlinerlkit_damo.kit.standin import cql, rambo

OBS, ACT = 3, 2  # d and A of all the small networks here


def _load(name: str) -> SimpleNamespace | None:
    folder = os.environ.get("OFFLINERLKIT_PATH")
    if folder:
        sys.path.insert(0, folder)
    try:
        if name == "offlinerlkit" and not _found():
            return None
        description, names = load_host(name)
    finally:
        if folder:
            sys.path.remove(folder)
    return SimpleNamespace(HOST=description, **names)


def _found() -> bool:
    from importlib.util import find_spec

    return find_spec("offlinerlkit") is not None


HOSTS = {name: _load(name) for name in ("standin", "offlinerlkit")}


def _host(name: str) -> Any:
    if HOSTS[name] is None:
        pytest.skip("OfflineRL-Kit is not importable (install it, or set OFFLINERLKIT_PATH to a checkout)")
    return HOSTS[name]


class Build:
    """Small objects of one host."""

    def __init__(self, host: Any) -> None:
        self.host = host

    def actor(self, **dist: Any) -> Any:
        backbone = self.host.MLP(OBS, [8, 8])
        options = {"unbounded": True, "conditioned_sigma": True, **dist}
        return self.host.ActorProb(backbone, self.host.TanhDiagGaussian(backbone.output_dim, ACT, **options))

    def critic(self) -> Any:
        return self.host.Critic(self.host.MLP(OBS + ACT, [8, 8]))

    def alpha(self, auto: bool) -> Any:
        """The argument `alpha`: a temperature that is learned, or a fixed one."""
        if not auto:
            return 0.3
        log_alpha = torch.full((1,), -1.0, requires_grad=True)
        return (-ACT, log_alpha, torch.optim.Adam([log_alpha], lr=1e-2))

    def twin_critics(self) -> tuple[Any, ...]:
        """Actor, both critics and their optimisers, as SAC and its kin take them."""
        networks = self.actor(), self.critic(), self.critic()
        return (*networks, *(torch.optim.Adam(m.parameters(), lr=1e-2) for m in networks))

    def sac(self, *, auto_alpha: bool = True, dynamics: Any = None) -> Any:
        """A SACPolicy, or a MOPOPolicy where there are dynamics."""
        options = {"tau": 0.1, "gamma": 0.9, "alpha": self.alpha(auto_alpha)}
        if dynamics is None:
            return self.host.SACPolicy(*self.twin_critics(), **options)
        return self.host.MOPOPolicy(dynamics, *self.twin_critics(), **options)

    def mobile(self, *, auto_alpha: bool = True, dynamics: Any = None, like_the_kit: bool = False, **options: Any) -> Any:
        """A MOBILEPolicy with three critics; `like_the_kit` floors the stand-in's targets as the kit does."""
        actor, critics = self.actor(), torch.nn.ModuleList(self.critic() for _ in range(3))
        optims = (torch.optim.Adam(m.parameters(), lr=1e-2) for m in (actor, critics))
        options = {"tau": 0.1, "gamma": 0.9, "alpha": self.alpha(auto_alpha), "num_samples": 4, **options}
        if like_the_kit and self.host.HOST.name == "standin":
            options["target_floor"] = 0.0
        return self.host.MOBILEPolicy(dynamics or self.dynamics(), actor, critics, *optims, **options)

    def cql(self, *, auto_alpha: bool = True, dynamics: Any = None, like_the_kit: bool = False, **options: Any) -> Any:
        """A CQLPolicy, or a COMBOPolicy where there are dynamics; `like_the_kit` gives the stand-in the kit's logsumexp."""
        options = {"tau": 0.1, "gamma": 0.9, "alpha": self.alpha(auto_alpha), "num_repeart_actions": 4, **options}
        options = {"action_space": Box(), "cql_weight": 2.0, "lagrange_threshold": 1.0, "cql_alpha_lr": 0.1, **options}
        if like_the_kit and self.host.HOST.name == "standin":
            options["legacy_logsumexp"] = True
        if dynamics is None:
            return self.host.CQLPolicy(*self.twin_critics(), **options)
        return self.host.COMBOPolicy(dynamics, *self.twin_critics(), **options)

    def rambo(self, *, auto_alpha: bool = True, dynamics: Any = None, adversary: Any = None, **options: Any) -> Any:
        """A RAMBOPolicy; `adversary` is the optimiser of the dynamics, Adam where there is none."""
        dynamics = dynamics or self.dynamics()
        options = {"tau": 0.1, "gamma": 0.9, "alpha": self.alpha(auto_alpha), **options}
        options = {"adv_weight": 0.5, "adv_train_steps": 6, "adv_rollout_batch_size": 10, "adv_rollout_length": 3, **options}
        adversary = adversary or torch.optim.Adam(dynamics.model.parameters(), lr=1e-2)
        return self.host.RAMBOPolicy(dynamics, *self.twin_critics(), adversary, **options)

    def model(self, **options: Any) -> Any:
        return self.host.EnsembleDynamicsModel(OBS, ACT, [8, 8], **{"weight_decays": [0.1, 0.2, 0.3], **options})

    def dynamics(self, model: Any = None, *, fitted: bool = True, lr: float = 1e-2, **options: Any) -> Any:
        model = self.model() if model is None else model
        scaler = self.host.StandardScaler()
        if fitted:
            scaler.fit(np.random.default_rng(5).normal(1.0, 2.0, (50, OBS + ACT)).astype(np.float32))
        optim = torch.optim.Adam(model.parameters(), lr=lr)
        return self.host.EnsembleDynamics(model, optim, scaler, options.pop("terminal_fn", never), **options)

    def buffer(self, size: int = 50, rows: int | None = None) -> Any:
        buffer = self.host.ReplayBuffer(size, (OBS,), np.float32, ACT, np.float32)
        if rows is not None:
            buffer.load_dataset(dataset(rows))
        return buffer

    def logger(self, folder: str) -> Any:
        outputs = {
            "consoleout_backup": "stdout",
            "policy_training_progress": "csv",
            "dynamics_training_progress": "csv",
            "tb": "tensorboard",
        }
        os.makedirs(folder, exist_ok=True)  # as make_log_dirs does
        return self.host.Logger(folder, outputs)


def never(obs: np.ndarray, act: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    return np.zeros((len(obs), 1), dtype=bool)


def dataset(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A linear system: learnable in a few epochs."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(rows, OBS)).astype(np.float32)
    act = rng.uniform(-1, 1, size=(rows, ACT)).astype(np.float32)
    return {
        "observations": obs,
        "actions": act,
        "next_observations": (0.9 * obs + act.sum(1, keepdims=True)).astype(np.float32),
        "rewards": obs.sum(1).astype(np.float32),
        "terminals": np.arange(rows) % 7 == 3,
    }


class Box:
    """An action space."""

    low = -np.ones(ACT, dtype=np.float32)
    high = np.ones(ACT, dtype=np.float32)
    shape = (ACT,)


class FakeEnv:
    """gym's old interface; odd episodes last 3 steps, even ones 2; score = return / 10 + 0.5."""

    def __init__(self) -> None:
        self.episode = 0
        self.t = 0
        self.actions: list[np.ndarray] = []

    def reset(self) -> np.ndarray:
        self.t = 0
        return np.zeros(OBS, dtype=np.float32)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        self.actions.append(action)
        self.t += 1
        done = self.t >= 2 + self.episode % 2
        reward = 1.5 + self.episode % 2
        self.episode += done
        return np.full(OBS, float(self.t), dtype=np.float32), reward, done, {}

    def get_normalized_score(self, value: float) -> float:
        return value / 10 + 0.5


class Noise:
    """Normal draws that both hosts see alike, although they draw in different shapes and orders.

    Row b, output o of the k-th draw is one number, whichever member or function it is drawn for. MOBILE's samples come from the kit in
    successive draws and from ours in one, of which sample k is the k-th.
    """

    def __init__(self) -> None:
        self.table = torch.randn(64, 128, OBS + 1)
        self.draws = 0

    def draw(self, rows: int, columns: int) -> torch.Tensor:
        self.draws += 1
        return self.table[self.draws - 1, :rows, :columns]

    def randn_like(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.draw(*x.shape[-2:]).expand_as(x).clone()

    def randn(self, *size: int, **_: Any) -> torch.Tensor:
        return torch.stack([self.draw(*size[-2:]) for _ in range(size[0])])[:, None].expand(size).clone()

    def torch_normal(self, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
        return (mean + std * self.draw(*mean.shape[-2:])).detach()

    def numpy_normal(self, size: Any) -> np.ndarray:
        return np.broadcast_to(self.draw(*size[-2:]).numpy(), size)


@pytest.fixture(params=list(HOSTS))
def host(request: pytest.FixtureRequest) -> Any:
    return _host(request.param)


@pytest.fixture
def build(host: Any) -> Build:
    return Build(host)


@pytest.fixture
def standin() -> Build:
    return Build(_host("standin"))


@pytest.fixture
def both() -> tuple[Build, Build]:
    """(the kit, the stand-in), for comparisons."""
    return Build(_host("offlinerlkit")), Build(_host("standin"))


class Plain(torch.optim.SGD):
    """Called as Adam is: steps of the gradient itself, so that a wrong factor in it shows in the weights. Adam's hardly depend on that."""

    def __init__(self, params: Any, lr: float, **_: Any) -> None:
        super().__init__(params, lr=lr)


@pytest.fixture(params=["adam", "sgd"])
def optimiser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two stands behind the name Adam, here and in both hosts."""
    if request.param == "sgd":
        for module in (torch.optim, cql, rambo):
            monkeypatch.setattr(module, "Adam", Plain)
    return str(request.param)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[Noise]:
    noise = Noise()
    monkeypatch.setattr(torch, "randn_like", noise.randn_like)
    monkeypatch.setattr(torch, "randn", noise.randn)
    monkeypatch.setattr(torch, "normal", noise.torch_normal)
    monkeypatch.setattr(np.random, "normal", noise.numpy_normal)
    yield noise


@pytest.fixture
def run_kit_script() -> Any:
    """Runs a script of the kit's run_example/ in a process of its own, `before` first; returns its output.

    Placeholders stand for the packages that it imports for its tasks.
    """
    folder = Path(_host("offlinerlkit").HOST.path).parent
    scripts = folder / "run_example"
    if not scripts.is_dir():
        pytest.skip("OfflineRL-Kit is installed without its scripts")

    def run(name: str, *flags: str, before: str = "") -> str:
        code = f"""if True:
            import runpy, sys, types
            from offlinerlkit_damo.kit.shim import legacy_modules
            sys.argv[:] = sys.argv[1:]
            sys.modules["d4rl"] = types.ModuleType("d4rl")
            {before}
            with legacy_modules():
                runpy.run_path(sys.argv[0], run_name="__main__")
        """
        path = os.pathsep.join(map(str, [Path(__file__).parents[2], folder]))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
        command = [sys.executable, "-c", code, str(scripts / name), *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def make_dataset() -> Any:
    return dataset


@pytest.fixture
def fake_env() -> FakeEnv:
    return FakeEnv()


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Fixed seeds, and a folder of its own for a test that writes."""
    torch.manual_seed(0)
    np.random.seed(0)
    monkeypatch.chdir(tmp_path)
