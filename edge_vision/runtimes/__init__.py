"""What runs the network: one small protocol, one file per runtime, one table.

A new runtime is a module here with a class that is a `Runtime` and is made as ``Class(path, options)``, and one line
in `edge_vision.backends.RUNTIMES`: parameters, commands, doctor and tests take it from there. Only its name is
written down elsewhere: ``scripts/update_readme.py`` puts it into the README, and ``config/edge_vision.yaml`` lists
it above ``backend``.

Its module is imported only when it is chosen, so it imports its library at the top: an ImportError
there means that the runtime is not installed. A library that is installed but cannot work on this machine (no GPU,
a driver that is too old) is a `RuntimeUnavailable`, from the import or from the constructor; every other error
means that the runtime would work and the model or the options are at fault.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from ..backends import PRECISIONS, RUNTIMES
from ..errors import ConfigurationError, ModelError, RuntimeUnavailable
from ..frames import Image
from ..params import DetectorParams
from ..yolov8 import Floats, Letterbox

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is to be run; a runtime refuses what it cannot do and passes over what is not its affair.

    Attributes:
        precision: One of `PRECISIONS`: what the runtime computes in.
        threads: CPU threads for one inference; 0 leaves the number to the runtime.
        providers: Execution providers of ONNX Runtime, best first; empty: CUDA where it works, else the CPU.
            No other runtime has any, so naming some means ONNX Runtime.
        engine_file_path: The TensorRT engine made of the model; None: kept in the engine cache.
        force_engine_update: Build the TensorRT engine anew.
        calibration: Folder of pictures to choose INT8 scales by and to validate an engine with; None: it is validated
            with rendered ones, and there is no INT8.
        validate: Refuse a TensorRT engine whose boxes differ from the model's.
        dla_core: Core of the deep learning accelerator that the TensorRT engine runs on; -1: the GPU.
        workspace: Most device memory for building the TensorRT engine, bytes; 0: TensorRT's own limit.
        input_size: Height and width of the network input for a model that takes any; None: what its metadata says.

    """

    precision: str = 'fp32'
    threads: int = 0
    providers: tuple[str, ...] = ()
    engine_file_path: Path | None = None
    force_engine_update: bool = False
    calibration: Path | None = None
    validate: bool = True
    dla_core: int = -1
    workspace: int = 0
    input_size: tuple[int, int] | None = None


def options_of(params: DetectorParams) -> Options:
    """Turn the detector's parameters into the options of its runtime."""
    return Options(
        precision=params.precision,
        threads=params.threads,
        providers=params.providers,
        engine_file_path=optional_path(params.engine_file_path),
        force_engine_update=params.force_engine_update,
        calibration=optional_path(params.calibration_directory),
        validate=params.validate_engine,
        dla_core=params.dla_core,
    )


def optional_path(text: str) -> Path | None:
    """Read a path; an empty one is none."""
    return Path(text).expanduser() if text else None


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


RuntimeClass = Callable[[Path, Options], Runtime]
WAYS_OUT = {
    '.pt': '; without TensorRT, export it: yolo export model={path} format=onnx',
    '.engine': '; without TensorRT, give the ONNX file it was built from',
}
DEFAULTS = Options()


def open_runtime(backend: str, model_file_path: str | Path, options: Options = DEFAULTS) -> Runtime:
    """Load a model into a runtime and log which one it is, and why none before it in `RUNTIMES`.

    Args:
        backend: A name in `RUNTIMES`, or 'auto' for the first that works on this machine and reads this kind of
            file. An error of a runtime that works here is an error with 'auto' too: it never hides a bad engine.
        model_file_path: The model.
        options: How to run it.

    Raises:
        ConfigurationError: The backend or an option is unknown or not possible.
        RuntimeUnavailable: No runtime that was asked for works here and reads the file.
        ModelError: The file is missing, damaged, or not a YOLOv8 detection model that the backend reads.

    """
    if backend != 'auto' and backend not in RUNTIMES:
        raise ConfigurationError(f'backend is {backend!r}, expected one of {["auto", *RUNTIMES]}')
    if options.precision not in PRECISIONS:
        raise ConfigurationError(f'precision is {options.precision!r}, expected one of {list(PRECISIONS)}')
    path = Path(model_file_path).expanduser()
    check_file(path)
    refusals: list[str] = []
    refusal: RuntimeUnavailable | None = None
    for name in RUNTIMES if backend == 'auto' else [backend]:
        try:
            runtime = find_class(name, path, options)(path, options)
        except RuntimeUnavailable as error:
            refusal = error
            refusals.append(f'{name}: {error}')
            continue
        why = '; '.join(refusals) or ('first choice' if backend == 'auto' else 'as asked')
        height, width = runtime.input_size
        log.info('%s runs %s, %dx%d, %d classes (%s)', name, path.name, width, height, len(runtime.labels), why)
        return runtime
    way_out = WAYS_OUT.get(path.suffix.lower(), '').format(path=path)
    message = f'backend {backend!r} cannot be used for {str(path)!r}: {"; ".join(refusals)}{way_out}'
    raise RuntimeUnavailable(message) from refusal


def find_class(name: str, path: Path, options: Options) -> RuntimeClass:
    """Import the class of a runtime.

    Raises:
        RuntimeUnavailable: It does not read this kind of file, has no such options, or is not installed.

    """
    entry = RUNTIMES[name]
    if path.suffix.lower() not in entry.suffixes:
        raise RuntimeUnavailable(f'reads {" and ".join(entry.suffixes)} files')
    if options.providers and name != 'onnxruntime':
        raise RuntimeUnavailable('has no providers, which are those of onnxruntime')
    try:
        module = importlib.import_module(f'{__name__}.{entry.module}')
    except ImportError as error:
        log.debug('%s cannot be imported', name, exc_info=error)
        missing = f' (no {error.name})' if error.name else ''
        raise RuntimeUnavailable(f'not installed{missing}, {entry.install}') from error
    return cast('RuntimeClass', getattr(module, entry.class_name))


def check_file(path: Path) -> None:
    """Raise ModelError unless ``path`` is a file of a kind that some runtime reads."""
    shown, suffix = repr(str(path)), path.suffix.lower()
    readable = sorted({s for entry in RUNTIMES.values() for s in entry.suffixes})
    if not path.exists():
        raise ModelError(f'model file {shown} does not exist, expected a YOLOv8 detection model as one of {readable}')
    if suffix not in readable:
        raise ModelError(f'model file {shown} ends in {suffix!r}, expected one of {readable}')
    try:
        with path.open('rb'):
            pass
    except OSError as error:
        raise ModelError(f'model file {shown} cannot be read: {error.strerror}; expected a file that may be') from error
