"""Check 3 of docs/method.md: the classifier's optimum is the log-ratio of the two laws, whatever the sampling; nothing overflows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offlinerlkit_damo.config import DAMOConfig
from offlinerlkit_damo.damo.alignment import DataAlignment
from offlinerlkit_damo.damo.classifier import RatioClassifier, classifier_loss, gradient_penalty, log_ratio

FAKE_COUNTS = np.array([30, 12, 6, 12])
REAL_COUNTS = np.array([5, 20, 30, 5])


def _minimise(loss_of: object, size: int) -> Tensor:
    logits = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optim = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optim.zero_grad()
        loss: Tensor = loss_of(logits)  # type: ignore[operator]
        loss.backward()
        return loss

    optim.step(closure)
    return logits.detach()


def _samples(counts: np.ndarray) -> Tensor:
    return torch.as_tensor(np.repeat(np.arange(len(counts)), counts))


def _optimum(fake: np.ndarray, real: np.ndarray, label_smoothing: float = 0.0) -> Tensor:
    x, y = _samples(fake), _samples(real)
    return _minimise(lambda d: classifier_loss(d[x], d[y], label_smoothing=label_smoothing), len(fake))


def _true_ratio() -> np.ndarray:
    return np.log(FAKE_COUNTS / FAKE_COUNTS.sum()) - np.log(REAL_COUNTS / REAL_COUNTS.sum())


@pytest.mark.parametrize("times", [1, 3])
def test_optimum_is_the_log_ratio(times: int) -> None:
    """Three times as many fake samples change nothing: each kind has a mean of its own, which undoes their log 3."""
    logits = _optimum(times * FAKE_COUNTS, REAL_COUNTS)
    np.testing.assert_allclose(log_ratio(logits).numpy(), _true_ratio(), atol=1e-6)


def test_flipped_labels_flip_the_sign() -> None:
    np.testing.assert_allclose(_optimum(REAL_COUNTS, FAKE_COUNTS).numpy(), -_true_ratio(), atol=1e-6)


def test_loss_value() -> None:
    """Binary cross-entropy term by term, a mean over either kind."""
    fake, real, smoothing = [0.3, -1.2, 2.0], [0.7, -0.4], 0.1
    terms = [-(0.9 * math.log(1 / (1 + math.exp(-d))) + 0.1 * math.log(1 / (1 + math.exp(d)))) for d in fake]
    others = [-(0.1 * math.log(1 / (1 + math.exp(-d))) + 0.9 * math.log(1 / (1 + math.exp(d)))) for d in real]
    loss = classifier_loss(torch.tensor(fake, dtype=torch.float64), torch.tensor(real, dtype=torch.float64), label_smoothing=smoothing)
    assert loss.item() == pytest.approx((sum(terms) / 3 + sum(others) / 2) / 2)
    assert classifier_loss(torch.zeros(7), torch.zeros(2)).item() == pytest.approx(math.log(2))


def test_label_smoothing_bounds_the_optimum() -> None:
    logits = _optimum(FAKE_COUNTS, REAL_COUNTS, label_smoothing=0.2)
    p, q = FAKE_COUNTS, REAL_COUNTS
    np.testing.assert_allclose(logits.numpy(), np.log((0.8 * p + 0.2 * q) / (0.2 * p + 0.8 * q)), atol=1e-6)
    assert logits.abs().max() < math.log(0.8 / 0.2)


def test_mixture_ratio() -> None:
    """log(share + (1 - share) rho_M / rho_T), never under log(share), equal to the plain ratio where the two laws agree."""
    ell = torch.linspace(-5, 5, 11, dtype=torch.float64)
    mixed = log_ratio(ell, real_share=0.05)
    np.testing.assert_allclose(mixed.numpy(), [math.log(0.05 + 0.95 * math.exp(x)) for x in ell.tolist()], atol=1e-12)
    assert mixed[5].item() == pytest.approx(0, abs=1e-12)
    extreme = log_ratio(torch.tensor([-1e4, 1e4], dtype=torch.float64), real_share=0.05)
    assert extreme.tolist() == pytest.approx([math.log(0.05), 1e4 + math.log(0.95)])


def test_clip_acts_before_the_mixture() -> None:
    ell = log_ratio(torch.tensor([-9.0, 0.5, 9.0]), logit_clip=3.0)
    assert ell.tolist() == pytest.approx([-3.0, 0.5, 3.0])
    mixed = log_ratio(torch.tensor([9.0]), logit_clip=3.0, real_share=0.25)
    assert mixed.item() == pytest.approx(math.log(0.25 + 0.75 * math.exp(3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    fake = torch.tensor([-1e4, 1e4, 0.0], dtype=dtype, requires_grad=True)
    real = torch.tensor([1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    loss = classifier_loss(fake, real, label_smoothing=0.1)
    grads = torch.autograd.grad(loss, [fake, real])
    assert loss.isfinite() and all(g.isfinite().all() for g in grads)
    for share in (0.0, 0.05):
        assert log_ratio(fake.detach(), real_share=share).isfinite().all()


def test_gaussians() -> None:
    """A linear classifier on (x, x^2) finds the closed-form log-ratio of two Gaussians, from their quantiles."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    z = normal.icdf((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    fake, real = 0.8 + 0.9 * z, -0.3 + 1.1 * z

    def features(x: Tensor) -> Tensor:
        return torch.stack([torch.ones_like(x), x, x**2], -1)

    theta = _minimise(lambda t: classifier_loss(features(fake) @ t, features(real) @ t), 3)
    closed = [
        math.log(1.1 / 0.9) - 0.8**2 / (2 * 0.9**2) + 0.3**2 / (2 * 1.1**2),
        0.8 / 0.9**2 + 0.3 / 1.1**2,
        1 / (2 * 1.1**2) - 1 / (2 * 0.9**2),
    ]
    assert theta.tolist() == pytest.approx(closed, abs=0.01)


