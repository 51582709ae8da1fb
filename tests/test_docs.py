"""The documentation against the code: every logged key and every option is named there, and nothing that does not exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scripts import write_hopper_file

from offlinerlkit_damo.__main__ import command_line, main
from offlinerlkit_damo.compare.plan import jobs, read_plan
from offlinerlkit_damo.config import Config, DAMOConfig, options, presets
from offlinerlkit_damo.damo.divergences import NAMES
from offlinerlkit_damo.kit import Logger, ReplayBuffer
from offlinerlkit_damo.training.dynamics import build_dynamics
from offlinerlkit_damo.training.policies import build_policy
from offlinerlkit_damo.training.trainer import DAMOTrainer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OBS_DIM, ACTION_DIM, ROWS = 11, 3, 60
EVERYTHING = dict(
    absorbing=True,
    ratio_centering=True,
    entropy_backup=True,
    target_floor=0.0,
    w_max=5.0,
    logit_clip=5.0,
    classifier_updates_per_step=1,
    classifier_gradient_penalty=1.0,
    classifier_input_noise=0.1,
    classifier_label_smoothing=0.1,
)


BASELINES: dict[str, tuple[str, ...]] = {
    "mopo": (),
    "mobile": (),
    "combo": ("--with-lagrange", "true"),
    "rambo": (
        "--dynamics-update-freq", "1", "--adv-train-steps", "2", "--adv-batch-size", "8", "--bc-epoch", "1", "--bc-batch-size", "8",
        "--adv-weight", "0.1",
    ),
}  # fmt: skip
"""The other algorithms with a model, with the flags that have them log all they can."""


class StillEnv:
    """An environment whose episodes are already over: the trainer's evaluation without a simulator."""

    def run_episodes(self, select_action: Any, seeds: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return 1.0 and length 1 for every seed."""
        return np.ones(len(seeds)), np.ones(len(seeds))

    def get_normalized_score(self, score: float) -> float:
        """The return itself."""
        return score


def train(folder: Path, method: DAMOConfig) -> set[str]:
    """Train dynamics and policy on random numbers; the columns of both progress tables."""
    config = Config(
        task="hopper-medium",
        hidden_dims=(8,),
        dynamics_hidden_dims=(8,),
        dynamics_weight_decay=(0.0, 0.0),
        damo=method,
    )
    rng = np.random.default_rng(0)
    data = {
        "observations": rng.normal(size=(ROWS, OBS_DIM)).astype("f4"),
        "actions": rng.uniform(-1, 1, (ROWS, ACTION_DIM)).astype("f4"),
        "next_observations": rng.normal(size=(ROWS, OBS_DIM)).astype("f4"),
        "rewards": rng.normal(size=(ROWS, 1)).astype("f4"),
        "terminals": rng.random((ROWS, 1)) < 0.1,
    }
    logger = Logger(str(folder), {"policy_training_progress": "csv", "dynamics_training_progress": "csv"})
    dynamics = build_dynamics(config, OBS_DIM, ACTION_DIM)
    dynamics.train(data, logger, max_epochs=1)
    policy, scheduler = build_policy(config, dynamics, OBS_DIM, ACTION_DIM)
    buffers = [ReplayBuffer(ROWS, (OBS_DIM,), np.float32, ACTION_DIM, np.float32, "cpu") for _ in range(2)]
    buffers[0].load_dataset(data)
    trainer = DAMOTrainer(
        policy, StillEnv(), *buffers, logger, rollout_setting=(2, 10, 1), epoch=1, step_per_epoch=2, batch_size=40, eval_episodes=1,
        lr_scheduler=scheduler, init_obss=data["observations"][:5], ratio_batch_size=8,
    )
    trainer.train()
    tables = (folder / "record").glob("*_progress.csv")
    return {column.strip() for table in tables for column in table.read_text().splitlines()[0].split(",")}


def train_baseline(folder: Path, *flags: str) -> set[str]:
    """Train an algorithm by the command line on random numbers; the columns of its progress table."""
    data = write_hopper_file(folder / "data.hdf5", ROWS)
    words = "train --task hopper-medium --hidden-dims 8 --batch-size 40 --epoch 1 --step-per-epoch 2 --eval-episodes 1 --rollout-length 1"
    words += " --dynamics-max-epochs 1 --dynamics-hidden-dims 8 --dynamics-weight-decay 0 0 --rollout-batch-size 40"
    main([*words.split(), "--data", str(data), "--logdir", str(folder / "log"), *flags])
    (table,) = folder.glob("log/hopper-medium/*/seed_*/record/policy_training_progress.csv")
    return {column.strip() for column in table.read_text().splitlines()[0].split(",")}


def documented_keys() -> set[str]:
    """The keys in the first column of the tables of docs/metrics.md."""
    rows = re.findall(r"^\| (`.+?`) \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def documented_options() -> list[str]:
    """The options in the first column of the option table of docs/method.md."""
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    section = text.split("## Options of the method")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every key that training with a model logs: over both actors and with every feature on, and of the baselines."""
    torch.manual_seed(0)
    keys: set[str] = set()
    for actor_mode in ("damo", "sac"):
        keys |= train(tmp_path_factory.mktemp(actor_mode), DAMOConfig(actor_mode=actor_mode, **EVERYTHING))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFLINERLKIT_DAMO_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, flags in BASELINES.items():
            keys |= train_baseline(tmp_path_factory.mktemp(name), "--algo", name, *flags)
    return keys


def test_every_logged_key_is_documented(logged: set[str]) -> None:
    """docs/metrics.md has a row for each column of the progress tables."""
    assert len(logged) > 20
    assert logged - documented_keys() == set()


def test_no_dead_key_is_documented(logged: set[str]) -> None:
    """And no row for a key that nothing logs."""
    assert documented_keys() - logged == set()


def test_the_method_page_has_every_option_of_the_method() -> None:
    """One row each, in the configuration's order, and no other."""
    assert documented_options() == list(DAMOConfig.__dataclass_fields__)


def test_every_option_has_a_help_line() -> None:
    """What --help prints, for the options that the method page does not have."""
    assert [name for name, field in options().items() if not field.metadata["help"].strip()] == []


def test_the_method_page_names_every_choice() -> None:
    """Divergences, modes and presets by the names that the options take."""
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    choices = {choice for name in DAMOConfig.__dataclass_fields__ for choice in options()[name].metadata["choices"]}
    names = choices | set(NAMES) | set(presets("damo"))
    assert {name for name in names if f"`{name}`" not in text and f": {name}`" not in text} == set()


PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]


