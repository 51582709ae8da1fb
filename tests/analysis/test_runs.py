"""A loaded run of every model-based algorithm answers in the simulator's units, whatever its networks see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scripts import write_hopper_file

from offlinerlkit_damo.analysis.runs import Learned, find_runs
from offlinerlkit_damo.config import MODEL_BASED, readers, resolve
from offlinerlkit_damo.report.plot import run_names
from offlinerlkit_damo.tasks import config_task, resolve_dataset
from offlinerlkit_damo.training.dynamics import build_dynamics, seed_everything
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.run_folder import contestant_of, make_run_folder, run_facts
from offlinerlkit_damo.training.scaling import standardised

SIZES: dict[str, Any] = {"hidden_dims": [8], "dynamics_hidden_dims": [8], "dynamics_weight_decay": [0, 0], "rollout_length": 3}


@pytest.mark.parametrize("algo", MODEL_BASED)
def test_values_and_rollouts_are_in_the_simulators_units(algo: str, tmp_path: Path) -> None:
    data = write_hopper_file(tmp_path / "data.hdf5", 120)
    given = {**SIZES, "algo_name": algo, "task": "hopper-medium", "data": str(data)}
    config = resolve({name: value for name, value in given.items() if algo in readers(name)})
    task = config_task(config)
    dataset = resolve_dataset(task, config.data)
    seen, scaler = standardised(dataset) if algo == "rambo" else (dataset, None)
    seed_everything(0)
    dynamics = build_dynamics(config, 11, 3, scaler)
    dynamics.scaler.fit(np.concatenate([seen.observations, seen.actions], 1))
    policy: Any = build_policy(config, dynamics, 11, 3, scaler=scaler)[0]
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(run_facts(config, task, dataset)))
    dynamics.save(str(run / "model"))
    torch.save(policy.state_dict(), run / "model" / "policy.pth")

    learned = Learned(find_runs([str(run)])[0], dataset)
    policy.eval()
    critics = getattr(policy, "critics", None) or [policy.critic1, policy.critic2]
    with torch.no_grad():
        pairs = torch.from_numpy(seen.observations[:9].astype("f4")), torch.from_numpy(seen.actions[:9])
        expected = np.stack([critic(*pairs).squeeze(-1).numpy() for critic in critics])
    np.testing.assert_allclose(learned.q(dataset.observations[:9], dataset.actions[:9]), expected, rtol=1e-4, atol=1e-5)

    torch.manual_seed(1)
    ours = learned.act(dataset.observations[:9])
    torch.manual_seed(1)
    np.testing.assert_allclose(ours, policy.select_action(dataset.observations[:9]), atol=1e-5)

    imagined = learned.imagine()
    starts = imagined.observations[:2000]
    nearest = np.abs(starts[:50, None] - dataset.observations).max(-1).min(1)
    assert (nearest < 1e-4).all() and imagined.actions.shape[1] == 3 and imagined.groups.max() == 1999
    second = imagined.groups.tolist().index(imagined.groups[2000])
    np.testing.assert_allclose(imagined.next_observations[second], imagined.observations[2000], atol=1e-4)


@pytest.mark.parametrize("task", ["hopper-medium", "minari:mujoco/hopper/medium-v0", "neorl:Hopper-v3-low-10"])
def test_a_run_of_any_source_has_its_contestants_name(task: str, tmp_path: Path) -> None:
    """Names with slashes are one folder in the host's layout, too."""
    folder = make_run_folder(resolve({"task": task, "logdir": str(tmp_path / "out" / "runs" / "ours")}))
    assert contestant_of(folder) is None
    (tmp_path / "out" / "plan.yaml").touch()
    assert contestant_of(folder) == "ours" and len(folder.relative_to(tmp_path).parts) == 6
    assert run_names([folder]) == ["ours, seed 1"]
