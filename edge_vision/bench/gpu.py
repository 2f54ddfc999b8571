"""How long the GPU's own steps take beside copies of the same bytes, and the whole way of a frame through it.

Times of kernels and copies are taken by the GPU between two events, around one graph of many of the same, so that no
launch is in them; the bytes are the same each time, so what fits into its cache stays there, for the copies as well.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import RuntimeUnavailable
from ..runtimes import Runtime
from ..yolov8 import letterbox
from .figures import Figures, Row, dimensions, in_turns, percentiles, ratio, show, text, times

if TYPE_CHECKING:
    from ..cuda import Gpu, HostBuffer, Memory, Stream

SIZES = ((640, 480), (1920, 1080), (3840, 2160))
INPUT_SIZE = (640, 640)
ROWS, ANCHORS, PASSING = 84, 8400, 40  # of YOLOv8 with the 80 classes of COCO
REPEATS = 20  # of a step within one measurement
ROUNDS = 200  # measurements at most
FLOAT = np.dtype(np.float32)

Part = TypeVar('Part', 'Stream', 'Memory', 'HostBuffer')


def find_gpu() -> Gpu | None:
    """Find the GPU; say so where none works."""
    try:
        from ..cuda import gpu  # noqa: PLC0415  needs a library that few machines have

        return gpu()
    except (ImportError, RuntimeUnavailable) as error:
        show('', f'gpu not measured: {error}')
        return None


def steps(runtime: Runtime, args: argparse.Namespace) -> Iterator[Row]:
    """Time the steps for each size of picture, and the runtime where it is TensorRT."""
    gpu = find_gpu()
    for size in args.size or SIZES if gpu else ():
        gpu.use()  # type: ignore[union-attr]
        figures = Bench(size).measure(args.duration)
        whole = infer(runtime, size, args.duration) if runtime.name == 'tensorrt' else None
        yield {
            'size': list(size),
            'gpu': gpu.device.name,  # type: ignore[union-attr]
            **figures,
            'infer_ms': whole,
            'letterbox_per_copy': ratio(figures['letterbox_ms'], figures['copy_ms']),
            'take_per_copy': ratio(figures['take_ms'], figures['copy_output_ms']),
        }


def infer(runtime: Runtime, size: tuple[int, int], duration: float) -> Figures | None:
    """Time frames from the picture in memory to the anchors in memory."""
    image = noise(size)
    geometry = letterbox(size, runtime.input_size)
    return percentiles(in_turns({'infer': lambda: runtime.infer(image, geometry, 0.25)}, duration)['infer'])


def noise(size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Make a picture of noise."""
    return np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)


class Bench:
    """The steps around a network of 640 x 640 and 80 classes, for pictures of one size.

    Args:
        size: Width and height of the picture.

    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size
        self._kept: list[object] = []

    def measure(self, duration: float) -> dict[str, Figures | None]:
        """Time each step, ms.

        Returns:
            ``upload``: the picture to the GPU. ``letterbox``: from the GPU's memory. ``mapped``: the same with
            the picture in the CPU's memory, without an upload. ``copy``: the picture's bytes within the GPU.
            ``take``: 40 of 8400 anchors. ``copy_output``: the bytes of the network's output within the GPU.

        """
        with ExitStack() as stack:
            self._stack = stack
            named = self._prepare()
            return {f'{name}_ms': percentiles(self._time(step, duration / len(named))) for name, step in named.items()}

    def _hold(self, part: Part) -> Part:
        self._stack.callback(part.close)
        return part

    def _prepare(self) -> dict[str, Callable[[], None]]:
        from ..cuda import HostBuffer, Memory, Stream  # noqa: PLC0415  as above
        from ..cuda.kernels import kernels  # noqa: PLC0415
        from ..cuda.layout import Result, Staged, offsets  # noqa: PLC0415

        stream = self._stream = self._hold(Stream())
        image, places = noise(self._size), offsets(INPUT_SIZE)
        host = self._hold(HostBuffer(places.picture + image.size))
        output_host = self._hold(HostBuffer(ROWS * ANCHORS * 4))
        result = Result(ROWS, ANCHORS, FLOAT)
        staged, other, planes, output, spare, found = (
            self._hold(Memory(stream, size))
            for size in (
                host.array.size,
                host.array.size,
                3 * INPUT_SIZE[0] * INPUT_SIZE[1] * 4,
                output_host.array.size,
                output_host.array.size,
                result.size,
            )
        )
        Staged(host.array, INPUT_SIZE, FLOAT).write(image, letterbox(self._size, INPUT_SIZE), 0.5, 1)
        output_host.array.view(FLOAT).reshape(ROWS, ANCHORS)[10, :: ANCHORS // PASSING] = 0.9
        stream.upload(staged, host, host.array.size)
        stream.upload(output, output_host, output_host.array.size)
        stream.synchronize()
        code, size = kernels(), host.array.size
        grid, block = (INPUT_SIZE[1] // 32, INPUT_SIZE[0] // 8), (32, 8)
        header = (found.address, found.address + result.positions, found.address + result.taken)

        def letterboxing(picture: int) -> Callable[[], None]:
            values = [*(staged.address + place for place in places[:-1]), picture, planes.address, header[0]]
            arguments = self._arguments(values, (INPUT_SIZE[1], INPUT_SIZE[0], 4))
            return lambda: stream.launch(code.letterbox, grid, block, arguments)

        taking = self._arguments([staged.address, output.address, *header], (ROWS, ANCHORS, 0, result.capacity))
        return {
            'upload': lambda: stream.upload(staged, host, size),
            'letterbox': letterboxing(staged.address + places.picture),
            'mapped': letterboxing(host.address + places.picture),
            'copy': lambda: stream.copy(other, staged, image.size),
            'take': lambda: stream.launch(code.take_float, (-(-ANCHORS // 256), 1), (256, 1), taking),
            'copy_output': lambda: stream.copy(spare, output, output.size),
        }

    def _arguments(self, addresses: Sequence[int], numbers: Sequence[int]) -> int:
        from ..cuda.kernels import Arguments  # noqa: PLC0415

        arguments = Arguments(*map(ctypes.c_void_p, addresses), *map(ctypes.c_int, numbers))
        self._kept.append(arguments)  # its address is nothing without it
        return arguments.address

    def _time(self, step: Callable[[], None], duration: float) -> list[float]:
        """Time a step by the GPU's clock, ms each."""
        from ..cuda import Event  # noqa: PLC0415

        stream, start, end = self._stream, Event(), Event()
        with stream.captured() as graph:
            for _ in range(REPEATS):
                step()
        took: list[float] = []
        stop = time.monotonic() + duration
        while not took or (len(took) <= ROUNDS and time.monotonic() < stop):
            start.record(stream)
            stream.replay(graph)
            end.record(stream)
            took.append(end.since(start) / REPEATS)
        stream.synchronize()
        for part in (graph, start, end):
            part.close()
        return took[1:] or took  # the first one is slow


def cells(row: Row) -> dict[str, str]:
    """Lay the steps out as text."""
    return {
        'picture': dimensions(row),
        'upload': text(row['upload_ms'], 3),
        'letterbox': text(row['letterbox_ms'], 3),
        'from host': text(row['mapped_ms'], 3),
        'copy': text(row['copy_ms'], 3),
        'letterbox/copy': times(row['letterbox_per_copy']),
        'take': text(row['take_ms'], 3),
        'take/copy': times(row['take_per_copy']),
        'infer': text(row['infer_ms']),
    }
