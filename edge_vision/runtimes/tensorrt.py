"""TensorRT: everything between the picture and the few anchors that count happens on the GPU, in one stream.

For each frame: the picture's bytes go up, a kernel letterboxes them into the network's input, TensorRT runs the
network, a kernel picks the anchors above the threshold, and only those come back. Where CPU and GPU share their
memory the picture is read in place; the tables are not, as such a GPU does not cache what is mapped. All memory is
allocated once (again when a larger picture comes), and the whole sequence is one CUDA graph where TensorRT's part of it
can be captured.

Nothing old can pass for new: each frame's number goes through both kernels and must come back with its result, the
network's output begins as NaN, and whatever fails raises `edge_vision.cuda.GpuError`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import math
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import engines
from ..cuda import Gpu, GpuError, Graph, HostBuffer, Memory, Stream, gpu
from ..cuda.kernels import Arguments, kernels
from ..cuda.layout import Result, Staged, offsets
from ..engines import api as libraries
from ..engines import files
from ..errors import ModelError
from ..frames import Image
from ..yolov8 import Floats, Letterbox, candidates, letterbox
from . import Options, metadata

log = logging.getLogger(__name__)

MAX_GRAPHS = 4  # sizes of pictures; with more, all are captured anew
LETTERBOX_BLOCK, TAKE_BLOCK = (32, 8), (256, 1)
SAME = 1e-2  # pixels and probability: what a graph's result may differ from that of the same work without it
sharing = threading.Lock()


class TensorRtRuntime:
    """Runs a model as a TensorRT engine, which is built first where there is none yet.

    Attributes:
        engine_path: The engine's file.

    Args:
        path: .onnx, .pt where ultralytics is installed, or .engine of this TensorRT and GPU.
        options: How.

    Raises:
        ConfigurationError: An option does not go with the model.
        RuntimeUnavailable: There is no TensorRT, no cuda-python or no GPU that works.
        ModelError: The file is damaged, not a YOLOv8 detection model, or its engine differs too much from it.
        GpuError: The GPU failed.

    """

    name = 'tensorrt'

    def __init__(self, path: Path, options: Options) -> None:
        gpu().use()
        kernels()  # what is missing here says so before an engine is built for nothing
        self._runtime = open_engine(path, options) if is_engine(path) else prepared(path, options)
        self.engine_path = self._runtime.path
        self.labels = self._runtime.labels
        self.input_size = self._runtime.input_size

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Letterbox a picture, run the network and hand back the anchors that may count."""
        return self._runtime.infer(image, geometry, min_score)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._runtime.close()


def is_engine(path: Path) -> bool:
    """Tell whether a file is an engine by its name."""
    return path.suffix.lower() == '.engine'


def open_engine(path: Path, options: Options) -> EngineRuntime:
    """Open an engine that was built before, and compare it with its model where that is known."""
    runtime = EngineRuntime(path, dla_core=options.dla_core, input_size=options.input_size)
    if options.validate:
        engines.vouch_for(path, runtime, options.calibration)
    return runtime


def prepared(model: Path, options: Options) -> EngineRuntime:
    """Open the engine of a model, built where there is none yet, and validated."""
    build_options = engines.BuildOptions(
        precision=options.precision,
        imgsz=options.input_size,
        workspace=options.workspace,
        calibration=options.calibration,
        dla_core=options.dla_core,
    )
    preparation = engines.Preparation.of(model, build_options, options.engine_file_path, steps())
    engine = preparation.opened(preparation.obtain(force=options.force_engine_update), EngineRuntime)
    if options.validate:
        engine = preparation.judged(engine, options.calibration)
    else:
        log.warning('%s is used without a comparison with its model, as asked', engine.path)
    runtime: EngineRuntime = engine.runtime
    return runtime


