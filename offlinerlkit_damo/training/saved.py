"""A trained policy from its run folder alone: to act with, and to evaluate."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offlinerlkit_damo.config import check_seed
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.kit import MLP, ActorProb, TanhDiagGaussian
from offlinerlkit_damo.tasks import SimulatorEnv, Task, file_task, get_task, make_env
from offlinerlkit_damo.training import checkpoint
from offlinerlkit_damo.training.dynamics import seed_everything
from offlinerlkit_damo.training.run_folder import read_facts

Statistics = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean and deviation of observations, [1, d] each."""
AT_ONCE = 100  # episodes in lock-step; each has a simulator
WEIGHTS = (Path("model") / "policy.pth", Path("checkpoint") / "policy.pth")
"""Where the host's layout keeps a policy: at the end of a run, and at its last evaluation."""


class SavedPolicy:
    """The actor of a saved policy. Build it with `load_policy`.

    Attributes:
        task: the task it was trained for, None if its folder does not say or names an unknown one.
        algo_name: the algorithm that trained it, None likewise.
        obs_dim, action_dim: d and a.
    """

    def __init__(
        self, state: Mapping[str, Tensor], *, task: Task | None, algo_name: str | None, statistics: Statistics | None = None
    ) -> None:
        """`state`: a policy's state dict; the sizes of its actor's networks are those of its weights. `statistics` of standardised ones."""
        self.task, self.algo_name = task, algo_name
        actor = {name.removeprefix("actor."): value for name, value in state.items() if name.startswith("actor.")}
        layers = [actor[f"backbone.model.{i}.weight"] for i in sorted(_layers(actor))]
        if not layers or "dist_net.mu.weight" not in actor:
            raise ValueError("it has no actor of the kit's: an MLP with a tanh-Gaussian on top")
        self.obs_dim, self.action_dim = layers[0].shape[1], actor["dist_net.mu.weight"].shape[0]
        widths = [len(weight) for weight in layers]
        dist = TanhDiagGaussian(
            latent_dim=widths[-1],
            output_dim=self.action_dim,
            unbounded=True,
            conditioned_sigma="dist_net.sigma.weight" in actor,
        )
        self._actor = ActorProb(MLP(input_dim=self.obs_dim, hidden_dims=widths), dist, "cpu")
        self._actor.load_state_dict(actor)
        self._actor.eval()
        self._statistics = statistics
        if algo_name == "rambo" and statistics is None:
            raise ValueError("a policy of RAMBO sees standardised observations, whose statistics are in its run's folder alone (run.json)")

    @torch.no_grad()
    def select_action(self, obs: NDArray[Any], deterministic: bool = True) -> NDArray[np.float32]:
        """obs [B, d] or [d] -> actions f32 [B, a] or [a]: the mode of the policy, or a sample (torch's global generator)."""
        obs = np.asarray(obs, np.float32)
        if obs.shape[-1:] != (self.obs_dim,):
            raise ValueError(f"observations {obs.shape} given, the policy takes [..., {self.obs_dim}]")
        if self._statistics is not None:
            obs = ((obs - self._statistics[0]) / self._statistics[1]).astype(np.float32).reshape(obs.shape)
        dist = self._actor(obs)
        squashed, _ = dist.mode() if deterministic else dist.rsample()
        actions: NDArray[np.float32] = squashed.numpy()
        return actions

    def deterministic(self) -> DeterministicPolicy:
        """The mode as a module of its own, on the same weights."""
        return DeterministicPolicy(self._actor, self._statistics)


class DeterministicPolicy(nn.Module):
    """The mode of a saved policy as a plain module: observations f32 [B, d] -> actions f32 [B, a], any standardisation included."""

    mean: Tensor
    std: Tensor

    def __init__(self, actor: ActorProb, statistics: Statistics | None) -> None:
        """`statistics` for an actor that sees standardised observations."""
        super().__init__()
        self.network = nn.Sequential(actor.backbone, cast(nn.Module, actor.dist_net.mu), nn.Tanh())
        mean, std = statistics or (np.zeros(1, np.float32), np.ones(1, np.float32))
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32))

    def forward(self, obs: Tensor) -> Tensor:
        """The module's function, see the class."""
        actions: Tensor = self.network((obs - self.mean) / self.std)
        return actions


def _layers(actor: Mapping[str, Tensor]) -> list[int]:
    found = (re.fullmatch(r"backbone\.model\.(\d+)\.weight", name) for name in actor)
    return [int(match[1]) for match in found if match]


