"""Train a SAC behaviour policy in a Gymnasium MuJoCo task and keep snapshots of its actor.

The snapshots are what the D4RL recipe for generated datasets needs: an early one is the `medium` policy, the best late one the
`expert`, and the whole series rolled out in training order stands for the `medium-replay` buffer. A run continues from its own
checkpoint, so it can be stopped at any time.

    python run_example/train_behaviour.py --env Hopper-v4 --steps 1000000 --out behaviour/hopper
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import torch
from torch import Tensor

from offlinerlkit_damo.files import replacing, save_json, save_torch

GAMMA, TAU, LEARNING_RATE, HIDDEN = 0.99, 0.005, 3e-4, 256
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
NAMES = ("w0", "b0", "w1", "b1", "w2", "b2")


def mlp(ensemble: int, inputs: int, outputs: int) -> list[Tensor]:
    """Stacked weights of `ensemble` two-layer networks, [E, in, out] and [E, 1, out] in turn."""
    params = []
    for i, o in ((inputs, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, outputs)):
        bound = 1 / math.sqrt(i)
        params += [torch.empty(ensemble, rows, o).uniform_(-bound, bound).requires_grad_() for rows in (i, 1)]
    return params


def forward(params: list[Tensor], x: Tensor) -> Tensor:
    """x [B, in] -> [E, B, out]."""
    x = x.expand(params[0].shape[0], -1, -1)
    hidden = torch.relu(torch.baddbmm(params[1], x, params[0]))
    hidden = torch.relu(torch.baddbmm(params[3], hidden, params[2]))
    return torch.baddbmm(params[5], hidden, params[4])


def sample_action(params: list[Tensor], obss: Tensor) -> tuple[Tensor, Tensor]:
    """Reparameterised tanh-Gaussian action [B, A] and its log-probability [B]."""
    mu, log_std = forward(params, obss)[0].chunk(2, -1)
    log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
    noise = torch.randn_like(mu)
    actions = torch.tanh(mu + log_std.exp() * noise)
    log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - torch.log(1 - actions**2 + 1e-6)
    return actions, log_prob.sum(-1)


class NumpyActor:
    """The actor for one observation at a time: numpy's matrix-vector products cost a tenth of torch's."""

    def __init__(self, params: list[Tensor]) -> None:
        self.weights = [p.detach()[0].numpy() for p in params]  # shares memory with the parameters

    def __call__(self, obs: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        w0, b0, w1, b1, w2, b2 = self.weights
        hidden = np.maximum(obs.astype(np.float32) @ w0 + b0[0], 0)
        mu, log_std = np.split(np.maximum(hidden @ w1 + b1[0], 0) @ w2 + b2[0], 2)
        if rng is None:
            return np.tanh(mu)
        std = np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
        return np.tanh(mu + std * rng.standard_normal(mu.shape, dtype=np.float32))


def evaluate(env: gymnasium.Env, actor: NumpyActor, episodes: int) -> dict[str, float]:
    """Mean undiscounted return of the deterministic and of the stochastic policy, on fixed seeds."""
    means = {}
    for mode in ("deterministic", "stochastic"):
        rng = np.random.default_rng(0) if mode == "stochastic" else None
        returns = []
        for episode in range(episodes):
            obs, _ = env.reset(seed=10_000 + episode)
            total, done = 0.0, False
            while not done:
                obs, reward, terminated, truncated, _ = env.step(actor(obs, rng))
                total, done = total + float(reward), terminated or truncated
            returns.append(total)
        means[mode] = float(np.mean(returns))
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v4", help="Gymnasium MuJoCo environment")
    parser.add_argument("--steps", type=int, default=1_000_000, help="environment steps in all")
    parser.add_argument("--start-steps", type=int, default=10_000, help="uniformly random steps before learning")
    parser.add_argument("--batch-size", type=int, default=128, help="transitions per gradient step")
    parser.add_argument("--actor-every", type=int, default=2, help="critic steps per actor step")
    parser.add_argument("--snapshot-every", type=int, default=10_000, help="steps between snapshots and evaluations")
    parser.add_argument("--checkpoint-every", type=int, default=50_000, help="steps between resumable checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything but the evaluation")
    parser.add_argument("--out", type=Path, required=True, help="folder for snapshots, log.json and the checkpoint")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    env, eval_env = gymnasium.make(args.env), gymnasium.make(args.env)
    obs_dim, action_dim = env.observation_space.shape[0], env.action_space.shape[0]

    actor, critic = mlp(1, obs_dim, 2 * action_dim), mlp(2, obs_dim + action_dim, 1)
    target = [p.detach().clone() for p in critic]
    log_alpha = torch.zeros(1, requires_grad=True)
    optimisers = {
        name: torch.optim.Adam(params, LEARNING_RATE, fused=True)
        for name, params in (("actor", actor), ("critic", critic), ("alpha", [log_alpha]))
    }
    buffer = torch.zeros(args.steps, 2 * obs_dim + action_dim + 2)
    start, log, seconds_before = 0, [], 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        with torch.no_grad():
            for mine, theirs in zip((*actor, *critic, *target, log_alpha), saved["weights"], strict=True):
                mine.copy_(theirs)
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(saved["optimisers"][name])
        start, log = saved["step"], saved["log"]
        seconds_before = log[-1]["seconds"] if log else 0.0
        buffer[:start] = saved["buffer"]
    rng = np.random.default_rng([args.seed, start])
    act = NumpyActor(actor)

    def update(step: int) -> None:
        rows = torch.as_tensor(rng.integers(0, step + 1, args.batch_size))
        obss, actions, next_obss, rewards, terminals = buffer[rows].split([obs_dim, action_dim, obs_dim, 1, 1], 1)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, next_log_prob = sample_action(actor, next_obss)
            next_q = forward(target, torch.cat([next_obss, next_actions], 1)).squeeze(-1).min(0)[0]
            goal = rewards[:, 0] + GAMMA * (1 - terminals[:, 0]) * (next_q - alpha * next_log_prob)
        q = forward(critic, torch.cat([obss, actions], 1)).squeeze(-1)
        critic_loss = ((q - goal) ** 2).mean(1).sum()
        optimisers["critic"].zero_grad()
        critic_loss.backward()
        optimisers["critic"].step()
        if step % args.actor_every == 0:
            for p in critic:
                p.requires_grad_(False)
            new_actions, log_prob = sample_action(actor, obss)
            new_q = forward(critic, torch.cat([obss, new_actions], 1)).squeeze(-1).min(0)[0]
            optimisers["actor"].zero_grad()
            (alpha * log_prob - new_q).mean().backward()
            optimisers["actor"].step()
            for p in critic:
                p.requires_grad_(True)
            optimisers["alpha"].zero_grad()
            (-log_alpha.exp() * (log_prob.detach() - action_dim).mean()).backward()
            optimisers["alpha"].step()
        with torch.no_grad():
            torch._foreach_lerp_(target, critic, TAU)

    obs, _ = env.reset(seed=args.seed + start)
    began = time.time()
    for step in range(start, args.steps):
        random = step < args.start_steps
        action = rng.uniform(-1, 1, action_dim).astype(np.float32) if random else act(obs, rng)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        row = np.concatenate([obs, action, next_obs, [reward, terminated]])
        buffer[step] = torch.from_numpy(row.astype(np.float32))
        obs = env.reset()[0] if terminated or truncated else next_obs
        if not random:
            update(step)
        done = step + 1
        if done % args.snapshot_every == 0:
            log.append({"step": done, "seconds": round(seconds_before + time.time() - began), **evaluate(eval_env, act, 5)})
            print(json.dumps(log[-1]), flush=True)
            with replacing(args.out / f"actor_{done:07d}.npz") as path:
                np.savez(path, **dict(zip(NAMES, act.weights, strict=True)))
            save_json(log, args.out / "log.json")
        if done % args.checkpoint_every == 0 or done == args.steps:
            state = {
                "weights": [p.detach() for p in (*actor, *critic, *target, log_alpha)],
                "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
                "step": done,
                "log": log,
                "buffer": buffer[:done].clone(),
            }
            save_torch(state, checkpoint)


if __name__ == "__main__":
    main()
