"""Models that engines are built from in tests, and the engines."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import onnx

from edge_vision.engines import CachedEngine, Preparation

SKELETONS = Path(__file__).parent.parent / 'data'


def yolov8n(path: Path, *, dynamic: bool = False) -> Path:
    """Write YOLOv8n with random weights that keep the size of what flows through it.

    Args:
        path: ONNX file to write.
        dynamic: Leave batch, height and width free.

    """
    skeleton = SKELETONS / ('yolov8n_dynamic.onnx.gz' if dynamic else 'yolov8n_640.onnx.gz')
    model = onnx.load_from_string(gzip.decompress(skeleton.read_bytes()))
    rng = np.random.default_rng(8)
    for tensor in model.graph.initializer:
        if not tensor.raw_data:
            fan_in = int(np.prod(tensor.dims[1:])) or 1
            spread = (2.0 / fan_in) ** 0.5 if len(tensor.dims) > 1 else 0.0
            tensor.raw_data = (rng.standard_normal(tensor.dims) * spread).astype(np.float32).tobytes()
    onnx.save(model, path)
    return path


def obtain(model: Path, place: Path | None = None, *, force: bool = False) -> CachedEngine:
    """Find or build the engine of a model in fp32."""
    return Preparation.of(model, place=place).obtain(force=force)