def _batch(rng: np.random.Generator, size: int, shift: float) -> dict[str, Tensor]:
    """s and a from one law for both kinds, s' = s + shift + noise: only s' tells the kinds apart."""
    obss, noise = rng.normal(size=(size, 1)), rng.normal(size=(size, 1))
    columns = {"observations": obss, "actions": rng.uniform(-1, 1, (size, 1)), "next_observations": obss + shift + noise}
    return {key: torch.as_tensor(value, dtype=torch.float32) for key, value in columns.items()}


def test_trained_alignment_recovers_the_shift_of_the_next_state() -> None:
    """d(s, a, s') sees the joint: the log-ratio of N(s + .5, 1) to N(s - .5, 1) is s' - s, from 3:1 batches."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = DAMOConfig(classifier_hidden_dims=(), classifier_lr=0.05)
    alignment = DataAlignment(config, obs_dim=1, action_dim=1)
    for _ in range(250):
        figures = alignment.update(_batch(rng, 200, -0.5), _batch(rng, 600, 0.5))
    test = _batch(rng, 1000, 0.0)
    ell = alignment.log_ratio(test["observations"], test["actions"], test["next_observations"], real_share=0.05)
    closed = (test["next_observations"] - test["observations"]).squeeze(-1)
    assert (ell - closed).abs().mean() < 0.15
    assert figures["damo/classifier_accuracy"].item() == pytest.approx(0.69, abs=0.06)  # Phi(.5)


def test_standardisation() -> None:
    classifier = RatioClassifier(4, (8,))
    rows = torch.randn(5, 2), torch.randn(5, 1), torch.randn(5, 1)
    torch.testing.assert_close(classifier.standardise(*rows), torch.cat(rows, -1))
    mean, std = torch.arange(4.0), torch.tensor([1.0, 2.0, 4.0, 8.0])
    classifier.set_statistics(mean, std)
    torch.testing.assert_close(classifier.standardise(*rows), (torch.cat(rows, -1) - mean) / std)
    assert {"input_mean", "input_std"} <= set(classifier.state_dict())
    assert classifier(classifier.standardise(*rows)).shape == (5,)


def test_statistics_are_laid_out_as_obs_action_next_obs() -> None:
    alignment = DataAlignment(DAMOConfig(), obs_dim=2, action_dim=1)
    alignment.set_statistics((torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), (torch.tensor([5.0]), torch.tensor([6.0])))
    assert alignment.classifier.input_mean.tolist() == [1, 2, 5, 1, 2]
    assert alignment.classifier.input_std.tolist() == [3, 4, 6, 3, 4]


def test_gradient_penalty() -> None:
    """(|slope| - 1)^2 of a linear logit does not depend on the points; at zero slope value and gradient are finite."""
    slope = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
    fake, real = torch.randn(7, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    penalty = gradient_penalty(lambda x: x @ slope, fake, real)
    (grad,) = torch.autograd.grad(penalty, slope)
    assert penalty.item() == pytest.approx(16)
    assert grad.tolist() == pytest.approx([2 * 4 * 3 / 5, 2 * 4 * 4 / 5])
    flat = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: x @ flat, fake, real)
    (grad,) = torch.autograd.grad(penalty, flat)
    assert penalty.item() == pytest.approx(1) and grad.isfinite().all()


def test_gradient_penalty_points_lie_between_the_kinds() -> None:
    seen: list[Tensor] = []

    def logits(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum(-1)

    gradient_penalty(logits, torch.zeros(50, 3), torch.ones(80, 3))
    (points,) = seen
    assert points.shape == (50, 3) and (points > 0).all() and (points < 1).all()
    assert (points.std(-1) < 1e-6).all() and points[:, 0].std() > 0.1  # one mixing share for each pair


@pytest.mark.parametrize(("rate", "due"), [(0.5, [0, 1] * 5), (1.0, [1] * 10), (2.0, [2] * 10), (0.0, [0] * 10), (1.5, [1, 2] * 5)])
def test_updates_due(rate: float, due: list[int]) -> None:
    alignment = DataAlignment(DAMOConfig(classifier_updates_per_step=rate, classifier_hidden_dims=(2,)), 1, 1)
    seen = []
    for _ in due:
        assert alignment.updates_due() == alignment.updates_due()  # asking does not count
        seen.append(alignment.updates_due())
        alignment.advance()
    assert seen == due


def test_updates_due_adds_up_for_a_fraction_without_exact_float() -> None:
    alignment = DataAlignment(DAMOConfig(classifier_updates_per_step=0.1, classifier_hidden_dims=(2,)), 1, 1)
    total = 0
    for _ in range(1000):
        total += alignment.updates_due()
        alignment.advance()
    assert total in (99, 100)


def test_centering_subtracts_a_running_mean_of_fake_rows() -> None:
    alignment = DataAlignment(DAMOConfig(ratio_centering=True), 1, 1)
    ell = torch.tensor([100.0, 3.0, 1.0])
    for _ in range(3000):
        centred = alignment.centred(ell, num_real=1)
    assert centred.tolist() == pytest.approx([98, 1, -1], abs=1e-3)
    off = DataAlignment(DAMOConfig(), 1, 1)
    assert off.centred(ell, num_real=1) is ell and off.centre.item() == 0


@pytest.mark.parametrize(
    ("bound", "bounded"),
    [({}, lambda x: x), ({"ratio_mode": "mixture"}, lambda x: math.log(0.2 + 0.8 * math.exp(x))), ({"logit_clip": 0.1}, lambda x: 0.1)],
)
def test_absorbing_value(bound: dict[str, Any], bounded: Callable[[float], float]) -> None:
    """-alpha ell_abs / (1 - gamma), ell_abs from each kind's share gamma p / (1 - gamma + gamma p) of the occupancy, bounded as ell is."""
    alignment = DataAlignment(DAMOConfig(damo_alpha=1.5, **bound), 1, 1)
    # so many rows that the pseudo-counts no longer matter
    fake = {"terminals": torch.tensor([[1.0], [0.0], [0.0], [0.0]]).repeat(200_000, 1)}
    real = {"terminals": torch.tensor([[1.0]] + [[0.0]] * 9).repeat(100_000, 1)}
    share = {p: 0.9 * p / (0.1 + 0.9 * p) for p in (0.25, 0.1)}
    expected = -1.5 * bounded(math.log(share[0.25] / share[0.1])) / 0.1
    assert alignment.absorbing_value(real, fake, gamma=0.9, real_share=0.2).item() == pytest.approx(expected, rel=5e-3)
    assert alignment.absorbing_value(fake, fake, gamma=0.9, real_share=0.2).isfinite()
    none = {"terminals": torch.zeros(4, 1)}
    fresh = DataAlignment(DAMOConfig(damo_alpha=1.5), 1, 1)
    assert fresh.absorbing_value(none, none, gamma=0.9, real_share=0.2).item() == pytest.approx(0)
    assert fresh.absorbing_value(none, fake, gamma=0.9, real_share=0.2).isfinite()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uneven_batches_leave_no_offset(smoothing: float) -> None:
    """12 real rows beside 244 fake ones of the same law, as in the host's batches: ell is zero, with smoothing too."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = DAMOConfig(classifier_hidden_dims=(), classifier_lr=0.02, classifier_label_smoothing=smoothing)
    alignment = DataAlignment(config, obs_dim=1, action_dim=1)
    for _ in range(200):
        alignment.update(_batch(rng, 12, 0.0), _batch(rng, 244, 0.0))
    test = _batch(rng, 1000, 0.0)
    ell = alignment.log_ratio(test["observations"], test["actions"], test["next_observations"], real_share=0.05)
    assert abs(ell.mean().item()) < 0.2


def test_absorbing_value_does_not_hang_on_the_first_batch() -> None:
    """Equal terminal rates give a value near zero before long, however rare terminals are in a small batch."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        alignment = DataAlignment(DAMOConfig(damo_alpha=1.0), obs_dim=1, action_dim=1)
        values = []
        for _ in range(4000):
            real, fake = ({"terminals": torch.as_tensor(rng.random((n, 1)) < 0.003).float()} for n in (12, 244))
            values.append(alignment.absorbing_value(real, fake, gamma=0.99, real_share=0.2).item())
        assert max(map(abs, values)) < 200 and abs(values[-1]) < 25  # one sigma of log(p) is 1/sqrt(144) there: 6 points


def test_the_classifiers_schedule_continues_after_loading() -> None:
    config = DAMOConfig(classifier_updates_per_step=0.5, classifier_hidden_dims=(2,))
    first, second = DataAlignment(config, 1, 1), DataAlignment(config, 1, 1)
    first.advance()
    second.load_state_dict(first.state_dict())
    assert first.updates_due() == second.updates_due() == 1
