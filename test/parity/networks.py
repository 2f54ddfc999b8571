"""Rebuilds the networks of the parity tests: exported by ultralytics, kept without their weights.

A weight is a number drawn from its name, times a gain of its channel; gains and biases are kept in half precision.
So a whole YOLOv8n takes some 30 kB, and what it computes depends on every part of the export.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

FOLDER = Path(__file__).parents[1] / 'data' / 'parity' / 'networks'


def drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw the weights of a convolution, the same everywhere and for ever.

    Args:
        name: Name of the initializer.
        shape: Output channels, input channels, height, width.

    """
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    return np.float32(unit.reshape(shape) * np.sqrt(3.0 / np.prod(shape[1:])))


def is_weight(name: str) -> bool:
    """Tell the weights that are drawn from those that an export computes with as they are."""
    return name.endswith('.weight') and '.dfl.' not in name


def rebuild(name: str, classes: int, folder: Path) -> Path:
    """Write a network with its weights.

    Args:
        name: Name of its export.
        classes: How many classes it has, which names its gains.
        folder: Where to.

    """
    model = onnx.load_from_string(gzip.decompress((FOLDER / f'{name}.onnx.gz').read_bytes()))
    with np.load(FOLDER / f'{classes}_classes.npz') as kept:
        for tensor in model.graph.initializer:
            shape = tuple(tensor.dims)
            if is_weight(tensor.name):
                gain = kept[tensor.name].astype(np.float32).reshape(-1, 1, 1, 1)
                tensor.CopyFrom(numpy_helper.from_array(drawn(tensor.name, shape) * gain, tensor.name))
            elif tensor.name in kept:
                tensor.CopyFrom(numpy_helper.from_array(kept[tensor.name].astype(np.float32), tensor.name))
    path = folder / f'{name}.onnx'
    onnx.save(model, path)
    return path
