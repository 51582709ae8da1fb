"""Configuration: layers, coercion, bounds, names, and the paper's per-task table."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo.config import (
    ALGORITHMS,
    SECTIONS,
    Config,
    DAMOConfig,
    coerce,
    option_types,
    options,
    presets,
    read_yaml,
    readers,
    resolve,
)
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import Parser, add_config_flags, parse_config

# alpha, rollout length, actor learning rate: docs/method.md, "Hyper-parameters of the paper"
PAPER_TABLE = {
    "halfcheetah-random": (0.1, 5, 1e-4),
    "hopper-random": (2, 5, 1e-5),
    "walker2d-random": (2, 5, 1e-4),
    "halfcheetah-medium": (0.5, 5, 1e-4),
    "hopper-medium": (2, 5, 1e-5),
    "walker2d-medium": (2, 1, 5e-5),
    "halfcheetah-medium-replay": (0.1, 5, 1e-4),
    "hopper-medium-replay": (3, 5, 1e-4),
    "walker2d-medium-replay": (1.5, 5, 1e-4),
    "halfcheetah-medium-expert": (2.5, 5, 1e-4),
    "hopper-medium-expert": (3, 5, 1e-5),
    "walker2d-medium-expert": (1.5, 3, 1e-4),
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_text(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write_text


# ---- layers ----------------------------------------------------------------------------------------------------------------------------


def test_layers_from_the_weakest_to_the_strongest(write: Any) -> None:
    """Field default < preset < task < caller's defaults < file < flag, one step at a time on the same options."""
    assert Config().damo.divergence == "power" and Config().damo.damo_alpha == 1.0
    preset = resolve({"preset": "paper", "task": "no-such-task"})
    assert preset.damo.divergence == "cubic"  # the preset beats the field
    assert preset.damo.damo_alpha == 1.0  # and leaves what it does not name
    task = resolve({"preset": "paper", "task": "walker2d-medium"})
    assert (task.damo.damo_alpha, task.rollout_length, task.actor_lr) == (2, 1, 5e-5)  # the task beats preset and field
    file = write("damo_alpha: 0.25\nrollout_length: 2\ndivergence: kl\n")
    caller = resolve({"preset": "paper", "task": "walker2d-medium"}, defaults={"damo_alpha": 0.75})
    assert caller.damo.damo_alpha == 0.75
    from_file = resolve({"preset": "paper", "task": "walker2d-medium"}, config_file=file, defaults={"damo_alpha": 0.75})
    assert (from_file.damo.damo_alpha, from_file.rollout_length, from_file.damo.divergence) == (0.25, 2, "kl")
    flags = resolve({"preset": "paper", "task": "walker2d-medium", "damo_alpha": "0.1"}, config_file=file)
    assert (flags.damo.damo_alpha, flags.rollout_length, flags.actor_lr) == (0.1, 2, 5e-5)


def test_task_and_preset_may_come_from_the_file(write: Any) -> None:
    config = resolve({}, config_file=write("task: walker2d-medium-v2\npreset: paper\n"))
    assert (config.task, config.preset, config.damo.damo_alpha, config.damo.grad_mode) == ("walker2d-medium-v2", "paper", 2, "full")


def test_no_preset_is_the_default_preset() -> None:
    for flags in ({}, {"preset": None}, {"preset": "none"}):
        assert resolve(flags) == resolve({"preset": "stable"})


def test_field_defaults_are_the_stable_preset() -> None:
    """What a bare DAMOPolicy does and what a bare command line does is one thing, but for the task's alpha."""
    stable = resolve({"preset": "stable", "task": "no-such-task"})
    assert stable.damo == DAMOConfig()


def test_mopo() -> None:
    config = resolve({"algo_name": "mopo", "task": "hopper-medium"})
    assert (config.algo_name, config.preset, config.rollout_length, config.penalty_coef, config.actor_lr) == ("mopo", "kit", 5, 5.0, 1e-4)
    config = resolve({"algo_name": "mopo", "task": "hopper-expert"})  # the kit's script suggests nothing for it: medium-expert's
    assert (config.rollout_length, config.penalty_coef) == (5, 5.0)
    config = resolve({"algo_name": "mopo", "task": "ant-medium-v2"})  # nor for anything near
    assert (config.rollout_length, config.penalty_coef) == (1, 2.5)


