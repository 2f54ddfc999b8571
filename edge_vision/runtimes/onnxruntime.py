"""ONNX Runtime: runs wherever there is a wheel; colours and scaling happen before the graph."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from ..errors import ConfigurationError, RuntimeUnavailable
from ..frames import Image
from ..places import ENGINE_CACHE_VARIABLE, engine_directory
from ..yolov8 import Canvas, Floats, Letterbox, candidates
from . import Options, metadata

log = logging.getLogger(__name__)

ELEMENT_TYPES = {'tensor(float)': np.float32, 'tensor(float16)': np.float16}
CPU = 'CPUExecutionProvider'
CUDA = 'CUDAExecutionProvider'
TENSORRT = 'TensorrtExecutionProvider'


class OnnxRuntime:
    """Runs an ONNX model.

    Args:
        path: Model file, .onnx.
        options: ``precision`` 'fp32' only, a half-precision or quantised model runs as it is; ``threads`` for one
            inference; ``providers``.

    Raises:
        ConfigurationError: The precision is not available, or there is no such provider or none after the CPU.
        RuntimeUnavailable: A provider that was asked for does not start on this machine.
        ModelError: The file is damaged or not a YOLOv8 detection model.

    """

    name = 'onnxruntime'

    def __init__(self, path: Path, options: Options) -> None:
        if options.precision != 'fp32':
            raise ConfigurationError(
                f"precision is {options.precision!r}, which onnxruntime does not make of a model; use 'fp32' "
                '(a model that was exported in half precision or quantised runs as it is)'
            )
        info = metadata.parse(metadata.read_onnx(path), path)
        self.labels = info.labels
        self._session = open_session(path, options)
        source = self._session.get_inputs()[0]
        shape = fixed_shape(source.shape, options.input_size or info.input_size)
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


def open_session(path: Path, options: Options) -> ort.InferenceSession:
    """Load the graph with the providers that were asked for; with none, with CUDA where that works."""
    available = ort.get_available_providers()
    if options.providers:
        check_providers(options.providers, available)
        return start(path, options.threads, options.providers)
    if CUDA in available:
        try:
            return start(path, options.threads, (CUDA, CPU))
        except RuntimeUnavailable as error:
            log.warning('onnxruntime runs on the CPU: %s', error)
    return start(path, options.threads, (CPU,))


def check_providers(providers: Sequence[str], available: Sequence[str]) -> None:
    """Refuse providers that are not there or that would never be used."""
    for provider in providers:
        if provider not in available:
            raise ConfigurationError(f'onnxruntime has no provider {provider!r} here, expected some of {available}')
    if CPU in providers[:-1]:
        raise ConfigurationError(
            f'providers is {list(providers)}, expected {CPU!r} last: it runs everything, and what follows nothing'
        )


def start(path: Path, threads: int, providers: Sequence[str]) -> ort.InferenceSession:
    """Make a session in which every provider takes part.

    Raises:
        RuntimeUnavailable: One does not start on this machine; onnxruntime itself would go on without it.
        ModelError: The graph cannot be loaded.

    """
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # failures come as exceptions
    wanted = [(provider, provider_options(provider, path)) for provider in providers]
    try:
        session = ort.InferenceSession(str(path), settings, providers=wanted, enable_fallback=0)
    except Exception as error:  # its exceptions share no narrower class
        if tuple(providers) == (CPU,):
            raise metadata.damaged(path) from error
        start(path, threads, (CPU,))  # is it the model's fault?
        raise idle(providers[0]) from error
    session.disable_fallback()
    for provider in providers:
        if provider not in session.get_providers():
            raise idle(provider)
    return session


def idle(provider: str) -> RuntimeUnavailable:
    """Describe a provider that is part of onnxruntime but cannot work."""
    return RuntimeUnavailable(
        f'its provider {provider!r} does not start on this machine; check the driver and the libraries that it needs '
        '(the log of onnxruntime names them), or leave it out of providers'
    )


def provider_options(provider: str, path: Path) -> dict[str, str]:
    """Let TensorRT keep the engines that it builds, which takes minutes; its own names do not tell weights apart.

    Raises:
        ConfigurationError: There is no room for them.

    """
    if provider != TENSORRT:
        return {}
    folder = engine_directory() / f'onnxruntime-{ort.__version__}' / hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f'engine cache {str(folder)!r} cannot be made: {error.strerror}; '
            f'name a writable directory in {ENGINE_CACHE_VARIABLE}'
        ) from error
    return {
        'trt_engine_cache_enable': '1',
        'trt_engine_cache_path': str(folder),
        'trt_timing_cache_enable': '1',
        'trt_timing_cache_path': str(folder),
    }


def fixed_shape(shape: Sequence[int | str], input_size: tuple[int, int]) -> tuple[int, ...]:
    """Fill the free dimensions of an input shape: one picture of the given size."""
    if len(shape) != 4:
        return tuple(n if isinstance(n, int) else 1 for n in shape)
    return tuple(n if isinstance(n, int) else m for n, m in zip(shape, (1, 3, *input_size), strict=True))
