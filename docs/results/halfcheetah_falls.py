"""When a HalfCheetah's policy turns over: reward and pitch of ten episodes in blocks of 100 steps, of every run at the paths given.

    python docs/results/halfcheetah_falls.py falls.csv side/runs/*/halfcheetah-medium-expert

A pitch beyond 2 rad is on its back, below 0.5 upright.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import torch

from offlinerlkit_damo.analysis.runs import find_runs
from offlinerlkit_damo.files import replacing
from offlinerlkit_damo.training.saved import load_policy, simulator_of, task_of

EPISODES, BLOCK = 10, 100
PITCH = 1  # of an observation


def main() -> None:
    """Write a row an episode and block, and print a summary."""
    torch.set_num_threads(1)
    found = []
    for run in find_runs(sys.argv[2:]):
        policy = load_policy(run.folder)
        with closing(simulator_of(task_of(policy, None), policy)) as simulator:
            for episode in range(EPISODES):
                simulator.seed(episode)
                obs, done, step = simulator.reset(), False, 0
                while not done:
                    obs, reward, done, _ = simulator.step(policy.select_action(obs))
                    found.append((run.name, episode, BLOCK * (step // BLOCK) + 1, reward, float(obs[PITCH])))
                    step += 1
    table = pd.DataFrame(found, columns=["run", "episode", "from_step", "reward", "pitch"])
    blocks = table.groupby(["run", "episode", "from_step"], sort=False).mean().round(3).reset_index()
    with replacing(Path(sys.argv[1])) as temporary:
        blocks.to_csv(temporary, index=False)
    for name, ours in blocks.groupby("run", sort=False):
        lying = (ours["pitch"].abs() > 2).groupby(ours["episode"]).sum() * BLOCK
        upright = ours.loc[ours["pitch"].abs() < 0.5, "reward"].mean()
        print(f"{name}: {upright:.1f} a step while upright; steps on its back, by episode: {', '.join(map(str, lying))}")


if __name__ == "__main__":
    main()
