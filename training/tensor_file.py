"""Writing the safetensors format piece by piece.

The library's own writer copies all tensors before the first byte is written, which doubles the memory of a process
whose state is its memory. Reading is left to the library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import xxhash

from training.files import sync

_PIECE = 2**24
"""Bytes written at a time, and the most that is ever copied."""

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


class TensorFile:
    """Tensors named by their index, ready to be written; views, so write before they change.

    Nothing of torch is called while writing, so that a forked child can do it: torch's threads do not survive a fork.

    Args:
        tensors: on the CPU, of any layout in memory.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        # The format wants no gaps, and readers want numbers to lie at multiples of their size.
        order = sorted(range(len(tensors)), key=lambda index: -tensors[index].element_size())
        self._arrays = [_array(tensors[index]) for index in order]
        header, offset = {}, 0
        for index, array in zip(order, self._arrays, strict=True):
            tensor = tensors[index]
            end = offset + array.nbytes
            header[str(index)] = {
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self.nbytes = len(self._header) + offset

    def write(self, path: Path, between: Callable[[], None]) -> str:
        """Write the file and wait until it is on the disk; `between` is called before every piece.

        Returns:
            The xxh3_128 checksum of what was meant to be written, as hex digits.

        Raises:
            OSError: as writing does.
        """
        checksum = xxhash.xxh3_128(self._header)
        with path.open("wb", buffering=0) as file:
            file.write(self._header)
            for array in self._arrays:
                for piece in _pieces(array):
                    between()
                    content = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
                    checksum.update(content)
                    while content:
                        content = content[file.write(content) :]
        sync(path)
        return checksum.hexdigest()


def _array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array in the order of its elements, in pieces of a bounded size."""
    if array.size == 0:
        return
    if array.nbytes <= _PIECE or array.ndim == 0:
        yield array
    elif array[0].nbytes > _PIECE:
        for part in array:
            yield from _pieces(part)
    else:
        rows = max(1, _PIECE // array[0].nbytes)
        for start in range(0, len(array), rows):
            yield array[start : start + rows]
