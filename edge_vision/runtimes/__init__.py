"""What runs the network: one small protocol, one file per runtime, one table.

A new runtime is a module with a class that is a `Runtime` and is made as ``Class(path, precision=...,
threads=...)``, and one line in `RUNTIMES`. Its module is imported only when it is chosen, so it imports its
library at the top; an ImportError there means that the runtime is not available on this machine.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import NamedTuple, Protocol, cast

from ..errors import ConfigurationError, ModelError
from ..frames import Image
from ..yolov8 import Floats, Letterbox

log = logging.getLogger(__name__)

PRECISIONS = ('fp32', 'fp16', 'int8')


class Runtime(Protocol):
    """Runs one YOLOv8 detection network. Used by one thread at a time.

    Attributes:
        name: Name in `RUNTIMES`.
        input_size: Height and width of the network input in pixels.
        labels: The model's labels, in its order.

    """

    name: str
    input_size: tuple[int, int]
    labels: tuple[str, ...]

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Letterbox a picture, run the network and hand back the anchors that may count.

        Where the letterbox, the colours and the choice of anchors are computed (CPU, inside the graph, GPU)
        is the runtime's affair; `edge_vision.yolov8` says what must come out.

        Args:
            image: BGR, shape (height, width, 3), uint8; only read.
            geometry: Where it goes in the network input, made for this picture's size and ``input_size``.
            min_score: Anchors whose best class does not score above this are left out.

        Returns:
            Anchors as `edge_vision.yolov8.candidates` gives them, shape (4 + classes, N).

        """
        ...


class Entry(NamedTuple):
    """One row of the table: where the class is, what to install for it, and what files it reads."""

    module: str
    class_name: str
    package: str
    suffixes: tuple[str, ...]


RUNTIMES = {  # in the order in which 'auto' tries them
    'openvino': Entry('openvino', 'OpenVinoRuntime', 'openvino', ('.onnx', '.xml')),
    'onnxruntime': Entry('onnxruntime', 'OnnxRuntime', 'onnxruntime', ('.onnx',)),
}


def open_runtime(backend: str, model_file_path: str | Path, *, precision: str = 'fp32', threads: int = 0) -> Runtime:
    """Load a model into a runtime.

    Args:
        backend: A name in `RUNTIMES`, or 'auto' for the first that is installed and reads this kind of file.
        model_file_path: The model.
        precision: 'fp32', 'fp16' or 'int8'; what the runtime computes in.
        threads: CPU threads for one inference; 0 leaves the number to the runtime.

    Raises:
        ConfigurationError: The backend or precision is unknown or not available here.
        ModelError: The file is missing, damaged, or not a YOLOv8 detection model that the backend reads.

    """
    if backend != 'auto' and backend not in RUNTIMES:
        raise ConfigurationError(f'backend is {backend!r}, expected one of {["auto", *RUNTIMES]}')
    if precision not in PRECISIONS:
        raise ConfigurationError(f'precision is {precision!r}, expected one of {list(PRECISIONS)}')
    path = Path(model_file_path).expanduser()
    check_file(path)
    refusals: list[str] = []
    for name in RUNTIMES if backend == 'auto' else [backend]:
        runtime_class = find_class(name, path, refusals)
        if runtime_class is not None:
            runtime = cast('Runtime', runtime_class(path, precision=precision, threads=threads))
            why = '; '.join(refusals) or ('first choice' if backend == 'auto' else 'as asked')
            height, width = runtime.input_size
            log.info('%s runs %s, %dx%d, %d classes (%s)', name, path.name, width, height, len(runtime.labels), why)
            return runtime
    raise ConfigurationError(f'backend {backend!r} cannot be used for {str(path)!r}: {"; ".join(refusals)}')


def find_class(name: str, path: Path, refusals: list[str]) -> type | None:
    """Import a runtime's class if it reads this kind of file and is installed; else say why not in ``refusals``."""
    entry = RUNTIMES[name]
    if path.suffix.lower() not in entry.suffixes:
        refusals.append(f'{name} reads {" and ".join(entry.suffixes)} files')
        return None
    try:
        module = importlib.import_module(f'{__name__}.{entry.module}')
    except ImportError as error:
        log.debug('%s cannot be imported', name, exc_info=error)
        refusals.append(f'{name} is not available, pip install {entry.package}')
        return None
    return cast('type', getattr(module, entry.class_name))


def check_file(path: Path) -> None:
    """Raise ModelError unless ``path`` is a file of a kind that some runtime reads."""
    shown, suffix = repr(str(path)), path.suffix.lower()
    readable = sorted({s for entry in RUNTIMES.values() for s in entry.suffixes})
    if not path.is_file():
        raise ModelError(f'model file {shown} does not exist, expected a YOLOv8 detection model as one of {readable}')
    if suffix in readable:
        return
    if suffix == '.pt':
        way_out = f'export it with: yolo export model={path} format=onnx'
        raise ModelError(f'model file {shown} is a PyTorch checkpoint, expected an exported model; {way_out}')
    if suffix == '.engine':
        raise ModelError(
            f'model file {shown} is a TensorRT engine and there is no TensorRT runtime here; '
            'give the ONNX file it was built from'
        )
    raise ModelError(f'model file {shown} ends in {suffix!r}, expected one of {readable}')
