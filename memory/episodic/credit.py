"""Which embedding does inference, and how the encoder learns from it (Hansen 2017, section 2; Figure 1).

A memory was written by a forward pass that is long gone. Each mechanism hands out keys for a set of memories, to be
inferred with; their gradient is what the encoder learns from. The order of an update is always

    keys = credit.attach(slots, stored)      infer with them, and take the loss's gradient
    loss.backward()
    credit.settle()                          what is due after the backward pass
    credit.remember(slots, observations, keys, context)   of the memories written now: it may add to their gradient
    optimiser.step()                         of the encoder
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from memory.episodic.reinstatement import Reinstatement
from memory.episodic.table import Slots


class Credit(Protocol):
    """A way for a loss to reach the encoder through stored memories."""

    @property
    def asks_at_write(self) -> bool:
        """Whether `remember` has a gradient for the keys of memories as they are written."""
        ...

    @property
    def fresh(self) -> Tensor | None:
        """What the encoder of now makes of the memories last attached, `[n, key_size]`, where that had to be known."""
        ...

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        """Keys `[n, key_size]` of the memories in distinct `slots`, int64 `[n]`, whose stored keys are given."""
        ...

    def infer(self, slots: Tensor, stored: Tensor) -> Tensor:
        """Keys to answer with where nothing is learned: as `attach` gives, but off the graph and leaving no trace."""
        ...

    def settle(self) -> dict[str, float]:
        """Follow the gradients of the keys last attached, where that is not done by the backward pass itself.

        Returns:
            What there is to tell of it, by name.
        """
        ...

    def remember(self, slots: Tensor, observations: Tensor, keys: Tensor, context: Tensor) -> None:
        """Memories are being written to `slots`: observations uint8 `[n, *shape]`, keys `[n, key_size]`.

        The keys are a leaf whose gradient reaches the encoder. The context `[n, any]` is what else is known of a memory
        when it is written, such as its label.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes kept for memories, beside their keys and observations."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes, but for encoder and reinstatement."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...


class Frozen:
    """No credit: the encoder stays as it is. What every other mechanism must beat."""

    asks_at_write = False
    fresh: Tensor | None = None

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        return stored.detach()

    def infer(self, slots: Tensor, stored: Tensor) -> Tensor:
        return stored.detach()

    def settle(self) -> dict[str, float]:
        return {}

    def remember(self, slots: Tensor, observations: Tensor, keys: Tensor, context: Tensor) -> None:
        pass

    @property
    def nbytes(self) -> int:
        return 0

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class _StoredKeys(Frozen):
    """Infers with stored keys, and has their gradient to follow when it settles."""

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        self._slots, self._attached = slots, stored.detach().clone().requires_grad_()
        return self._attached


class TrainableKeys(_StoredKeys):
    """The stored keys are themselves parameters (as in NEC); the encoder learns nothing from them.

    They follow RMSProp, whose second moment is one number for all keys: gradients shrink with the number of memories.

    Args:
        memory: whose keys they are.
        learning_rate: step of a key whose gradient has the usual size.
    """

    def __init__(self, memory: Slots, learning_rate: float) -> None:
        self._memory = memory
        self._learning_rate = learning_rate
        self._mean_square = 0.0

    def settle(self) -> dict[str, float]:
        gradient = self._attached.grad
        assert gradient is not None, "backward before settle"
        self._mean_square = _followed(self._mean_square, gradient)
        moved = self._attached.detach() - self._learning_rate / (self._mean_square**0.5 + 1e-12) * gradient
        self._memory.table.move_keys(self._memory.rows_of(self._slots), moved)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"mean_square": self._mean_square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean_square = state["mean_square"]