# ---- options of some algorithms only ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"algo_name": "mopo", "cql_weight": 1}, "--cql-weight has no effect with --algo mopo; it is an option of combo"),
        ({"algo_name": "damo", "penalty_coef": 1}, "--penalty-coef has no effect with --algo damo; it is an option of mopo, mobile"),
        ({"algo_name": "odice", "rollout_length": 1}, "--rollout-length has no effect with --algo odice"),
        ({"algo_name": "odice", "damo_alpha": 1}, "--damo-alpha has no effect with --algo odice"),
        ({"algo_name": "mopo", "damo_alpha": 1}, "--damo-alpha has no effect without --data-alignment"),
        ({"algo_name": "mopo", "data_alignment": 0.5, "divergence": "kl"}, "--divergence has no effect without --behavior-alignment"),
        ({"algo_name": "mopo", "data_alignment": 0.5, "damo_alpha": 2}, "both set alpha, leave one out"),
        ({"algo_name": "mobile", "behavior_alignment": True, "max_q_backup": True}, "which has --q-next for it"),
        ({"algo_name": "mobile", "n_elites": 1}, "n_elites of at least 2"),
        ({"algo_name": "combo", "behavior_alignment": "true"}, "combo's conservative term"),
        ({"algo_name": "optidice", "epoch": 20}, "the actor would never learn"),
    ],
)
def test_a_flag_without_effect_is_an_error(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(flags)


def test_a_shared_file_may_hold_options_of_several_algorithms(write: Any) -> None:
    file = write("penalty_coef: 1.0\ncql_weight: 2.0\ndamo_alpha: 0.7\n")
    for algo in ALGORITHMS:
        assert resolve({"algo_name": algo}, config_file=file).algo_name == algo


def test_every_option_has_readers() -> None:
    assert all(set(readers(name)) <= set(ALGORITHMS) and readers(name) for name in options())
    assert readers("damo_alpha") == readers("rollout_length") == ("damo", "mopo", "mobile", "combo", "rambo")
    assert readers("seed") == ALGORITHMS and readers("odice_lambda") == ("odice",)


@pytest.mark.parametrize(
    ("value", "on", "alpha"),
    [("0.5", True, 0.5), (0.5, True, 0.5), (1, True, 1.0), (0, False, 1.0), ("true", True, 1.0), (False, False, 1.0)],
)
def test_data_alignment_by_number(value: Any, on: bool, alpha: float) -> None:
    config = resolve({"algo_name": "mopo", "task": "no-such-task", "data_alignment": value})
    assert (config.damo.data_alignment, config.damo.damo_alpha, config.damo.behavior_alignment) == (on, alpha, False)


def test_a_flags_alpha_is_stronger_than_a_files_number(write: Any) -> None:
    config = resolve({"algo_name": "mopo", "damo_alpha": 2}, config_file=write("data_alignment: 0.5\n"))
    assert (config.damo.data_alignment, config.damo.damo_alpha) == (True, 2.0)


def test_small_batches_are_for_the_model_free_to_choose() -> None:
    assert resolve({"algo_name": "odice", "batch_size": 8}).batch_size == 8


def test_damos_own_switch_still_takes_words() -> None:
    assert resolve({"data_alignment": "false"}).damo.data_alignment is False
    assert resolve({"data_alignment": "0.3"}).damo.damo_alpha == 0.3


# ---- names -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"damo_alhpa": 1}, r"unknown option 'damo_alhpa'; did you mean damo_alpha"),
        ({"zzz": 1}, r"unknown option 'zzz'; choose from .*damo_alpha"),
        ({"preset": "papre"}, r"unknown preset 'papre'; did you mean paper\?"),
        ({"algo_name": "dammo"}, r"unknown algo_name 'dammo'; did you mean damo"),
        ({"divergence": "cubick"}, r"unknown divergence 'cubick'; did you mean cubic"),
        ({"grad_mode": "half"}, r"unknown grad_mode 'half'; choose from full, mix, orthogonal, semi"),
        ({"actor_mode": "SAC"}, r"unknown actor_mode 'SAC'"),
        ({"damo": {}}, r"unknown option 'damo'"),
    ],
)
def test_unknown_names(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(flags)


def test_unknown_key_in_the_file(write: Any) -> None:
    with pytest.raises(UserError, match="did you mean rollout_length"):
        resolve({}, config_file=write("rolout_length: 3\n"))


# ---- coercion --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("actor_lr", "1e-4", 1e-4),
        ("damo_alpha", 2, 2.0),
        ("actor_alpha", "none", None),
        ("actor_alpha", "None", None),
        ("actor_alpha", None, None),
        ("actor_alpha", "1.5", 1.5),
        ("target_floor", "0", 0.0),
        ("hidden_dims", [64, "32"], (64, 32)),
        ("hidden_dims", 64, (64,)),
        ("dynamics_weight_decay", ["1e-5", 0], (1e-5, 0.0)),
        ("epoch", "1e3", 1000),
        ("epoch", 10.0, 10),
        ("seed", "07", 7),
        ("dynamics_seed", "none", None),
        ("auto_alpha", "False", False),
        ("auto_alpha", "true", True),
        ("auto_alpha", "0", False),
        ("auto_alpha", 1, True),
        ("absorbing", "yes", True),
        ("absorbing", "no", False),
        ("init_coef", 0.5, "0.5"),
        ("data", "file.hdf5", "file.hdf5"),
    ],
)
def test_coercion(name: str, value: Any, expected: Any) -> None:
    result = coerce(name, value)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actor_lr", "fast", "actor_lr is 'fast'; it must be a number"),
        ("actor_lr", True, "it must be a number"),
        ("actor_lr", [1e-4], "it must be a number"),
        ("epoch", "1.5", "it must be a whole number"),
        ("epoch", 1.5, "it must be a whole number"),
        ("epoch", True, "it must be a whole number"),
        ("epoch", "1e999", "it must be a whole number"),
        ("epoch", None, "it must be a whole number"),
        ("epoch", "", "it must be a whole number"),
        ("auto_alpha", "maybe", "it must be true or false"),
        ("auto_alpha", 2, "it must be true or false"),
        ("hidden_dims", "wide", "it must be a list of numbers"),
        ("hidden_dims", [[1]], "it must be a list of numbers"),
        ("task", None, "it must be text"),
        ("task", {"a": 1}, "it must be text"),
    ],
)
def test_wrong_types(name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        coerce(name, value)


# ---- bounds ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("damo_alpha", 0, 1e-3),
        ("damo_alpha", math.inf, 1e3),
        ("damo_alpha", math.nan, 1.0),
        ("actor_alpha", 0, None),
        ("w_max", 0, 1.0),
        ("logit_clip", -1, 1.0),
        ("target_floor", math.nan, -3.0),
        ("classifier_lr", 0, 1e-5),
        ("classifier_updates_per_step", -0.5, 0),
        ("classifier_gradient_penalty", -1, 0),
        ("classifier_input_noise", -1, 0),
        ("classifier_label_smoothing", 0.5, 0.49),
        ("classifier_label_smoothing", -0.1, 0),
        ("classifier_hidden_dims", (0,), (1,)),
        ("init_coef", "-1", "0"),
        ("init_coef", "nan", "0.5"),
        ("init_coef", "gamma", "1-gamma"),
        ("gamma", 1, 0.999),
        ("gamma", 0, 0.5),
        ("real_ratio", 1, 0.5),
        ("real_ratio", 0, 0.05),
        ("tau", 1.1, 1),
        ("tau", 0, 0.1),
        ("n_elites", 8, 7),
        ("seed", -1, 0),
        ("epoch", 0, 1),
        ("batch_size", 19, 20),
        ("hidden_dims", (64, 0), (64, 1)),
        ("dynamics_weight_decay", (1e-5,), (1e-5,) * 5),
        ("actor_lr", -1e-4, 1e-4),
        ("dynamics_max_epochs", 0, 1),
    ],
)
def test_bounds(name: str, bad: Any, good: Any) -> None:
    with pytest.raises(UserError, match=name):
        Config.from_flat({name: bad})
    assert Config.from_flat({name: good}).flat()[name] == good


