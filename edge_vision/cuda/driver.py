"""CUDA's driver interface by way of cuda-python: one GPU, its memory, streams, graphs and kernels.

**Threads.** A CUDA context is current or not for each thread on its own. Whoever makes or frees something here, or
puts work on a stream, calls `Gpu.use` first in the thread it is in; it is cheap. The context is the device's primary
one, the same that TensorRT finds.

**Order.** What is put on a stream is done in its order, while the calling thread goes on; host memory that is copied
from or to must stay untouched, and everything allocated, until `Stream.synchronize` has come back. Here all host
memory is page-locked: with other memory CUDA copies synchronously, and a graph cannot hold the copy at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.device import Device
from ..errors import EdgeVisionError, RuntimeUnavailable
from .bindings import driver as cu

WAY_OUT = "see what 'nvidia-smi' (on a Jetson: 'tegrastats') says"
opening = threading.Lock()


class GpuError(EdgeVisionError):
    """The GPU, its driver or TensorRT failed while it worked; there is no result."""


def checked(result: Sequence[Any]) -> Any:
    """Take the value out of what a function of cuda-python returns.

    Returns:
        Nothing, the one value, or a tuple of them.

    Raises:
        GpuError: It failed.

    """
    error, *values = result
    if int(error):
        raise GpuError(f'CUDA failed: {explain(error)}; if it does so on every frame, start the process anew')
    return values[0] if len(values) == 1 else tuple(values)


def explain(error: Any) -> str:
    """Name an error of the driver interface and say what it means."""
    with contextlib.suppress(Exception):
        name, meaning = cu.cuGetErrorName(error)[1], cu.cuGetErrorString(error)[1]
        return f'{name.decode()} ({meaning.decode()})'
    return str(error)


class Gpu:
    """The first GPU that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses another), and its primary context.

    Attributes:
        device: What it is.
        driver_version: Newest CUDA that the driver knows, such as (12, 6).

    Raises:
        RuntimeUnavailable: There is none that works.

    """

    def __init__(self) -> None:
        try:
            checked(cu.cuInit(0))
            handle = checked(cu.cuDeviceGet(0))
            self.device = describe(handle)
            version = int(checked(cu.cuDriverGetVersion()))
            self.driver_version = (version // 1000, version % 1000 // 10)
            self._context = checked(cu.cuDevicePrimaryCtxRetain(handle))  # until the process ends
            self.use()
        except Exception as error:  # the library raises its own errors where it finds no driver
            reason = str(error).splitlines()[0].partition(';')[0].removeprefix('CUDA failed: ').rstrip('.')
            reason = 'no NVIDIA driver' if 'driver library' in reason else reason
            raise RuntimeUnavailable(f'no GPU works here ({reason}); {WAY_OUT}') from error

    def use(self) -> None:
        """Make the context current in this thread."""
        checked(cu.cuCtxSetCurrent(self._context))


def describe(handle: Any) -> Device:
    """Ask a device what it is."""
    attribute = cu.CUdevice_attribute

    def ask(which: Any) -> int:
        return int(checked(cu.cuDeviceGetAttribute(which, handle)))

    return Device(
        name=checked(cu.cuDeviceGetName(256, handle)).split(b'\0')[0].decode(),
        compute_capability=(
            ask(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            ask(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        ),
        integrated=bool(ask(attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED)),
        total_memory=int(checked(cu.cuDeviceTotalMem(handle))),
    )


@functools.lru_cache(maxsize=1)
def found() -> Gpu:
    """Open the GPU once."""
    return Gpu()


def gpu() -> Gpu:
    """Return the GPU of this process.

    Raises:
        RuntimeUnavailable: There is none that works.

    """
    with opening:
        return found()


def device() -> Device:
    """Tell which GPU there is.

    Raises:
        RuntimeUnavailable: There is none that works.

    """
    return gpu().device


class Memory:
    """Memory of the GPU, filled with one byte as the stream's next work.

    Attributes:
        address: Where it begins, for the GPU.
        size: In bytes.

    """

    def __init__(self, stream: Stream, size: int, fill: int = 0) -> None:
        self.size = size
        self._handle = checked(cu.cuMemAlloc(size))
        self.address = int(self._handle)
        stream.fill(self, fill)

    def close(self) -> None:
        """Give it back; the GPU must be done with it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            checked(cu.cuMemFree(handle))