class Backpropagation(_StoredKeys):
    """The forward pass of every memory is kept: the true gradient, and the oracle of all others.

    Weights change after a pass, so each write also keeps the weights it was made with. For small memories only.

    Args:
        encoder: from observations float32 `[n, *shape]` to keys.
        capacity: memories.
    """

    def __init__(self, encoder: nn.Module, capacity: int) -> None:
        self._encoder = encoder
        self._pass_of = torch.full((capacity,), -1)
        self._row_of = torch.zeros(capacity, dtype=torch.int64)
        self._passes: dict[int, tuple[dict[str, Tensor], Tensor, Tensor]] = {}
        self._next = 0

    def settle(self) -> dict[str, float]:
        assert self._attached.grad is not None, "backward before settle"
        parameters = dict(self._encoder.named_parameters())
        passes, rows = self._pass_of[self._slots], self._row_of[self._slots]
        for number in passes.unique().tolist():
            weights, _, keys = self._passes[number]
            mine = passes == number
            gradient = torch.zeros_like(keys).index_add(0, rows[mine], self._attached.grad[mine])
            found = torch.autograd.grad(keys, list(weights.values()), gradient, retain_graph=True)
            for name, one in zip(weights, found, strict=True):
                parameter = parameters[name]
                parameter.grad = one if parameter.grad is None else parameter.grad.add_(one)
        return {}

    def remember(self, slots: Tensor, observations: Tensor, keys: Tensor, context: Tensor) -> None:
        parameters = self._encoder.named_parameters()
        self._pass({name: parameter.detach().clone() for name, parameter in parameters}, observations)
        self._pass_of[slots], self._row_of[slots] = self._next, torch.arange(len(slots))
        self._next += 1
        alive = set(self._pass_of.unique().tolist())
        self._passes = {number: kept for number, kept in self._passes.items() if number in alive}

    @property
    def nbytes(self) -> int:
        """Of the weights and observations kept; what autograd keeps of the passes comes on top."""
        kept = [one for weights, observations, _ in self._passes.values() for one in (*weights.values(), observations)]
        return sum(one.nbytes for one in kept)

    def state_dict(self) -> dict[str, Any]:
        """The weights and observations of the passes, which are made again from them."""
        return {
            "pass_of": self._pass_of,
            "row_of": self._row_of,
            "next": self._next,
            "passes": {number: (weights, observations) for number, (weights, observations, _) in self._passes.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pass_of.copy_(state["pass_of"])
        self._row_of.copy_(state["row_of"])
        self._passes = {}
        for self._next, (weights, observations) in state["passes"].items():
            self._pass(weights, observations)
        self._next = state["next"]

    def _pass(self, weights: dict[str, Tensor], observations: Tensor) -> None:
        """Make the pass of the next number, and keep it."""
        weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        keys = functional_call(self._encoder, weights, observations.float())
        self._passes[self._next] = weights, observations, keys


class Exact(Frozen):
    """Infers with fresh embeddings of what comes back: a true gradient, as good as the reinstatement is."""

    def __init__(self, encoder: nn.Module, reinstatement: Reinstatement) -> None:
        self._encoder = encoder
        self._reinstatement = reinstatement

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        keys: Tensor = self._encoder(self._reinstatement.recall(slots, stored))
        self.fresh = keys.detach()
        return keys

    def infer(self, slots: Tensor, stored: Tensor) -> Tensor:
        with torch.no_grad():
            keys: Tensor = self._encoder(self._reinstatement.recall(slots, stored))
        return keys


class Approximate(Exact):
    """Infers with the stored embeddings, and hands their gradient to the fresh ones (straight through).

    The gradient is right where stored and fresh agree. Elsewhere it moves the fresh embedding by what would have been
    right for another, and may drive the two apart.

    Args:
        trust: least cosine of stored and fresh at which a memory's gradient counts; -1 counts all, as the paper does.
    """

    def __init__(self, encoder: nn.Module, reinstatement: Reinstatement, trust: float = -1.0) -> None:
        super().__init__(encoder, reinstatement)
        self._trust = trust

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        fresh = super().attach(slots, stored)
        stored = stored.detach()
        if self._trust > -1.0:
            agree = functional.cosine_similarity(fresh.detach(), stored, dim=1) >= self._trust
            fresh = torch.where(agree[:, None], fresh, fresh.detach())
        return fresh + (stored - fresh).detach()

    def infer(self, slots: Tensor, stored: Tensor) -> Tensor:
        return stored.detach()


class SyntheticGradient(_StoredKeys):
    """A network foretells, when a memory is written, the gradient it will get while it lives (Jaderberg et al. 2016).

    It learns from the gradients that memories do get. These shrink with the number of memories that share a loss, and
    with the size of keys, so it is given keys of one size and foretells gradients times the number of memories, in
    units of their running size. A memory of `n`, of which `b` are written at a time, lives for `n / b` updates: summed
    over its life, and over the `b` written with it, that is the mean of what is foretold. Where few share a
    loss, as in REC those recalled, `n` is how many these are, and the sum is right up to a factor.

    Args:
        model: from keys and context side by side `[n, key_size + context]` to gradients `[n, key_size]`.
        optimiser: of the model.
        capacity: memories.
        context_size: 0 leaves the context out.
    """

    asks_at_write = True

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, capacity: int, context_size: int) -> None:
        self._model = model
        self._optimiser = optimiser
        self._context = torch.zeros(capacity, context_size)
        self._mean_square = 0.0

    def settle(self) -> dict[str, float]:
        return self.learn(self._slots, self._attached)

    def learn(self, slots: Tensor, keys: Tensor) -> dict[str, float]:
        """Learn from the gradients that keys in these slots got; tells the `synthetic` error, 1 for knowing nothing."""
        assert keys.grad is not None, "backward before settle"
        target = keys.grad * len(slots)
        self._mean_square = _followed(self._mean_square, target)
        loss = functional.mse_loss(self._foretold(slots, keys.detach()), target / self._unit())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        return {"synthetic": loss.item()}

    @property
    def nbytes(self) -> int:
        return self._context.nbytes

    def remember(self, slots: Tensor, observations: Tensor, keys: Tensor, context: Tensor) -> None:
        self._context[slots] = context[:, : self._context.shape[1]]
        with torch.no_grad():
            foretold = self._foretold(slots, keys)
        keys.backward(foretold * (self._unit() / len(keys)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self._model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "context": self._context,
            "mean_square": self._mean_square,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(copy.deepcopy(state["optimiser"]))
        self._context.copy_(state["context"])
        self._mean_square = state["mean_square"]

    def _foretold(self, slots: Tensor, keys: Tensor) -> Tensor:
        keys = functional.rms_norm(keys, keys.shape[1:])
        foretold: Tensor = self._model(torch.cat([keys, self._context[slots]], dim=1))
        return foretold

    def _unit(self) -> float:
        return self._mean_square**0.5 + 1e-12


class Hybrid:
    """A reinstating mechanism, and a synthetic gradient that learns from the gradients it brings.

    Args:
        reinstating: `Exact` or `Approximate`.
        synthetic: foretells at the write; its share of the credit comes on top.
    """

    asks_at_write = True

    def __init__(self, reinstating: Credit, synthetic: SyntheticGradient) -> None:
        self._reinstating = reinstating
        self._synthetic = synthetic

    @property
    def fresh(self) -> Tensor | None:
        return self._reinstating.fresh

    def attach(self, slots: Tensor, stored: Tensor) -> Tensor:
        self._slots, self._attached = slots, self._reinstating.attach(slots, stored)
        self._attached.retain_grad()
        return self._attached

    def infer(self, slots: Tensor, stored: Tensor) -> Tensor:
        return self._reinstating.infer(slots, stored)

    def settle(self) -> dict[str, float]:
        told = {**self._reinstating.settle(), **self._synthetic.learn(self._slots, self._attached)}
        # It would hold on to the graph until the next update.
        del self._attached
        return told

    @property
    def nbytes(self) -> int:
        return self._reinstating.nbytes + self._synthetic.nbytes

    def remember(self, slots: Tensor, observations: Tensor, keys: Tensor, context: Tensor) -> None:
        self._reinstating.remember(slots, observations, keys, context)
        self._synthetic.remember(slots, observations, keys, context)

    def state_dict(self) -> dict[str, Any]:
        return {"reinstating": self._reinstating.state_dict(), "synthetic": self._synthetic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reinstating.load_state_dict(state["reinstating"])
        self._synthetic.load_state_dict(state["synthetic"])


class Sample:
    """Which memories get credit: some, drawn anew each time, so that credit costs the same however large the store is.

    The gradient of each that is drawn counts for those that are not. Where inference is by stored keys its expectation
    is that of all; where those drawn answer with fresh ones, only as far as fresh and stored agree.

    Args:
        count: how many are drawn; 0 for all.
        generator: what draws them.
    """

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self._count = count
        self._generator = generator

    def draw(self, memories: int) -> tuple[Tensor, float]:
        """Distinct slots of a store of so many memories, int64 `[n]`, and for how many memories each of them counts."""
        if not 0 < self._count < memories:
            return torch.arange(memories), 1.0
        drawn = torch.randperm(memories, generator=self._generator)[: self._count]
        return drawn, memories / self._count

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._generator.set_state(state["generator"])


def scale_gradient(keys: Tensor, factor: float) -> Tensor:
    """The same keys; their gradient arrives multiplied."""
    return keys if factor == 1.0 else keys.detach() + factor * (keys - keys.detach())


def _followed(mean_square: float, gradient: Tensor) -> float:
    """The running mean square of gradients, one update on.

    As a store fills, their sizes change by orders of magnitude: a longer mean would lag behind.
    """
    now = gradient.square().mean().item()
    return 0.9 * mean_square + 0.1 * now if mean_square else now
