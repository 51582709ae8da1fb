"""A comparison on a Ray cluster: a machine is killed, its run goes on from its checkpoint on another, and ends as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from test_compare import of_another_commit

from offlinerlkit_damo.compare.local import LocalProcesses
from offlinerlkit_damo.compare.plan import jobs, make_plan
from offlinerlkit_damo.compare.runner import Status, run_plan
from offlinerlkit_damo.errors import Stopped, UserError
from offlinerlkit_damo.training.run_folder import read_facts

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from offlinerlkit_damo.compare.cluster import Luggage, Worker, ray_cluster  # noqa: E402

OPTIONS: dict[str, Any] = {
    "epoch": 60, "step_per_epoch": 20, "hidden_dims": [16], "eval_episodes": 1, "data_size": 300, "batch_size": 40,
    "dynamics_max_epochs": 1, "dynamics_hidden_dims": [16, 16], "dynamics_weight_decay": [0, 0, 0],
    "rollout_batch_size": 50, "rollout_length": 2, "rollout_freq": 7, "checkpoint_every": 1,
}  # fmt: skip
QUICK_TO_NOTICE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose head computes nothing."""
    monkeypatch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def only_run(out: Path, label: str) -> Path:
    (folder,) = out.glob(f"runs/{label}/*/*/seed_*")
    return folder


def test_a_run_survives_its_machine_and_its_comparison(cluster: Cluster, tmp_path: Path) -> None:
    plan = make_plan(["hopper-random"], ["damo"], 1, OPTIONS, {"mopo": {"algo_name": "mopo", "epoch": 3}})
    machines = [cluster.add_node(num_cpus=1)]
    seen: list[str] = []

    def disturb(every: Sequence[Status]) -> None:
        """Kill the first machine once a checkpoint has come from it, and the comparison once the run has gone on at the second."""
        damo, mopo = every
        assert damo.failures == mopo.failures == 0, "\n".join(path.read_text() for path in (tmp_path / "out" / "logs").iterdir())
        if not seen and damo.folder is not None and (damo.folder / "checkpoint" / "last.ckpt").exists():
            assert damo.state == "running" and mopo.state == "waiting"
            seen.append("killed")
            cluster.remove_node(machines.pop(), allow_graceful=False)
            machines.append(cluster.add_node(num_cpus=1))
        elif damo.losses and damo.state == "running" and damo.folder is not None and len(read_facts(damo.folder)["parts"]) == 2:
            raise Stopped("enough", code=0)

    with pytest.raises(Stopped, match="enough"), ray_cluster(cluster.address, at_once=None, gpu_share=None) as executor:
        run_plan(plan, tmp_path / "out", executor, show=disturb)
    assert seen == ["killed"]
    damo = only_run(tmp_path / "out", "damo")
    lost, stopped = read_facts(damo)["parts"]
    assert lost["ended"] is None and "stopped by SIGTERM" in stopped["exit"]

    assert len(list((tmp_path / "cache" / "dynamics").iterdir())) == 1  # for runs that go on with local processes

    of_another_commit(damo)
    with ray_cluster(cluster.address, at_once=1, gpu_share=None) as executor:
        every = run_plan(plan, tmp_path / "out", executor, show=lambda every: None, force=True)
    assert [status.state for status in every] == ["finished"] * 2
    parts = read_facts(damo)["parts"]
    assert len(parts) == 3 and parts[2]["exit"] == "finished"
    # the model was trained once, and its bits went to the other run
    assert not (only_run(tmp_path / "out", "mopo") / "record" / "dynamics_training_progress.csv").read_text()
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    assert rows["finished"].all() and rows["dynamics"].nunique() == 1
    assert rows.groupby("label").size().to_dict() == {"damo": 60, "mopo": 3}

    run_plan(make_plan(["hopper-random"], ["damo"], 1, OPTIONS), tmp_path / "other", LocalProcesses(1), show=lambda every: None)
    undisturbed = only_run(tmp_path / "other", "damo")
    tables = [pd.read_csv(run / "record" / "policy_training_progress.csv").drop(columns="eval/seconds") for run in (damo, undisturbed)]
    pd.testing.assert_frame_equal(*tables)
    weights = [torch.load(run / "model" / "policy.pth", weights_only=True) for run in (damo, undisturbed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    names = [{path.name for path in run.rglob("*") if "events" not in path.name} - {"run.lock"} for run in (damo, undisturbed)]
    assert names[0] == names[1]
    assert len(list((damo / "record" / "tb").iterdir())) == 2  # rows before this part, and after: no other part's


def test_a_worker_reports_what_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=":")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    broken = {"broken": {"algo_name": "damo", "load_dynamics_path": "nowhere"}}
    (job,) = jobs(make_plan(["hopper-random"], [], 1, OPTIONS, broken), tmp_path / "out")
    worker, log = Worker(), b""
    news = worker.start(job, Luggage(), None)
    while news.outcome is None:
        news = worker.look()
        log += news.log
    assert news.outcome == "failed" and b"nowhere" in log and not (tmp_path / "out").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_no_cluster_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"there is no Ray cluster at '127\.0\.0\.1:1'"), ray_cluster("127.0.0.1:1", at_once=1, gpu_share=1):
        pass
