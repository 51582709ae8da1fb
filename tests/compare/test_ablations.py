"""Studies: plans that can be run, differ from one another in what they say, and survive being written and edited."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from offlinerlkit_damo.__main__ import main
from offlinerlkit_damo.compare.ablations import ablation_plan, studies
from offlinerlkit_damo.compare.plan import jobs, read_plan
from offlinerlkit_damo.compare.rows import config_hash
from offlinerlkit_damo.config import DIVERGENCES, MODEL_BASED, options
from offlinerlkit_damo.errors import UserError


@pytest.mark.parametrize("task", ["hopper-medium-expert", "halfcheetah-medium-replay"])
def test_no_two_contestants_are_the_same_run(task: str, tmp_path: Path) -> None:
    every = jobs(ablation_plan(list(studies()), [task], 1, {}), tmp_path)
    hashes = [config_hash(job.config.flat()) for job in every]
    assert len(set(hashes)) == len(hashes) == len({job.label for job in every})


def test_the_studies_cover_what_they_say() -> None:
    """Every divergence in both modes, every gradient mode, alpha 1 to 5 fixed and not, every baseline with the terms that it can have."""

    def values(study: str, name: str) -> set[object]:
        plan = ablation_plan([study], ["hopper-medium-expert"], 1, {})
        return {(job.config.damo.__dict__ | job.config.flat())[name] for job in jobs(plan, Path("out"))}

    assert values("divergences", "divergence") == values("divergences-full", "divergence") == set(DIVERGENCES)
    assert values("divergences", "divergence_k") == values("divergences-full", "divergence_k") == {0, 1, 2}
    assert values("gradient", "grad_mode") == set(options()["grad_mode"].metadata["choices"])
    assert values("initial-states", "init_states") == {"dataset", "episode_start"}
    assert values("ratio", "ratio_mode") == {"model", "mixture"}
    sweep = jobs(ablation_plan(["alpha"], ["hopper-medium-expert"], 1, {}), Path("out"))
    assert {(job.config.damo.damo_alpha, job.config.damo.actor_alpha) for job in sweep} == {
        *((alpha, 1.0) for alpha in (1.0, 2.0, 3.0, 4.0, 5.0)), *((alpha, None) for alpha in (2.0, 3.0, 4.0, 5.0)),
    }  # fmt: skip
    switches = {job.label: job.config.damo for job in jobs(ablation_plan(["switches"], ["hopper-medium-expert"], 1, {}), Path("out"))}
    assert {label: (x.data_alignment, x.behavior_alignment, x.actor_mode) for label, x in switches.items()} == {
        "damo": (True, True, "damo"),
        "damo-without-er": (False, True, "damo"),
        "damo-without-ir": (True, False, "damo"),
        "damo-without-both": (False, False, "damo"),
        "damo-inconsistent": (True, True, "sac"),
    }
    added = jobs(ablation_plan(["add-on"], ["hopper-medium-expert"], 1, {}), Path("out"))
    terms = {(job.config.algo_name, job.config.damo.data_alignment, job.config.damo.behavior_alignment) for job in added}
    baselines = set(MODEL_BASED) - {"damo"}
    assert terms == {(algo, er, ir) for algo in baselines for er, ir in ((False, False), (True, False), (True, True))} - {
        ("combo", True, True)
    }


def test_studies_share_their_plain_algorithm_and_can_be_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yaml"
    main(["ablate", "switches", "ratio", "--seeds", "2", "--set", "epoch=7", "--write", str(path)])
    assert "compare --plan" in capsys.readouterr().out
    plan = ablation_plan(["switches", "ratio"], ["hopper-medium-expert"], 2, {"epoch": 7})
    assert jobs(read_plan(path), tmp_path) == jobs(plan, tmp_path)
    assert [label for label in plan.contestants if label == "damo"] == ["damo"] and len(plan.contestants) == 7


def test_the_list_names_every_study_and_contestant(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ablate", "--list"])
    out = capsys.readouterr().out
    assert all(f"{name}: {study['about']}" in out and all(x in out for x in study["variants"]) for name, study in studies().items())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "name a study, or several: switches, alpha"),
        ("swiches", "unknown study 'swiches'; did you mean switches"),
        ("switches --tasks hoper-medium", "did you mean hopper-medium"),
        ("switches --set epoch", "--set epoch has no value"),
    ],
)
def test_wrong_flags_are_one_sentence(flags: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        main(["ablate", *shlex.split(flags)])
