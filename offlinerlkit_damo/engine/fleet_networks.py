"""The networks and optimisers of several runs side by side: one batched product a layer, one optimiser call a network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from offlinerlkit_damo.engine.adam import fused_step
from offlinerlkit_damo.engine.gaussian import TanhGaussian
from offlinerlkit_damo.engine.layers import Layer, critic_layers, linears, tanh_gaussian_layers
from offlinerlkit_damo.engine.mlp import StackedMLP, propagate
from offlinerlkit_damo.engine.networks import rebind
from offlinerlkit_damo.errors import UserError


class RunsMLP(StackedMLP):
    """A StackedMLP whose members come in R groups of `each`, and every group reads rows of its own: [R, B, in] -> [R * each, B, out]."""

    def __init__(self, members: Sequence[Sequence[Layer]], *, each: int = 1) -> None:
        super().__init__(members)
        self._each = each

    def _spread(self, x: Tensor) -> Tensor:
        return x if self._each == 1 else x[:, None].expand(-1, self._each, -1, -1).flatten(0, 1)

    def _gathered(self, grad: Tensor) -> Tensor:
        return grad if self._each == 1 else grad.unflatten(0, (-1, self._each)).sum(1)

    def differentiable(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The block as a leaf of autograd's own graph, and the networks as a function of it: for gradients of gradients."""
        leaf = self.block.detach().requires_grad_()
        views = self._views(leaf)
        return leaf, lambda x: propagate(self._spread(x), *views)[-1]


class FleetNetworks:
    """Actors, twin critics, target twins and classifiers of R policies, whose modules stay theirs.

    Shapes: R runs, B rows of each, E = 2 critics, d and a the sizes of observation and action. Raises UserError for policies whose
    networks differ in shape, or are not those that the fast engine takes.
    """

    def __init__(self, policies: Sequence[Any]) -> None:
        try:
            actors = [tanh_gaussian_layers(policy.actor) for policy in policies]
            (self._squashing,) = {squashing for _, squashing in actors}
            self.actors = RunsMLP([layers for layers, _ in actors])
            critics, old = (
                [critic_layers(getattr(policy, name)) for policy in policies for name in names]
                for names in (("critic1", "critic2"), ("critic1_old", "critic2_old"))
            )
            self.critics, self.old_critics = RunsMLP(critics, each=2), RunsMLP(old, each=2)
            classifiers = [linears(policy.data_alignment.classifier.network, head=True) for policy in policies]
            self.classifiers = RunsMLP([[[layer] for layer in layers] for layers in classifiers])
            for r, policy in enumerate(policies):
                rebind(policy.actor_optim, [self.actors.rows[r]])
                rebind(policy.critic1_optim, [self.critics.rows[2 * r]])
                rebind(policy.critic2_optim, [self.critics.rows[2 * r + 1]])
                rebind(policy.data_alignment.optim, [self.classifiers.rows[r]])
        except (ValueError, AttributeError) as error:
            raise UserError(f"these runs cannot train as a fleet: {error}; train them one by one") from None

    def sample(self, outputs: Tensor, noise: Tensor) -> TanhGaussian:
        """A sample of each policy for the actors' outputs [R, B, 2a] and standard normal noise [R, B, a]."""
        return TanhGaussian(outputs, *self._squashing, noise=noise)

    def q(self, obss: Tensor, actions: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every layer's input, and Q_i(s, a) [R, E, B]."""
        *inputs, q = self.critics.forward(torch.cat([obss, actions], -1))
        by_run: Tensor = q.squeeze(-1).unflatten(0, (-1, 2))
        return inputs, by_run

    def old_q(self, obss: Tensor, actions: Tensor) -> Tensor:
        """Q_i(s, a) [R, E, B] of the target critics."""
        q: Tensor = self.old_critics.forward(torch.cat([obss, actions], -1))[-1].squeeze(-1).unflatten(0, (-1, 2))
        return q

    def critics_backward(self, inputs: list[Tensor], grad: Tensor) -> None:
        """Put the critics' gradients in their place, given that for Q [R, E, B]."""
        self.critics.backward(inputs, grad.flatten(0, 1).unsqueeze(-1), frozen=False, want_input=False, accumulate=False)

    def actions_backward(self, inputs: list[Tensor], grad: Tensor) -> Tensor:
        """The gradient for the actions [R, B, a], given that for Q [R, E, B]."""
        actions = slice(self.actors.weights[0].shape[-1], None)
        found = self.critics.backward(inputs, grad.flatten(0, 1).unsqueeze(-1), frozen=True, want_input=True, columns=actions)
        assert found is not None
        return found


class FleetAdam:
    """Adam over one parameter of each of several optimisers, in one call; they keep their state and their learning rates.

    A state that they have already is taken over. On CUDA it can be captured in a graph, and the rates are tensors there.

    Args:
        optims: Adam, of one parameter each, which has its `grad` already.
    """

    def __init__(self, optims: Sequence[torch.optim.Optimizer]) -> None:
        groups: dict[float, list[torch.optim.Optimizer]] = {}
        for optim in optims:
            groups.setdefault(_rate(optim), []).append(optim)
        self._groups = list(groups.values())
        first = self._parameter(optims[0])
        captured = first.device.type == "cuda"
        self._optim = torch.optim.Adam(
            [
                {
                    "params": [self._parameter(optim) for optim in group],
                    "lr": torch.tensor(rate, device=first.device) if captured else rate,
                }
                for rate, group in groups.items()
            ],
            fused=True,
            capturable=captured,
        )
        for optim in optims:
            parameter = self._parameter(optim)
            if not optim.state[parameter]:
                zeros = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in ("exp_avg", "exp_avg_sq")}
                # as Adam makes them; made here, because both optimisers have to hold the same ones
                optim.state[parameter] = {"step": torch.zeros((), device=parameter.device), **zeros}
            self._optim.state[parameter] = optim.state[parameter]
            optim._opt_called = True  # type: ignore[attr-defined]  # its schedule would warn that it never steps

    @staticmethod
    def _parameter(optim: torch.optim.Optimizer) -> nn.Parameter:
        (group,) = optim.param_groups
        (parameter,) = group["params"]
        found: nn.Parameter = parameter
        return found

    def step(self) -> None:
        """One step of all."""
        fused_step(self._optim)

    def forget(self, optims: Collection[torch.optim.Optimizer]) -> None:
        """Follow the rates of `optims` no longer: their run has ended, and its schedule with it."""
        self._groups = [[optim for optim in group if optim not in optims] for group in self._groups]

    def follow_rates(self) -> None:
        """Take the learning rates that the optimisers have now; those that began with the same one must still have the same."""
        for group, optims in zip(self._optim.param_groups, self._groups, strict=True):
            if not optims:
                continue
            rate = _rate(optims[0])
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def _rate(optim: torch.optim.Optimizer) -> float:
    return float(optim.param_groups[0]["lr"])