def test_every_command_line_can_be_typed() -> None:
    """Flags and choices of the pages' commands are those of the command line; what they would do is not tried."""
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    lines = [line.split("`")[0] for line in re.findall(r"python -m offlinerlkit_damo (.+)", text) if "--help" not in line]
    assert len(lines) > 40
    for line in lines:
        command_line().parse_args(shlex.split(line, comments=True))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Relative links point at files of the repository."""
    path = ROOT / page
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_kits_row_of_the_hosts_can_be_repeated() -> None:
    """Its command gives the tests what they are skipped without: the kit on the path, and a checkout for the patches."""
    (block,) = re.findall(r"```\n(.*?)```", (DOCS / "compatibility.md").read_text(encoding="utf-8"), re.DOTALL)
    *variables, _, module, runner = shlex.split(block.splitlines()[-1])
    assert (module, runner) == ("-m", "pytest")
    assert variables == ["PYTHONPATH=$PWD:$kit", "OFFLINERLKIT_CHECKOUT=$kit"]


def test_the_plans_of_the_results_can_be_run(tmp_path: Path) -> None:
    """Every plan in docs/plans has known tasks and options, with which its runs can be configured."""
    plans = sorted((DOCS / "plans").glob("*.yaml"))
    assert plans
    for path in plans:
        assert jobs(read_plan(path), tmp_path)
