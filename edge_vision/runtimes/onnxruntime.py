"""ONNX Runtime: runs wherever there is a wheel; colours and scaling happen before the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from ..errors import ConfigurationError
from ..frames import Image
from ..yolov8 import Canvas, Floats, Letterbox, candidates
from . import metadata

ELEMENT_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}


class OnnxRuntime:
    """Runs an ONNX model.

    Args:
        path: Model file, .onnx.
        precision: 'fp32' only; a half-precision or quantised model runs as it is.
        threads: CPU threads for one inference; 0 takes one per physical core.
        providers: Execution providers, best first.

    Raises:
        ConfigurationError: The precision or a provider is not available.
        ModelError: The file is damaged or not a YOLOv8 detection model.

    """

    name = 'onnxruntime'

    def __init__(
        self,
        path: Path,
        *,
        precision: str = 'fp32',
        threads: int = 0,
        providers: Sequence[str] = ('CPUExecutionProvider',),
    ) -> None:
        if precision != 'fp32':
            raise ConfigurationError(
                f"precision is {precision!r}, which onnxruntime does not make of a model; use 'fp32' "
                '(a model that was exported in half precision or quantised runs as it is)'
            )
        info = metadata.parse(metadata.read_onnx(path), path)
        self.labels = info.labels
        self._session = open_session(path, threads, providers)
        source = self._session.get_inputs()[0]
        shape = fixed_shape(source.shape, info.input_size)
        metadata.check_input(shape, path)
        self.input_size = (shape[2], shape[3])
        self._input_name = source.name
        self._input = np.zeros(shape, ELEMENT_TYPES.get(source.type, np.float32))
        self._canvas = Canvas(np.zeros((*self.input_size, 3), np.uint8))
        try:
            output = self._run()
        except Exception as error:  # its exceptions share no narrower class
            raise metadata.damaged(path) from error
        self._transposed = metadata.is_transposed(output.shape, info.labels, path)

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Letterbox a picture, run the network and hand back the anchors that may count."""
        self._canvas.draw(image, geometry)
        planes = cv2.dnn.blobFromImage(self._canvas.pixels, swapRB=True)[0]
        np.divide(planes, 255, out=self._input[0], casting='same_kind')
        output = self._run()[0]
        return candidates(output.T if self._transposed else output, min_score)

    def _run(self) -> Floats:
        output = self._session.run(None, {self._input_name: self._input})[0]
        return np.asarray(output, dtype=np.float32)


def open_session(path: Path, threads: int, providers: Sequence[str]) -> ort.InferenceSession:
    """Load the graph."""
    available = ort.get_available_providers()
    for provider in providers:
        if provider not in available:
            raise ConfigurationError(f'onnxruntime has no provider {provider!r} here, expected some of {available}')
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # failures come as exceptions
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        raise metadata.damaged(path) from error


def fixed_shape(shape: Sequence[int | str], input_size: tuple[int, int]) -> tuple[int, ...]:
    """Fill the free dimensions of an input shape: one picture of the size that the metadata names."""
    if len(shape) != 4:
        return tuple(n if isinstance(n, int) else 1 for n in shape)
    return tuple(n if isinstance(n, int) else m for n, m in zip(shape, (1, 3, *input_size), strict=True))
