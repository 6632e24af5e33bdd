"""Credit through a recall: how a loss on what was remembered reaches the memories it rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from memory.episodic.memory import EpisodicMemory
from memory.episodic.recall import Recall


class TrainableMemories:
    """Stored keys and values as parameters, trained by the network's backward pass (Pritzel et al. 2017, section 3.3).

    The paper gives neither optimiser state nor rates for them. Here values take plain gradient steps on half the
    squared error of each query, so that a memory of weight w moves by `value_learning_rate * w * error`: the tabular
    rule shared out by the kernel. Keys follow RMSProp, since the scale of their gradient grows with the square of the
    returns'; the second moment is one number for all keys, because one for each would double the memory's bytes and
    never warm up (a memory is recalled a few times in its life).

    Args:
        memory: what the recalls come from.
        key_learning_rate: step of a key whose gradient has the usual size; 0 leaves keys as they were written.
        value_learning_rate: as above; 0 leaves values to the writes alone.
        decay: of the running mean of squared key gradients.
    """

    def __init__(
        self, memory: EpisodicMemory, key_learning_rate: float, value_learning_rate: float, decay: float = 0.95
    ) -> None:
        self.memory = memory
        self.key_learning_rate = key_learning_rate
        self.value_learning_rate = value_learning_rate
        self.decay = decay
        self.squared_gradient = 0.0

    def attach(self, queries: Tensor, recall: Recall) -> Recall:
        """The same recall with keys and values as leaves, and weights on the graph of both and of `queries`."""
        keys = recall.keys.detach().requires_grad_()
        values = recall.values.detach().requires_grad_()
        return replace(recall, keys=keys, values=values, weights=self.memory.kernel(queries, keys, recall.valid))

    def step(self, recall: Recall, actions: Tensor) -> None:
        """Write back keys and values moved against their gradients, after the backward pass of a mean squared error.

        Args:
            recall: what `attach` returned.
            actions: the store each row was read from, int64 `[batch]`.
        """
        mask = recall.valid
        rows, inverse = self.memory.rows(actions, recall.indices)[mask].unique(return_inverse=True)
        table = self.memory.table
        if self.value_learning_rate:
            assert recall.values.grad is not None, "backward before step"
            # The mean over the batch belongs to the network's loss: each query moves its own memories in full.
            gradients = recall.values.grad[mask] * (len(actions) / 2)
            total = gradients.new_zeros(len(rows)).index_add_(0, inverse, gradients)
            table.values[rows] -= self.value_learning_rate * total
        if self.key_learning_rate:
            assert recall.keys.grad is not None, "backward before step"
            gradients = recall.keys.grad[mask]
            mean_square = gradients.square().mean().item()
            self.squared_gradient = self.decay * self.squared_gradient + (1 - self.decay) * mean_square
            total = gradients.new_zeros(len(rows), gradients.shape[1]).index_add_(0, inverse, gradients)
            key_step = self.key_learning_rate / (self.squared_gradient**0.5 + 1e-8)
            table.move_keys(rows, table.keys[rows] - key_step * total)

    def state_dict(self) -> dict[str, Any]:
        """The running second moment; keys and values belong to the memory's own state."""
        return {"squared_gradient": self.squared_gradient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self.squared_gradient = state["squared_gradient"]
