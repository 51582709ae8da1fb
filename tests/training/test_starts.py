"""Where rollouts start, and the actor that is evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from offlinerlkit_damo.tasks.dataset import assemble
from offlinerlkit_damo.training.averaging import AveragedActor
from offlinerlkit_damo.training.starts import DiscountedStarts

GAMMA = 0.9


def numbered(steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Observations that name their row."""
    return np.arange(len(steps), dtype="f4")[:, None], np.array(steps)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_rows_are_drawn_by_gamma_to_the_step(share: float) -> None:
    observations, steps = numbered([0, 1, 2, 3, 0, 1])
    np.random.seed(0)
    draws = 200_000
    rows = DiscountedStarts(observations, steps, gamma=GAMMA, share=share)(draws)
    assert rows.shape == (draws, 1) and rows.dtype == np.float32
    weights = GAMMA**steps / (GAMMA**steps).sum()
    frequency = np.bincount(rows[:, 0].astype(int), minlength=6) / draws
    np.testing.assert_allclose(frequency, share * weights + (1 - share) / 6, atol=4e-3)


def test_very_late_steps_do_not_underflow() -> None:
    observations, steps = numbered([100_000, 100_001])
    rows = DiscountedStarts(observations, steps, gamma=GAMMA, share=1.0)(2000)
    assert set(rows[:, 0]) == {0.0, 1.0}


def test_a_dataset_knows_each_rows_step() -> None:
    """Also after rows were dropped: without recorded successors a row at a time limit has none."""
    ends = np.array([0, 0, 1, 0, 1, 0, 0], bool)
    columns = {
        "observations": np.arange(7, dtype="f4")[:, None],
        "actions": np.zeros((7, 1), "f4"),
        "rewards": np.zeros(7, "f4"),
        "terminals": np.zeros(7, bool),
        "timeouts": ends,
    }
    whole = assemble("whole", **columns, next_observations=np.zeros((7, 1), "f4"))  # type: ignore[arg-type]
    assert whole.steps.tolist() == [0, 1, 2, 0, 1, 0, 1]
    cut = assemble("cut", **columns, next_observations=None)  # type: ignore[arg-type]
    assert cut.observations[:, 0].tolist() == [0, 1, 3, 5] and cut.steps.tolist() == [0, 1, 0, 0]


def test_the_average_is_a_plain_mean_first_and_exponential_later() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = AveragedActor(module, horizon=4)
    values = [3.0, 5.0, 1.0, 7.0, 9.0, 2.0]
    want = 0.0
    for count, value in enumerate(values, 1):
        with torch.no_grad():
            module.weight.fill_(value)
        average.update()
        want += (value - want) / min(count, 4)
        with average:
            assert module.weight.item() == pytest.approx(want)
        assert module.weight.item() == value  # its own weights are back
    assert want != pytest.approx(np.mean(values))


def test_an_error_in_the_block_brings_the_own_weights_back() -> None:
    module = nn.Linear(2, 2)
    average = AveragedActor(module, horizon=10)
    before = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    with pytest.raises(KeyboardInterrupt), average:
        torch.testing.assert_close(module.weight.detach(), before)  # the mean of no update yet is where it began
        raise KeyboardInterrupt
    torch.testing.assert_close(module.weight.detach(), before + 1.0)
