"""What a run warns of before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from offlinerlkit_damo.config import presets, resolve
from offlinerlkit_damo.training.doubts import _misplaced


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergence": "cubic", "grad_mode": "full", "init_coef": "ompo", "damo_alpha": 3}, "mean weight is 1.73 instead of 1"),
        ({"divergence": "cubic", "grad_mode": "orthogonal", "init_coef": 1}, "mean weight is 100 instead of 1"),
        ({"divergence": "kl", "grad_mode": "semi", "init_coef": "1-gamma"}, "mean weight is 0.01 instead of 1"),
        ({"divergence": "chi2", "grad_mode": "mix", "init_coef": 1}, "mean weight is 1.05 instead of 1"),
        ({"divergence": "power", "grad_mode": "semi", "init_coef": 1}, "mean of f*' is 1 instead of nearly 0, below"),
        ({"divergence": "cubic", "grad_mode": "full", "init_coef": "1-gamma"}, None),
        ({"divergence": "kl", "grad_mode": "semi", "init_coef": "1-eta*gamma"}, None),
        ({"divergence": "power", "grad_mode": "semi", "init_coef": "ompo", "damo_alpha": 5}, None),
        ({"divergence": "square", "grad_mode": "full", "init_coef": "1-gamma"}, None),
    ],
)
def test_an_init_coef_that_does_not_go_with_the_rest(options: dict[str, Any], words: str | None) -> None:
    config = resolve({"task": "hopper-medium", **options})
    found = _misplaced(config.damo, config.gamma)
    assert len(found) == (words is not None) and all(str(words) in text for text in found)


def test_no_preset_is_doubted() -> None:
    for name, preset in presets("damo").items():
        for task in preset["tasks"]:
            config = resolve({"task": task, "preset": name})
            assert _misplaced(config.damo, config.gamma) == []