def steps() -> Callable[[str, float], None]:
    """Return a progress function that logs every tenth of the whole."""
    told = 0

    def tell(_: str, share: float) -> None:
        nonlocal told
        if share * 10 >= told + 1:
            told = int(share * 10)
            log.info('engine: %d %%', told * 10)

    return tell


class EngineRuntime:
    """Runs one engine file.

    Attributes:
        path: The file.

    Args:
        path: .engine, plain or of ultralytics.
        dla_core: Core of the deep learning accelerator, where the file does not say; -1: the GPU.
        input_size: Height and width of the network input, where the engine leaves them open; None: what its model says.

    Raises:
        RuntimeUnavailable: There is no TensorRT, no cuda-python or no GPU that works.
        ModelError: The engine is damaged, built for another TensorRT or GPU, or not YOLOv8 detection.
        GpuError: The GPU failed.

    """

    name = 'tensorrt'

    def __init__(self, path: Path, *, dla_core: int = -1, input_size: tuple[int, int] | None = None) -> None:
        self.path = path
        device, api = gpu(), libraries.find()
        device.use()
        with sharing:
            engine = shared(api, path, dla_core)
            self._session = Session(device, engine, input_size or engine.info.input_size)
        weakref.finalize(self, self._session.close)
        self.labels = engine.info.labels
        self.input_size = self._session.input_size

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Letterbox a picture, run the network and hand back the anchors that may count."""
        return self._session.infer(image, geometry, min_score)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._session.close()


class Engine:
    """An engine in the GPU's memory; the runtimes of this process that run the same file share it.

    Attributes:
        api: The library that runs it.
        path: Its file.
        info: Its labels and the input size that its model names.
        engine: The library's object; valid as long as this.
        logger: Keeps what the library said in ``errors``.

    """

    def __init__(self, api: libraries.Api, path: Path, dla_core: int) -> None:
        file = files.read(path)
        self.api, self.path, self.info = api, path, metadata.parse(file.properties, path)
        self.engine: Any = None
        self.logger = libraries.make_logger(api)
        self._runtime: Any = api.module.Runtime(self.logger)
        core = dla_core if file.dla_core < 0 else file.dla_core
        if core >= 0:
            self._runtime.DLA_core = core
        self.engine = self._runtime.deserialize_cuda_engine(file.plan)
        if self.engine is None:
            raise ModelError(
                f'engine file {str(path)!r} is damaged or was built for another GPU or another version than '
                f'{api}{self.reasons()}; build it on this machine: edge_vision build-engine MODEL.onnx'
            )

    def reasons(self) -> str:
        """Return what the library said went wrong last, as the end of a sentence."""
        return ''.join(f': {text}' for text in list(self.logger.errors)[-1:])

    def __del__(self) -> None:
        self.engine = None  # before what it came from
        self._runtime = None


engines_in_use: weakref.WeakValueDictionary[tuple[object, ...], Engine] = weakref.WeakValueDictionary()


def shared(api: libraries.Api, path: Path, dla_core: int) -> Engine:
    """Return the engine of a file, loaded once for as long as someone uses it."""
    if api.name == 'tensorrt' and api.version.startswith('8.'):  # there, contexts cannot share an optimisation profile
        return Engine(api, path, dla_core)
    place, status = path.resolve(), path.stat()
    key = (place, status.st_mtime_ns, status.st_size, status.st_ino, dla_core)
    engine = engines_in_use.get(key)
    if engine is None:
        engine = engines_in_use[key] = Engine(api, path, dla_core)
    return engine


class Tensor(NamedTuple):
    """One input or output of an engine."""

    name: str
    shape: tuple[int, ...]
    element_type: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes of it."""
        return math.prod(self.shape) * self.element_type.itemsize