# ---- the whole -------------------------------------------------------------------------------------------------------------------------


def test_round_trip() -> None:
    changed = {
        "task": "walker2d-medium", "seed": 7, "hidden_dims": (8, 9), "actor_alpha": None, "damo_alpha": 2.5, "absorbing": True,
        "init_coef": "0.25", "classifier_hidden_dims": (3,), "dynamics_seed": 4, "preset": "paper", "target_floor": 0.0,
    }  # fmt: skip
    config = Config.from_flat(changed)
    assert Config.from_flat(config.flat()) == config
    assert {name: config.flat()[name] for name in changed} == changed
    assert list(config.flat()) == list(options()) == list(option_types())
    assert all(config.flat()[f.name] == getattr(config.damo, f.name) for f in dataclasses.fields(DAMOConfig))


def test_configs_are_frozen_and_every_option_has_its_line() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().damo.damo_alpha = 3  # type: ignore[misc]
    names = [f.name for kind in (Config, *SECTIONS.values()) for f in dataclasses.fields(kind)]
    assert len(set(names)) == len(names)  # one flat name space
    assert all(field.metadata["help"] for field in options().values())


@pytest.mark.parametrize("algo_name", ALGORITHMS)
def test_every_preset_and_task_resolves(algo_name: str) -> None:
    for preset, content in presets(algo_name).items():
        for task in [*content["tasks"], *(f"{name}-v2" for name in content["tasks"]), "another-task"]:
            config = resolve({"algo_name": algo_name, "preset": preset, "task": task})
            wanted = {**content["options"], **content["tasks"].get(task.removesuffix("-v2"), {})}
            for name, value in wanted.items():
                assert config.flat()[name] == coerce(name, value), (preset, task, name)
            assert (config.task, config.preset, config.algo_name) == (task, preset, algo_name)


