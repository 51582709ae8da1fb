"""Options, presets and the scaling of rewards."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dice_toys import ALGORITHMS, make_batch, make_toy

from offlinerlkit_damo.config import Config, read_yaml
from offlinerlkit_damo.dice.config import AlgaeDICEConfig, ODICEConfig, OptiDICEConfig
from offlinerlkit_damo.dice.rewards import reward_transform
from offlinerlkit_damo.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, Any] = {"algaedice": AlgaeDICEConfig, "optidice": OptiDICEConfig, "odice": ODICEConfig}


@pytest.mark.parametrize("name", CONFIGS)
def test_presets_name_options_of_the_run_or_of_the_method(name: str) -> None:
    content = read_yaml(ROOT / "offlinerlkit_damo" / "configs" / f"{name}.yaml")
    method = {field.name for field in dataclasses.fields(CONFIGS[name])}
    run = {field.name for field in dataclasses.fields(Config)}
    assert not method & run
    assert content["default"] in content["presets"]
    for preset in content["presets"].values():
        assert set(preset) == {"options", "tasks"}
        assert method <= set(preset["options"]) <= method | run
        CONFIGS[name](**{key: value for key, value in preset["options"].items() if key in method})


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_has_a_help_line_and_a_row_on_the_page(name: str) -> None:
    page = (ROOT / "docs" / "dice.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(CONFIGS[name]):
        assert field.metadata["help"].strip()
        assert f"| `{field.name}` |" in page


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AlgaeDICEConfig(algae_alpha=0.0), "algae_alpha is 0"),
        (lambda: AlgaeDICEConfig(algae_mix=1.5), "algae_mix is 1.5"),
        (lambda: AlgaeDICEConfig(algae_actor_every=0), "algae_actor_every is 0"),
        (lambda: OptiDICEConfig(optidice_divergence="chi3"), "unknown optidice_divergence 'chi3'"),
        (lambda: OptiDICEConfig(optidice_alpha=float("nan")), "optidice_alpha is nan"),
        (lambda: ODICEConfig(odice_lambda=1.0), "odice_lambda is 1"),
        (lambda: ODICEConfig(odice_grad_mode="half"), "unknown odice_grad_mode 'half'"),
    ],
)
def test_bad_options(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_every_logged_key_is_on_the_page() -> None:
    """And the page's table has no other."""
    logged = set()
    for name in ALGORITHMS:
        policy = make_toy(name, **({"algae_actor_every": 1} if name == "algaedice" else {}))
        logged |= set(policy.learn(make_batch()))
    logged |= {"loss/alpha", "alpha"}  # with a learned temperature
    page = (ROOT / "docs" / "dice.md").read_text(encoding="utf-8").split("## What is logged")[1]
    rows = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`([^`]+)`", row)} == logged


def test_reward_transform() -> None:
    rewards, returns = np.array([[1.0], [3.0], [8.0]], dtype="f4"), np.array([10.0, 4.0, 14.0])
    scale, shift = reward_transform("standard", 0.1, rewards, returns)
    scaled = scale * rewards + shift
    assert scaled.mean() == pytest.approx(0, abs=1e-7) and scaled.std() == pytest.approx(0.1)
    assert reward_transform("returns", 1000.0, rewards, returns) == (pytest.approx(100.0), 0.0)
    assert reward_transform("none", 2.0, rewards, returns) == (2.0, 0.0)
    with pytest.raises(UserError, match="unknown reward scaling 'std'"):
        reward_transform("std", 1.0, rewards, returns)
    with pytest.raises(ValueError, match="needs returns of completed episodes that differ, got 0"):
        reward_transform("returns", 1.0, rewards, returns[:0])
    with pytest.raises(ValueError, match="needs rewards that differ"):
        reward_transform("standard", 1.0, np.ones(4), returns)