def load_policy(run: str | Path) -> SavedPolicy:
    """The policy of a run folder of this package or of the kit (its last, else that of its last evaluation), or of one file of it.

    A file is a policy.pth or one of our checkpoints, such as checkpoint/best.ckpt: the policy of the run's best evaluation.

    Raises UserError for a folder without one, and for a file that holds something else.
    """
    path = Path(run)
    if path.is_dir():
        weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
        if weights is None:
            raise UserError(f"{str(path)!r} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}; give a run folder, or a policy.pth")
        origin = _origin(path)
    else:
        weights, origin = path, _origin(path.parent.parent)
    state = None
    if weights.suffix == ".ckpt":
        state, origin["algo_name"] = _checkpointed(weights)
    try:
        if state is None:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        if "obs_mu" in state and origin.get("statistics") is None:  # RAMBO's files once had them
            origin["statistics"] = state["obs_mu"].numpy(), state["obs_std"].numpy()
        return SavedPolicy(state, **origin)
    except Exception as error:  # a damaged file makes the unpickler fail in any way, and its words lead astray
        reason = " ".join(str(error).split())[:200] if state is not None else "it is damaged, not there, or no file of torch.save's"
        raise UserError(f"{str(weights)!r} holds no policy that can be used ({reason})") from error


def _checkpointed(path: Path) -> tuple[dict[str, Tensor], str]:
    """The weights that a run evaluates, from one of its checkpoints, the averaged actor's where there is one; and its algorithm."""
    content = checkpoint.read(path)
    state = content["state"]
    weights: dict[str, Tensor] = dict(state["policy"]["weights"])
    if "average" in state:
        names = [name for name in weights if name.startswith("actor.")]
        weights.update(zip(names, state["average"]["mean"], strict=True))
    return weights, str(json.loads(content["about"]["config"])["algo_name"])


def _origin(folder: Path) -> dict[str, Any]:
    """Task, algorithm and statistics of a run folder, by our run.json or the kit's record/hyper_param.json, which has no statistics."""
    found: dict[str, Any] = {"task": None, "algo_name": None}
    with suppress(UserError, KeyError, TypeError):
        content = read_facts(folder)
        known = content.get("standardised")
        statistics = known and tuple(np.asarray(known[name], np.float32)[None] for name in ("mean", "std"))
        return {"task": Task(**content["task"]), "algo_name": str(content["config"]["algo_name"]), "statistics": statistics}
    with suppress(OSError, ValueError, KeyError, TypeError, UserError):
        content = json.loads((folder / "record" / "hyper_param.json").read_text(encoding="utf-8"))
        found["algo_name"] = str(content["algo_name"])
        found["task"] = get_task(str(content["task"]))
    return found


def task_of(policy: SavedPolicy, task: str | None, env: str | None = None) -> Task:
    """The task called `task`, or that of the simulator `env`, or else the one that the policy's folder names. Raises UserError for none."""
    if env is not None:
        if task is not None:
            raise UserError(f"task {task} has a simulator of its own; leave --task or --env out")
        return file_task(env if policy.task is None else policy.task.name, env)
    spec = policy.task if task is None else get_task(task)
    if spec is None:
        raise UserError("the policy's folder does not say which task it was trained for; give --task, or a simulator with --env")
    return spec


def simulator_of(spec: Task, policy: SavedPolicy, view: Mapping[str, Any] | None = None) -> SimulatorEnv:
    """The task's simulator, `view` as for `make_env`. Raises UserError unless it has the policy's sizes."""
    env = make_env(spec, view=view)
    if env.sizes != (policy.obs_dim, policy.action_dim):
        env.close()
        raise UserError(
            f"the policy takes observations and actions of sizes {policy.obs_dim, policy.action_dim}, the simulator of {spec.name} has "
            f"{env.sizes}; give the --task or --env it was trained for"
        )
    return env


def evaluate(
    policy: SavedPolicy,
    *,
    task: str | None = None,
    env: str | None = None,
    episodes: int = 100,
    seed: int = 0,
    deterministic: bool = True,
) -> dict[str, Any]:
    """Play episodes seeded seed, seed + 1, ... in the task's simulator; returns what `python -m offlinerlkit_damo evaluate --json` writes.

    `task`, or `env`, the Gymnasium id of a simulator, stands for the task that the policy's folder names. Returns are undiscounted, scores
    D4RL's normalised points, or the returns again where no reference scores are known.
    """
    spec = task_of(policy, task, env)
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; it must be at least 1")
    check_seed(seed)
    seed_everything(seed)
    with closing(simulator_of(spec, policy)) as simulator:
        played = [
            simulator.run_episodes(
                lambda obss: policy.select_action(obss, deterministic=deterministic), range(first, min(first + AT_ONCE, seed + episodes))
            )
            for first in range(seed, seed + episodes, AT_ONCE)
        ]
        returns, lengths = (np.concatenate(parts) for parts in zip(*played, strict=True))
        scores = np.array([100 * simulator.get_normalized_score(value) for value in returns])
    return {
        "task": spec.name,
        "env_id": spec.env_id,
        "unit": spec.unit,
        "algo_name": policy.algo_name,
        "episodes": episodes,
        "seed": seed,
        "deterministic": deterministic,
        "mean_score": float(scores.mean()),
        "std_score": float(scores.std()),
        "mean_return": float(returns.mean()),
        "mean_length": float(lengths.mean()),
        "scores": scores.tolist(),
        "returns": returns.tolist(),
        "lengths": lengths.tolist(),
    }