class Session:
    """All that one runtime holds on the GPU, and the one sequence of work that it does there.

    Attributes:
        input_size: Height and width of the network input in pixels.

    """

    def __init__(self, device: Gpu, engine: Engine, wanted_size: tuple[int, int]) -> None:
        self._device, self._engine = device, engine
        self._lock = threading.Lock()
        self._held: list[Stream | Memory | HostBuffer] = []
        self._graphs: dict[int, Graph] = {}
        self._frame = 0
        self._capturable = self._closed = False
        self._staging: HostBuffer | None = None
        self._staging_on_gpu: Memory | None = None
        self._whole: HostBuffer | None = None
        try:
            self._start(engine, wanted_size)
        except BaseException:
            self.close()
            raise

    def _start(self, engine: Engine, wanted_size: tuple[int, int]) -> None:
        self._kernels = kernels()
        self._stream = self._hold(Stream())
        self._context = engine.engine.create_execution_context()
        if self._context is None:
            raise GpuError(f'TensorRT cannot run {str(engine.path)!r}{engine.reasons()}; is memory left on the GPU?')
        self._input, self._output = bind(engine, self._context, self._stream.handle, wanted_size)
        self.input_size = (self._input.shape[2], self._input.shape[3])
        transposed = metadata.is_transposed(self._output.shape, engine.info.labels, engine.path)
        self._rows = 4 + len(engine.info.labels)
        self._anchors = self._output.shape[1 if transposed else 2]
        self._transposed = transposed
        self._planes = self._hold(Memory(self._stream, self._input.size))
        self._numbers = self._hold(Memory(self._stream, self._output.size, 0xFF))
        for tensor, memory in ((self._input, self._planes), (self._output, self._numbers)):
            if not self._context.set_tensor_address(tensor.name, memory.address):
                raise GpuError(f'TensorRT refuses memory for {tensor.name!r}{engine.reasons()}')
        self._result = Result(self._rows, self._anchors, self._output.element_type)
        self._found_on_gpu = self._hold(Memory(self._stream, self._result.size))
        self._found = self._hold(HostBuffer(self._result.size))
        self._warm_up()

    def _hold(self, part: Any) -> Any:
        self._held.append(part)
        return part

    def _warm_up(self) -> None:
        """Run once as it is, as TensorRT wants before a capture, and then as a graph; keep the graph if it agrees."""
        height, width = self.input_size
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        look = functools.partial(self._infer, image, letterbox((width, height), self.input_size), -1.0)
        plain = look()
        ask = getattr(self._context, 'is_stream_capturable', None)  # only TensorRT-RTX compiles while it runs
        self._capturable = ask is None or bool(ask(self._stream.handle))
        again = look()
        if plain.shape != again.shape or not np.allclose(plain, again, SAME, SAME, equal_nan=True):
            self._drop_graphs()
            self._capturable = False
            log.warning('%s runs without a CUDA graph: with it the boxes are others', self._engine.path.name)

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Do one frame.

        Raises:
            GpuError: It failed; there is no result, and nothing of it is left on the way.

        """
        with self._lock:
            if self._closed:
                raise GpuError('the TensorRT runtime is closed')
            self._device.use()
            try:
                return self._infer(image, geometry, min_score)
            except BaseException:
                self._recover()
                raise

    def _infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        self._frame += 1
        staged = self._stage(image.size)
        staged.write(image, geometry, min_score, self._frame)
        self._submit(staged.offsets.picture + image.size)
        self._stream.synchronize()
        try:
            anchors = self._result.read(self._found.array, self._frame)
        except ValueError as error:
            raise GpuError(f'the GPU did not do its work: {error}') from error
        return self._look_at_all(min_score) if anchors is None else anchors

    def _stage(self, picture_size: int) -> Staged:
        """Make room for a picture; nothing is under way on the stream."""
        tables = offsets(self.input_size).picture
        size = tables + picture_size
        if self._staging is None or self._staging.array.size < size:
            self._drop_staging()
            in_place = self._device.device.integrated
            staging = HostBuffer(size)
            try:
                on_gpu = Memory(self._stream, tables if in_place else size)
            except GpuError:
                give_back(staging)  # or half of it would pass for room
                raise
            self._staging, self._staging_on_gpu = staging, on_gpu
            self._staged = Staged(staging.array, self.input_size, self._input.element_type)
            picture = (staging if in_place else on_gpu).address + tables
            self._letterbox_arguments, self._take_arguments = self._arguments(on_gpu.address, picture)
        return self._staged

    def _arguments(self, tables: int, picture: int) -> tuple[Arguments, Arguments]:
        places = [*(ctypes.c_void_p(tables + at) for at in offsets(self.input_size)[:-1]), ctypes.c_void_p(picture)]
        found = self._found_on_gpu.address
        header, positions, taken = (
            ctypes.c_void_p(found + offset) for offset in (0, self._result.positions, self._result.taken)
        )
        planes, numbers = ctypes.c_void_p(self._planes.address), ctypes.c_void_p(self._numbers.address)
        height, width = self.input_size
        before = (width, height, self._input.element_type.itemsize)
        after = (self._rows, self._anchors, int(self._transposed), self._result.capacity)
        return (
            Arguments(*places, planes, header, *map(ctypes.c_int, before)),
            Arguments(places[0], numbers, header, positions, taken, *map(ctypes.c_int, after)),
        )

    def _submit(self, size: int) -> None:
        """Put the work of a frame on the stream, as a graph where possible."""
        graph = self._graph(size) if self._capturable else None
        if graph is None:
            self._enqueue(size)
        else:
            self._stream.replay(graph)

    def _graph(self, size: int) -> Graph | None:
        """Return the graph for pictures of a size; None where there can be none."""
        if size not in self._graphs:
            if len(self._graphs) >= MAX_GRAPHS:
                self._drop_graphs()
            try:
                with self._stream.captured() as graph:
                    self._enqueue(size)
            except GpuError as error:
                self._capturable = False
                log.info(
                    '%s runs without a CUDA graph: %s', self._engine.path.name, str(error)
                )  # it would keep the frame
                return None
            self._graphs[size] = graph
        return self._graphs[size]

    def _enqueue(self, size: int) -> None:
        """Put the work of a frame on the stream piece by piece."""
        stream, (height, width) = self._stream, self.input_size
        if self._staging_on_gpu is not None and self._staging is not None:
            stream.upload(self._staging_on_gpu, self._staging, min(size, self._staging_on_gpu.size))
        grid = (blocks(width, LETTERBOX_BLOCK[0]), blocks(height, LETTERBOX_BLOCK[1]))
        stream.launch(self._kernels.letterbox, grid, LETTERBOX_BLOCK, self._letterbox_arguments.address)
        if not self._context.execute_async_v3(stream.handle):
            raise GpuError(f'TensorRT failed to run {str(self._engine.path)!r}{self._engine.reasons()}')
        take = self._kernels.take_half if self._output.element_type == np.float16 else self._kernels.take_float
        stream.launch(take, (blocks(self._anchors, TAKE_BLOCK[0]), 1), TAKE_BLOCK, self._take_arguments.address)
        stream.download(self._found, self._found_on_gpu, self._result.size)

    def _look_at_all(self, min_score: float) -> Floats:
        """Take the anchors from the network's whole output, where more passed than the result has room for."""
        size = self._rows * self._anchors * self._output.element_type.itemsize
        if self._whole is None:
            self._whole = self._hold(HostBuffer(size))
        self._stream.download(self._whole, self._numbers, size)
        self._stream.synchronize()
        numbers = self._whole.array.view(self._output.element_type).astype(np.float32)
        shape = (self._anchors, self._rows) if self._transposed else (self._rows, self._anchors)
        output = numbers.reshape(shape)
        return candidates(output.T if self._transposed else output, min_score)

    def _recover(self) -> None:
        """Wait for what a frame that failed has left on the stream, so that the next one starts from nothing."""
        with contextlib.suppress(GpuError):
            self._stream.synchronize()
        self._drop_graphs()

    def _drop_graphs(self) -> None:
        while self._graphs:
            give_back(self._graphs.popitem()[1])

    def _drop_staging(self) -> None:
        self._drop_graphs()  # they hold its addresses
        staging, on_gpu = self._staging, self._staging_on_gpu
        self._staging = self._staging_on_gpu = None
        for part in (staging, on_gpu):
            if part is not None:
                give_back(part)

    def close(self) -> None:
        """Give all back, from whatever thread: graphs, context, memory, stream, then this part in the engine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(GpuError):
                self._device.use()
            if self._held:
                self._recover()
            self._drop_staging()
            self._context = None
            while self._held:
                give_back(self._held.pop())
            del self._engine


def give_back(part: Graph | Stream | Memory | HostBuffer) -> None:
    """Give something back to CUDA; a GPU that has failed for good refuses even this."""
    try:
        part.close()
    except GpuError as error:
        log.debug('not given back: %s', error)


def blocks(threads: int, size: int) -> int:
    """Count the blocks that this many threads need."""
    return -(-threads // size)


def bind(engine: Engine, context: Any, stream: int, wanted_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Find the input and the output of an engine and fix their shapes: one picture where the engine leaves it open.

    Raises:
        ModelError: They are not those of YOLOv8 detection.

    """
    trt, plan = engine.api.module, engine.engine
    names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    inputs = [name for name in names if plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if len(inputs) != 1 or len(names) != 2:
        raise ModelError(f'engine file {str(engine.path)!r} has the tensors {names}, expected one input and one output')
    source = inputs[0]
    target = next(name for name in names if name != source)
    shape = tuple(plan.get_tensor_shape(source))
    if min(shape, default=0) < 0:
        least, _, most = (tuple(limit) for limit in plan.get_tensor_profile_shape(source, 0))
        shape = filled(shape, least, most, wanted_size)
        if not (context.set_optimization_profile_async(0, stream) and context.set_input_shape(source, shape)):
            raise ModelError(f'engine file {str(engine.path)!r} does not take the input {shape}{engine.reasons()}')
    metadata.check_input(shape, engine.path)
    result = tuple(context.get_tensor_shape(target))
    if min(result, default=0) < 1:
        raise ModelError(
            f'engine file {str(engine.path)!r} has an output {result} of unknown size, expected a known one'
        )
    return Tensor(source, shape, element_type(engine, source)), Tensor(target, result, element_type(engine, target))


def filled(
    shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...], input_size: tuple[int, int]
) -> tuple[int, ...]:
    """Fill the free dimensions of an input: one picture of the wanted size, or the nearest allowed."""
    wanted = (1, 3, *input_size) if len(shape) == 4 else least
    return tuple(
        n if n >= 0 else min(max(w, low), high) for n, w, low, high in zip(shape, wanted, least, most, strict=True)
    )


def element_type(engine: Engine, name: str) -> np.dtype[Any]:
    """Tell what the numbers of a tensor are.

    Raises:
        ModelError: They are not float32 or float16 in the GPU's memory, in plain order.

    """
    trt, plan = engine.api.module, engine.engine
    kinds = {trt.DataType.FLOAT: np.float32, trt.DataType.HALF: np.float16}
    found = plan.get_tensor_dtype(name)
    formats = getattr(trt, 'TensorFormat', None)  # the lean library does not name them
    plain = formats is None or plan.get_tensor_format(name) == formats.LINEAR
    if found not in kinds or plan.get_tensor_location(name) != trt.TensorLocation.DEVICE or not plain:
        raise ModelError(
            f'engine file {str(engine.path)!r} has the tensor {name!r} of {found}, expected float32 or float16 in '
            'plain order; build it without --inputIOFormats and --outputIOFormats'
        )
    return np.dtype(kinds[found])
