"""A tree of state as JSON and a list of tensors, and back.

Leaves may be torch tensors (dense, real), numpy arrays and scalars, int of any size, float, bool, str and None;
branches dict (with keys str or int), list and tuple. Kind, type and shape of each come back as they were, but for
three things: tensors come back on the CPU and apart from any graph, two leaves that shared memory come back apart from
each other, and a subclass of dict comes back as a dict.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

_DTYPES = {torch.bool, torch.bfloat16, torch.float16, torch.float32, torch.float64}
_DTYPES |= {torch.int8, torch.int16, torch.int32, torch.int64}
_DTYPES |= {torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def encode(value: Any, path: str, tensors: list[torch.Tensor]) -> Any:
    """What JSON can hold of a tree; whatever it cannot becomes an object with one key, its kind.

    Tensors and arrays are appended to `tensors`, on the CPU, and not copied where they already are there; in the tree
    stands their index.

    Raises:
        TypeError: naming the place in the tree, after `path`, of what cannot be saved.
    """
    kind = type(value)
    if kind in (bool, int, str, type(None)):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list or kind is tuple:
        items = [encode(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        return items if kind is list else {"tuple": items}
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"cannot save {path or 'the state'}: its key {key!r} is neither str nor int")
        places = [f"{path}/{key}" if path else str(key) for key in value]
        items = [encode(item, place, tensors) for item, place in zip(value.values(), places, strict=True)]
        return {"dict": [[key, item] for key, item in zip(value, items, strict=True)]}
    tensors.append(_dense(value, path))
    name = "torch" if isinstance(value, torch.Tensor) else "scalar" if isinstance(value, np.generic) else "numpy"
    return {name: str(len(tensors) - 1)}


def decode(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree again, from the tensors by their index as text."""
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: decode(item, tensors) for key, item in content}
    if kind == "tuple":
        return tuple(decode(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    # The tensors are windows on the mapped file: a copy keeps the state alive and apart when the file goes.
    tensor = tensors[content].clone()
    if kind == "torch":
        return tensor
    array = tensor.numpy()
    return array[()] if kind == "scalar" else array


def _dense(value: Any, path: str) -> torch.Tensor:
    """A leaf as a tensor on the CPU, a view of it where it is one already, however it lies in memory."""
    tensor = value
    if type(value) is np.ndarray or isinstance(value, np.generic):
        try:
            array = np.require(value, requirements="W")
            # A tensor cannot run backwards through memory.
            tensor = torch.from_numpy(array if min(array.strides, default=0) >= 0 else np.ascontiguousarray(array))
        except (TypeError, ValueError):
            raise TypeError(f"cannot save {path}: numpy type {value.dtype} is not supported") from None
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"cannot save {path}: {type(value).__name__} is neither a tensor, an array nor a JSON value")
    if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
        raise TypeError(f"cannot save {path}: {tensor.layout} tensor of {tensor.dtype} on {tensor.device}")
    return tensor.detach().cpu()
