"""What the equations of NTM and DNC say, in plain Python: one sequence, one number at a time, float64, no tensors.

Everything here is written for obviousness, from the equations; nothing is fast. What is added so that nothing divides
by zero is part of the equations.
"""

import math
from collections.abc import Sequence

Vector = Sequence[float]
Matrix = Sequence[Vector]
EPSILON = 1e-6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def oneplus(x: float) -> float:
    return 1 + softplus(x)


def softmax(scores: Vector) -> list[float]:
    largest = max(scores)
    powers = [math.exp(score - largest) for score in scores]
    return [power / sum(powers) for power in powers]


def cosine(left: Vector, right: Vector) -> float:
    product = squared_left = squared_right = 0.0
    for a, b in zip(left, right, strict=True):
        product += a * b
        squared_left += a * a
        squared_right += b * b
    return product / (math.sqrt(squared_left + EPSILON) * math.sqrt(squared_right + EPSILON))


def content_weights(key: Vector, strength: float, memory: Matrix, mask: Vector | None = None) -> list[float]:
    if mask is None:
        mask = [1.0] * len(key)
    masked_key = [k * m for k, m in zip(key, mask, strict=True)]
    scores = []
    for slot in memory:
        masked_slot = [s * m for s, m in zip(slot, mask, strict=True)]
        scores.append(strength * cosine(masked_key, masked_slot))
    return softmax(scores)


def shift(weights: Vector, shifts: Vector) -> list[float]:
    """`shifts` are of the rotations -r, ..., 0, ..., r."""
    slots, reach = len(weights), len(shifts) // 2
    shifted = []
    for i in range(slots):
        total = 0.0
        for rotation in range(-reach, reach + 1):
            total += weights[(i - rotation) % slots] * shifts[rotation + reach]
        shifted.append(total)
    return shifted


def sharpen(weights: Vector, power: float) -> list[float]:
    raised = [(weight + EPSILON) ** power for weight in weights]
    return [one / sum(raised) for one in raised]


def retention(free_gates: Vector, read_weights: Matrix) -> list[float]:
    kept = []
    for slot in range(len(read_weights[0])):
        product = 1.0
        for gate, weights in zip(free_gates, read_weights, strict=True):
            product *= 1 - gate * weights[slot]
        kept.append(product)
    return kept


def usage_after(usage: Vector, write_weights: Vector, kept: Vector) -> list[float]:
    return [(u + w - u * w) * k for u, w, k in zip(usage, write_weights, kept, strict=True)]


def allocation_weights(usage: Vector) -> list[float]:
    floored = [EPSILON + (1 - EPSILON) * u for u in usage]
    order = sorted(range(len(usage)), key=lambda slot: floored[slot])
    weights = [0.0] * len(usage)
    ahead = 1.0
    for slot in order:
        weights[slot] = (1 - floored[slot]) * ahead
        ahead *= floored[slot]
    return weights


def write(memory: Matrix, weights: Matrix, erase: Matrix, values: Matrix) -> list[list[float]]:
    """Every head erases, then every head adds."""
    written = [list(slot) for slot in memory]
    for head_weights, head_erase in zip(weights, erase, strict=True):
        for i, slot in enumerate(written):
            for j in range(len(slot)):
                slot[j] *= 1 - head_weights[i] * head_erase[j]
    for head_weights, head_values in zip(weights, values, strict=True):
        for i, slot in enumerate(written):
            for j in range(len(slot)):
                slot[j] += head_weights[i] * head_values[j]
    return written


def precedence_after(precedence: Vector, write_weights: Vector) -> list[float]:
    left = 1 - sum(write_weights)
    return [left * p + w for p, w in zip(precedence, write_weights, strict=True)]


def links_after(links: Matrix, w: Vector, precedence: Vector) -> list[list[float]]:
    slots = len(w)
    updated = [[0.0] * slots for _ in range(slots)]
    for i in range(slots):
        for j in range(slots):
            if i != j:
                updated[i][j] = (1 - w[i] - w[j]) * links[i][j] + w[i] * precedence[j]
    return updated


def forward_weights(links: Matrix, read_weights: Vector) -> list[float]:
    return [sum(link * weight for link, weight in zip(row, read_weights, strict=True)) for row in links]


