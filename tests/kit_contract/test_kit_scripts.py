"""The flags of the kit's run scripts: ours take each of them, or say in one sentence what takes its place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from offlinerlkit_damo.config import Config
from offlinerlkit_damo.errors import UserError
from offlinerlkit_damo.flags import Parser, add_config_flags, parse_config

ROOT = Path(__file__).parents[2]
COMMON = """
    --actor-lr --algo-name --alpha --alpha-lr --auto-alpha --batch-size --critic-lr --device --dynamics-hidden-dims --dynamics-lr
    --dynamics-weight-decay --epoch --eval_episodes --gamma --hidden-dims --load-dynamics-path --model-retain-epochs --n-elites
    --n-ensemble --real-ratio --rollout-batch-size --rollout-freq --rollout-length --seed --step-per-epoch --target-entropy --task --tau
"""
# what `run_<algo>.py --help` of the kit at e3ce697 lists, names only
KIT_FLAGS = {
    "mopo": f"{COMMON} --penalty-coef",
    "mobile": f"""{COMMON} --deterministic-backup --dynamics-max-epochs --lr-scheduler --max-epochs-since-update --max-q-backup
        --norm-reward --num-q-ensemble --num-samples --penalty-coef""",
    "combo": f"""{COMMON} --cql-alpha-lr --cql-weight --deterministic-backup --lagrange-threshold --max-q-backup --num-repeat-actions
        --rho-s --temperature --uniform-rollout --with-lagrange""",
    "rambo": f"""{COMMON} --adv-batch-size --adv-weight --bc-batch-size --bc-epoch --bc-lr --dynamics-adv-lr --dynamics-update-freq
        --include-ent-in-adv --load-bc-path""",
}
OTHER_NAMES = {"--lr-scheduler": "lr_schedule", "--max-epochs-since-update": "dynamics_patience"}
REFUSED = {"--norm-reward": "--data", "--load-bc-path": "--bc-epoch"}
EVERY_FLAG = [(algo, flag) for algo, flags in KIT_FLAGS.items() for flag in flags.split()]


def parsed(algo: str, *words: str) -> Any:
    parser = Parser()
    add_config_flags(parser, algo)
    return parser.parse_args(words)


def configured(algo: str, *words: str) -> Config:
    return parse_config(parsed(algo, *words), algo_name=algo)


@pytest.mark.parametrize(("algo", "flag"), EVERY_FLAG)
def test_every_flag_of_the_kit_is_known(algo: str, flag: str) -> None:
    """It sets the option that is called so or stands for it; a refusal names what to use instead."""
    if flag in REFUSED:
        with pytest.raises(UserError, match=f"{flag} .*{REFUSED[flag]}") as caught:
            parsed(algo, flag, "1")
        assert "\n" not in str(caught.value)
        return
    name = OTHER_NAMES.get(flag, flag.removeprefix("--").replace("-", "_"))
    assert vars(parsed(algo, flag, "1")).keys() - vars(parsed(algo)).keys() == {name}
    assert hasattr(Config(), name) or name in Config().flat()


def test_mobiles_flags_by_the_kits_names() -> None:
    """Their values as the option's of another name; what normalises no rewards is what is done here."""
    assert configured("mobile", "--max-epochs-since-update", "7").dynamics_patience == 7
    schedules = {word: configured("mobile", "--lr-scheduler", word).lr_schedule for word in ("True", "False")}
    assert schedules == {"True": "cosine", "False": "constant"}
    assert configured("mobile", "--norm-reward", "False") == configured("mobile")
    for flag in ("--lr-scheduler", "--norm-reward"):
        with pytest.raises(UserError, match="true or false"):
            configured("mobile", flag, "perhaps")


KIT_DYNAMICS = {"mopo": (1e-3, None), "mobile": (1e-3, 30), "combo": (1e-3, None), "rambo": (3e-4, None)}  # rate, most epochs


@pytest.mark.parametrize("algo", KIT_DYNAMICS)
def test_a_configuration_says_how_to_train_the_dynamics_as_the_kit(algo: str) -> None:
    """Ours are trained by a schedule; the flags in the file's own words give the kit's constant rate."""
    text = (ROOT / "offlinerlkit_damo" / "configs" / f"{algo}.yaml").read_text(encoding="utf-8")
    (flags,) = re.findall(r"^# (--dynamics.*)$", text, re.MULTILINE)
    kits = configured(algo, *flags.split())
    assert (kits.dynamics_lr, kits.dynamics_max_epochs) == KIT_DYNAMICS[algo]
    assert (kits.dynamics_lr_schedule, kits.dynamics_patience) == ("constant", 5)
    assert (configured(algo).dynamics_lr_schedule, configured(algo).dynamics_max_epochs) == ("cosine", 20)


@pytest.mark.parametrize("algo", KIT_FLAGS)
def test_the_table_is_what_the_kits_script_lists(algo: str, run_kit_script: Any) -> None:
    listed = run_kit_script(f"run_{algo}.py", "--help")
    assert set(re.findall(r"^ +(--[-\w]+)", listed, re.MULTILINE)) == set(KIT_FLAGS[algo].split())