def test_stable_has_the_papers_tasks_and_rollout_lengths() -> None:
    tasks = presets("damo")["stable"]["tasks"]
    lengths = {task: row[1] for task, row in PAPER_TABLE.items()}
    lengths["hopper-medium-expert"] = 20  # measured: docs/experiments.md, section 11
    lengths |= {f"ant-{quality}": 5 for quality in ("random", "medium", "medium-replay", "medium-expert")}  # not in the paper
    assert {task: values["rollout_length"] for task, values in tasks.items()} == lengths


@pytest.mark.parametrize("preset", ["paper", "ompo"])
def test_the_papers_table(preset: str) -> None:
    assert set(presets("damo")[preset]["tasks"]) == set(PAPER_TABLE)
    for task, row in PAPER_TABLE.items():
        config = resolve({"preset": preset, "task": f"{task}-v2"})
        assert (config.damo.damo_alpha, config.rollout_length, config.actor_lr) == row, task


def test_the_papers_common_values() -> None:
    config = resolve({"preset": "paper"})
    assert (config.gamma, config.critic_lr, config.batch_size, config.real_ratio) == (0.99, 3e-4, 256, 0.05)
    assert config.epoch * config.step_per_epoch == 3_000_000
    assert (config.n_ensemble, config.n_elites, config.dynamics_hidden_dims) == (7, 5, (200,) * 4)
    method = config.damo
    assert (method.divergence, method.divergence_k, method.grad_mode, method.init_coef) == ("cubic", 0, "full", "1-gamma")
    assert (method.actor_alpha, method.actor_mode, method.q_next, method.classifier_updates_per_step) == (1, "damo", "own", 0.5)
    assert method.data_alignment and method.behavior_alignment


@pytest.mark.parametrize(
    ("values", "gamma", "expected"),
    [
        ({"init_coef": "1-gamma"}, 0.9, 0.1),
        ({"init_coef": "1-eta*gamma", "grad_mode": "full"}, 0.9, 0.1),
        ({"init_coef": "1-eta*gamma", "grad_mode": "semi"}, 0.9, 1.0),
        ({"init_coef": "1-eta*gamma", "grad_mode": "mix"}, 0.9, 0.955),
        ({"init_coef": "ompo", "damo_alpha": 4.0}, 0.9, 0.2),
        ({"init_coef": "0.3"}, 0.9, 0.3),
    ],
)
def test_init_coefficient(values: dict[str, Any], gamma: float, expected: float) -> None:
    assert DAMOConfig(**values).init_coefficient(gamma) == pytest.approx(expected)


# ---- files and flags -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"), [("a: [1\n", r"not valid YAML at line \d"), ("- 1\n- 2\n", "holds no mapping"), ("", "holds no mapping")]
)
def test_broken_files(text: str, message: str, write: Any) -> None:
    with pytest.raises(UserError, match=message):
        read_yaml(write(text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the config file .*absent.yaml.*No such file"):
        resolve({}, config_file=tmp_path / "absent.yaml")


def _parse(*words: str) -> Config:
    parser = Parser()
    add_config_flags(parser)
    return parse_config(parser.parse_args(words))


def test_flags(write: Any) -> None:
    words = ["--auto-alpha", "False", "--damo-alpha", "1e-1", "--hidden_dims", "8", "9", "--actor-alpha=none"]
    words += ["--task", "hopper-medium", "--preset", "paper"]
    config = _parse(*words)
    assert (config.auto_alpha, config.damo.damo_alpha, config.hidden_dims, config.damo.actor_alpha) == (False, 0.1, (8, 9), None)
    assert config.actor_lr == 1e-5  # of the task, no flag having said otherwise
    assert _parse("--config", str(write("actor_lr: 3e-4\n")), "--task", "hopper-medium").actor_lr == 3e-4


def test_every_option_is_a_flag_with_its_default() -> None:
    parser = Parser()
    add_config_flags(parser)
    assert parser.parse_args([]) == argparse.Namespace(config=None, resume=None, force=False)
    help_text = parser.format_help()
    assert all(f"--{name.replace('_', '-')}" in help_text for name in options())