def backward_weights(links: Matrix, read_weights: Vector) -> list[float]:
    slots = len(read_weights)
    return [sum(links[i][j] * read_weights[i] for i in range(slots)) for j in range(slots)]


def read(memory: Matrix, weights: Vector) -> list[float]:
    return [sum(weight * slot[j] for weight, slot in zip(weights, memory, strict=True)) for j in range(len(memory[0]))]


def layer(weights: Matrix, inputs: Vector, squashed: bool) -> list[float]:
    sums = [sum(weight * one for weight, one in zip(row, inputs, strict=True)) for row in weights]
    return [math.tanh(one) for one in sums] if squashed else sums


def remembered(weights: Sequence[Matrix], key: Vector) -> list[list[float]]:
    """Activations of the three layers of a memory that is a network."""
    first = layer(weights[0], key, squashed=True)
    second = layer(weights[1], first, squashed=True)
    return [first, second, layer(weights[2], second, squashed=False)]


def squared_error(weights: Sequence[Matrix], keys: Matrix, values: Matrix) -> float:
    total = 0.0
    for key, value in zip(keys, values, strict=True):
        for answer, wanted in zip(remembered(weights, key)[2], value, strict=True):
            total += (answer - wanted) ** 2
    return total / (len(keys) * len(values[0]))


def stepped(weights: Sequence[Matrix], rates: Sequence[float], slopes: Sequence[Matrix]) -> list[list[list[float]]]:
    return [
        [
            [weight - rate * slope for weight, slope in zip(*rows, strict=True)]
            for rows in zip(matrix, down, strict=True)
        ]
        for matrix, rate, down in zip(weights, rates, slopes, strict=True)
    ]


def write_by_gradient(
    weights: Sequence[Matrix], keys: Matrix, values: Matrix, rate: float, normalised: bool
) -> list[list[list[float]]]:
    """A step down the squared error, by the chain rule, one head and one weight at a time."""
    slopes = [[[0.0] * len(row) for row in matrix] for matrix in weights]
    for key, value in zip(keys, values, strict=True):
        first, second, third = remembered(weights, key)
        errors = [2 * (a - v) / (len(keys) * len(value)) for a, v in zip(third, value, strict=True)]
        for number, (inputs, below) in enumerate([(second, weights[2]), (first, weights[1]), (key, weights[0])]):
            for i, error in enumerate(errors):
                for j, one in enumerate(inputs):
                    slopes[2 - number][i][j] += error * one
            # The inputs of all layers but the first are tanh of something.
            errors = [
                (1 - inputs[j] ** 2) * sum(errors[i] * below[i][j] for i in range(len(errors)))
                for j in range(len(inputs))
            ]
    means = [len(keys) * len(values[0])] * 3
    return stepped(weights, rates_of_layers(weights, keys, rate, means) if normalised else [rate] * 3, slopes)


def write_to_targets(
    weights: Sequence[Matrix], keys: Matrix, targets: Sequence[Sequence[Vector]], rate: float, normalised: bool
) -> list[list[list[float]]]:
    """The perceptron's rule in every layer; `targets` are of each head and, of these, of each layer."""
    slopes = [[[0.0] * len(row) for row in matrix] for matrix in weights]
    for key, wanted in zip(keys, targets, strict=True):
        answers = remembered(weights, key)
        for number, inputs in enumerate([key, answers[0], answers[1]]):
            size = len(answers[number])
            for i in range(size):
                error = 2 * (answers[number][i] - wanted[number][i]) / (len(keys) * size)
                for j, one in enumerate(inputs):
                    slopes[number][i][j] += error * one
    means = [len(keys) * len(layer) for layer in targets[0]]
    return stepped(weights, rates_of_layers(weights, keys, rate, means) if normalised else [rate] * 3, slopes)


def rates_of_layers(weights: Sequence[Matrix], keys: Matrix, rate: float, means: Sequence[int]) -> list[float]:
    """Normalised by 1 and the most that the inputs of a head share with those of all; `means` are over so many."""
    layers = zip(*([key, *remembered(weights, key)[:2]] for key in keys), strict=True)
    reaches = [
        1 + max(sum(abs(sum(a * b for a, b in zip(mine, its, strict=True))) for its in inputs) for mine in inputs)
        for inputs in (list(layer) for layer in layers)
    ]
    return [rate * mean / 2 / reach for mean, reach in zip(means, reaches, strict=True)]