class HostBuffer:
    """Page-locked memory of the CPU, filled with zeros, that the GPU copies at full speed and reads itself.

    Attributes:
        array: The bytes.
        host_address: Where it begins, for the CPU and for copies.
        address: Where it begins for the GPU that reads it in place.

    """

    def __init__(self, size: int) -> None:
        flags = cu.CU_MEMHOSTALLOC_PORTABLE | cu.CU_MEMHOSTALLOC_DEVICEMAP
        self._handle: Any = checked(cu.cuMemHostAlloc(size, flags))
        self.host_address = int(self._handle)
        self.address = int(checked(cu.cuMemHostGetDevicePointer(self._handle, 0)))
        pointer = ctypes.cast(self.host_address, ctypes.POINTER(ctypes.c_uint8))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(pointer, (size,))
        self.array.fill(0)

    def close(self) -> None:
        """Give it back; neither the GPU nor anyone with the array may use it any more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self.array = np.zeros(0, np.uint8)
            checked(cu.cuMemFreeHost(handle))


class Stream:
    """A queue of work for the GPU, independent of all others.

    Attributes:
        handle: Its address, as TensorRT takes it.

    """

    def __init__(self) -> None:
        self._handle = checked(cu.cuStreamCreate(int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        self.handle = int(self._handle)

    def fill(self, target: Memory, value: int) -> None:
        """Fill memory with one byte."""
        checked(cu.cuMemsetD8Async(target.address, value, target.size, self._handle))

    def upload(self, target: Memory, source: HostBuffer, size: int) -> None:
        """Copy the first bytes of a buffer to the GPU."""
        checked(cu.cuMemcpyHtoDAsync(target.address, source.host_address, within(size, target.size), self._handle))

    def download(self, target: HostBuffer, source: Memory, size: int) -> None:
        """Copy the first bytes of the GPU's memory into a buffer."""
        checked(cu.cuMemcpyDtoHAsync(target.host_address, source.address, within(size, source.size), self._handle))

    def copy(self, target: Memory, source: Memory, size: int) -> None:
        """Copy bytes within the GPU."""
        checked(cu.cuMemcpyDtoDAsync(target.address, source.address, within(size, source.size), self._handle))

    def launch(self, function: Any, grid: tuple[int, int], block: tuple[int, int], addresses: int) -> None:
        """Run a kernel; its arguments are read now, from the addresses that stand at ``addresses``."""
        checked(cu.cuLaunchKernel(function, *grid, 1, *block, 1, 0, self._handle, addresses, 0))

    def synchronize(self) -> None:
        """Wait for all that was put on the stream.

        Raises:
            GpuError: Something of it failed, or something failed before it for good.

        """
        checked(cu.cuStreamSynchronize(self._handle))

    @contextlib.contextmanager
    def captured(self) -> Iterator[Graph]:
        """Put the work that the block puts on the stream into a graph instead of doing it.

        Calls of other threads do not disturb it. The graph can be launched once the block has ended.
        """
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        checked(cu.cuStreamBeginCapture(self._handle, mode))
        graph = Graph()
        try:
            yield graph
        except BaseException:
            graph.discard(cu.cuStreamEndCapture(self._handle))  # or the stream would stay unusable
            raise
        graph.instantiate(checked(cu.cuStreamEndCapture(self._handle)))

    def replay(self, graph: Graph) -> None:
        """Do the work of a graph."""
        checked(cu.cuGraphLaunch(graph.executable, self._handle))

    def close(self) -> None:
        """Give it back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            checked(cu.cuStreamDestroy(handle))


def within(size: int, room: int) -> int:
    """Check the size of a copy; beyond its memory CUDA would notice late or never."""
    if not 0 < size <= room:
        msg = f'{size} bytes are to be copied, expected 1 to {room}'
        raise ValueError(msg)
    return size


class Graph:
    """Work that is put on a stream with one call.

    Attributes:
        executable: What is launched.

    """

    executable: Any = None

    def instantiate(self, graph: Any) -> None:
        """Make the captured work launchable."""
        instantiate = getattr(cu, 'cuGraphInstantiateWithFlags', cu.cuGraphInstantiate)  # until CUDA 11 by that name
        try:
            self.executable = checked(instantiate(graph, 0))
        finally:
            checked(cu.cuGraphDestroy(graph))

    def discard(self, ended: Sequence[Any]) -> None:
        """Drop the work of a capture that failed."""
        error, graph = ended
        if not error and graph is not None and int(graph):
            checked(cu.cuGraphDestroy(graph))

    def close(self) -> None:
        """Give it back; the GPU must be done with it."""
        executable, self.executable = self.executable, None
        if executable is not None:
            checked(cu.cuGraphExecDestroy(executable))


class Event:
    """A point in a stream, with its time."""

    def __init__(self) -> None:
        self._handle = checked(cu.cuEventCreate(0))

    def record(self, stream: Stream) -> None:
        """Put it on a stream."""
        checked(cu.cuEventRecord(self._handle, stream.handle))

    def since(self, earlier: Event) -> float:
        """Wait for it and tell how long after another it came, ms."""
        checked(cu.cuEventSynchronize(self._handle))
        return float(checked(cu.cuEventElapsedTime(earlier._handle, self._handle)))

    def close(self) -> None:
        """Give it back."""
        handle, self._handle = self._handle, None
        if handle is not None:
            checked(cu.cuEventDestroy(handle))
