"""DAMO and its terms on the classes of either host: the same steps, and state dicts that go from one host's to the other's."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_kit_parity import seeded
from test_kit_parity_baselines import assert_same_steps, draw_batch, worlds

from offlinerlkit_damo import DAMOConfig, DAMOPolicy, with_data_alignment, with_maximin_objective
from offlinerlkit_damo.damo import addon

OBS = 3
CONFIG = DAMOConfig(damo_alpha=0.7, classifier_hidden_dims=(8,), classifier_updates_per_step=1, ratio_centering=True, absorbing=True)


@pytest.fixture(autouse=True)
def both_hosts_steps_are_known(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has one host, whose classes the add-on may extend; here they are those of two."""
    classes = [getattr(build.host, step.__name__) for build in both for step in addon.HOST_STEPS]
    monkeypatch.setattr(addon, "HOST_STEPS", tuple(classes))


def damo(mopo: type[Any]) -> type[Any]:
    """DAMOPolicy itself where this process runs on `mopo`'s host, else what it is made of."""
    return DAMOPolicy if issubclass(DAMOPolicy, mopo) else with_data_alignment(with_maximin_objective(mopo))


CASES = {
    "damo": ("mopo", damo),
    "mopo with data alignment": ("mopo", with_data_alignment),
    "mopo with the maximin objective": ("mopo", with_maximin_objective),
    "mobile with data alignment": ("mobile", with_data_alignment),
    "mobile with both": ("mobile", lambda mobile: with_data_alignment(with_maximin_objective(mobile))),
}


def make(build: Any, case: str, world: Any = None) -> Any:
    """The case's policy of one host, with the other parts of that host."""
    kind, extended = CASES[case]
    name = f"{kind.upper()}Policy"
    policy_class = partial(extended(getattr(build.host, name)), config=CONFIG)
    extended_build = type(build)(SimpleNamespace(**{**vars(build.host), name: policy_class}))
    world = world or build.dynamics()
    return extended_build.sac(dynamics=world) if kind == "mopo" else extended_build.mobile(dynamics=world, like_the_kit=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("direction", [(0, 1), (1, 0)])
def test_a_trained_state_goes_to_the_other_host(both: Any, direction: tuple[int, int], case: str) -> None:
    """Every entry, the classifier's and its statistics' among them; and the policy acts as it did."""
    writer, reader = (make(both[i], case) for i in direction)
    seeded(lambda: writer.learn(draw_batch(both)))
    torch.save(writer.state_dict(), "x.pth")
    reader.load_state_dict(torch.load("x.pth"))
    a, b = writer.state_dict(), reader.state_dict()
    assert list(a) == list(b)
    assert any(key.startswith("data_alignment.") for key in a) == ("maximin" not in case)
    assert all(torch.equal(a[key], b[key]) for key in a)
    obs = np.random.randn(20, OBS).astype(np.float32)
    actions = [policy.select_action(obs, deterministic=True) for policy in (writer, reader)]
    np.testing.assert_allclose(actions[1], actions[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("optimiser")
def test_steps_with_the_terms(both: Any, noise: Any, case: str) -> None:
    kit, ours = (make(build, case, world) for build, world in zip(both, worlds(both), strict=True))
    ours.load_state_dict(kit.state_dict())
    batch = draw_batch(both)
    assert_same_steps(kit, ours, lambda policy: policy.learn(batch), noise)
