"""Plans: what they name, what they refuse, and the runs that they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo.compare.plan import jobs, make_plan, read_plan
from offlinerlkit_damo.errors import UserError

PLAN = """
tasks: [hopper-medium*, halfcheetah-random]
algos: [damo, odice]
variants: {mopo+da: {algo_name: mopo, data_alignment: 0.5, actor_lr: 3.0e-4}}
seeds: [3, 5]
options: {epoch: 7, rollout_length: 2}
"""


def test_a_plan_is_every_contestant_on_every_task_with_every_seed(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    every = jobs(read_plan(tmp_path / "plan.yaml"), tmp_path / "out")
    tasks = {"hopper-medium", "hopper-medium-replay", "hopper-medium-expert", "halfcheetah-random"}
    assert {(job.label, job.config.task, job.config.seed) for job in every} == {
        (label, task, seed) for label in ("damo", "odice", "mopo+da") for task in tasks for seed in (3, 5)
    }
    assert len(every) == 24 and all(job.config.epoch == 7 for job in every)
    for job in every:
        if job.label == "odice":
            continue  # it has no model: the rollouts' option is not for it
        # neighbours share the model of their seed, whatever the algorithm
        assert (job.config.rollout_length, job.config.model_seed) == (2, job.config.seed)
    (variant,) = {(job.config.damo.damo_alpha, job.config.actor_lr, job.config.algo_name) for job in every if job.label == "mopo+da"}
    assert variant == (0.5, 3e-4, "mopo")
    neighbours = [(a.config.task, a.config.seed) == (b.config.task, b.config.seed) for a, b in zip(every, every[1:], strict=False)]
    assert not any(neighbours)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": ["hoper-medium"]}, "did you mean hopper-medium"),
        ({"tasks": ["swimmer-med*"]}, "matches 'swimmer-med\\*'"),
        ({"algos": ["dmao"]}, "unknown algorithm 'dmao'; did you mean damo"),
        ({"seeds": 0}, "at least one algorithm and one seed"),
        ({"seeds": [1, 1]}, "no seed twice"),
        ({"given": {"epohc": 3}}, "unknown option 'epohc'; did you mean epoch"),
        ({"given": {"no_eval": True}}, "compares evaluations; leave no_eval out"),
        ({"variants": {"x": {"algo_name": "mopo", "no_eval": "true"}}}, "compares evaluations; leave no_eval out"),
        ({"given": {"seed": 3}}, "seed is the plan's own"),
        ({"variants": {"x": {"actor_lr": 1}}}, "'x' needs an algo_name"),
        ({"variants": {"_mopo": {"algo_name": "mopo"}}}, "'_mopo' names a folder"),
        ({"variants": {"a/b": {"algo_name": "mopo"}}}, "'a/b' names a folder"),
        ({"variants": {"..": {"algo_name": "mopo"}}}, r"'\.\.' names a folder"),
        ({"given": {"data": "own.hdf5", "env": "Pendulum-v1"}}, "the tasks' own; leave env out"),
        ({"variants": {"damo": {"algo_name": "mopo"}}}, "'damo' names two contestants"),
        ({"variants": {"1": {"algo_name": "mopo"}, 1: {"algo_name": "damo"}}}, "'1' names two contestants"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_plan(**{"tasks": ["hopper-medium"], "algos": ["damo"], "seeds": 1, "given": {}, **change})


def test_yaml_may_merge_and_override(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "tasks: [hopper-medium]\nvariants:\n  a: &a {algo_name: mopo, epoch: 3, actor_lr: 1.0e-3}\n  b: &b {<<: *a, epoch: 4}\n"
        "  c: {<<: *b, epoch: 5}\n"
    )
    found = read_plan(tmp_path / "plan.yaml").contestants
    assert [found[name] for name in "abc"] == [{"algo_name": "mopo", "epoch": n, "actor_lr": 1e-3} for n in (3, 4, 5)]


def test_options_of_damos_terms_are_read_by_who_has_them(tmp_path: Path) -> None:
    given = {"damo_alpha": 2.0, "classifier_hidden_dims": [8], "divergence": "square", "penalty_coef": 3.0}
    variants = {"mopo+er": {"algo_name": "mopo", "data_alignment": True}, "mobile+ir": {"algo_name": "mobile", "behavior_alignment": True}}
    plan = make_plan(["hopper-medium"], ["damo", "mopo", "odice"], 1, given, variants)
    shared = {label: set(plan.shared(own, "hopper-medium")) for label, own in plan.contestants.items()}
    assert shared == {
        "damo": {"damo_alpha", "classifier_hidden_dims", "divergence"},
        "mopo": {"penalty_coef"},
        "odice": set(),
        "mopo+er": {"damo_alpha", "classifier_hidden_dims", "penalty_coef"},
        "mobile+ir": {"damo_alpha", "divergence", "penalty_coef"},
    }
    assert plan.unread() == [] and make_plan(["hopper-medium"], ["mopo"], 1, given).unread() == list(given)[:3]
    both = make_plan(["hopper-medium"], ["mopo"], 1, {**given, "data_alignment": True})  # which has it read
    assert [job.config.damo.damo_alpha for job in jobs(both, tmp_path)] == [2.0]


def test_options_that_do_not_go_together_name_the_contestant(tmp_path: Path) -> None:
    plan = make_plan(["hopper-medium"], ["damo", "optidice"], 1, {"epoch": 100})
    with pytest.raises(UserError, match=r"^optidice on hopper-medium: optidice_warmup_steps is 500000 and .* \(.*--set NAME=VALUE"):
        jobs(plan, tmp_path)
    plan = make_plan(["hopper-medium"], ["damo", "optidice"], 1, {"epoch": 100, "optidice_warmup_steps": 50_000})
    assert {job.label for job in jobs(plan, tmp_path)} == {"damo", "optidice"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: hopper-medium\nalgos: [damo]", "needs `tasks`, a list"),
        ("tasks: [hopper-medium]\nalgos: [damo]\nseeds: many", "has seeds 'many'"),
        ("tasks: [hopper-medium]\nalgos: [damo]\nseeds: true", "has seeds True"),
        ("tasks: [hopper-medium]\nalgos: [damo]\noptions: 3", "`options` of the plan"),
        ("tasks: [hopper-medium]\nalgo: [damo]", "unknown part of a plan 'algo'; did you mean algos"),
        ("- 1", "holds no mapping"),
        ("tasks: [x]\n? [a, b]\n: 1\n", "not valid YAML at line 2"),
        ("tasks: [hopper-medium]\nvariants:\n  a: {algo_name: mopo}\n  a: {algo_name: damo}\n", "has a twice, the second time at line 4"),
    ],
)
def test_a_broken_plan_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_plan(tmp_path / "plan.yaml")
