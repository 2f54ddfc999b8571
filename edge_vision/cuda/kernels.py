"""The kernels, compiled by CUDA's run-time compiler for the GPU that is there."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RuntimeUnavailable
from .bindings import driver as cu
from .bindings import nvrtc
from .driver import checked, device

SOURCE = Path(__file__).with_name('kernels.cu')


class Arguments:
    """The arguments of a kernel in the form that CUDA takes them: addresses of the values.

    Attributes:
        address: Of the addresses.

    Args:
        values: Addresses of the GPU as ctypes.c_void_p, numbers as ctypes.c_int.

    """

    def __init__(self, *values: ctypes.c_void_p | ctypes.c_int) -> None:
        self._values = values  # they have to live as long as their addresses
        self._addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.address = ctypes.addressof(self._addresses)


class Kernels:
    """The kernels of `kernels.cu`, compiled for this GPU.

    Attributes:
        letterbox: As in the file.
        take_float: As in the file.
        take_half: As in the file.

    """

    def __init__(self, compute_capability: tuple[int, int]) -> None:
        self._module = checked(cu.cuModuleLoadData(compiled(compute_capability)))  # until the process ends
        self.letterbox = self._function(b'letterbox')
        self.take_float = self._function(b'take_float')
        self.take_half = self._function(b'take_half')

    def _function(self, name: bytes) -> Any:
        return checked(cu.cuModuleGetFunction(self._module, name))


@functools.lru_cache(maxsize=1)
def kernels() -> Kernels:
    """Compile the kernels for the GPU of this process, once; the GPU has to be in use by this thread.

    Raises:
        RuntimeUnavailable: CUDA's run-time compiler is missing or does not know the GPU.

    """
    return Kernels(device().compute_capability)


def compiled(compute_capability: tuple[int, int]) -> bytes:
    """Compile `kernels.cu` for GPUs of one architecture.

    Returns:
        Machine code (a cubin); where the compiler is older than the GPU, code for its newest architecture (PTX)
        that the driver translates.

    Raises:
        RuntimeUnavailable: CUDA's run-time compiler is missing or knows neither this nor an older architecture.

    """
    major, minor = compute_capability
    try:
        architecture = newest_known(major * 10 + minor)
        return translated(architecture, to_ptx=architecture != major * 10 + minor)
    except Exception as error:  # the library raises its own errors where it finds no compiler
        raise RuntimeUnavailable(
            f'the kernels cannot be compiled for a GPU of compute capability {major}.{minor}: {error}; '
            "CUDA's libnvrtc must be there and know the GPU (JetPack: cuda-nvrtc, else: pip install nvidia-cuda-nvrtc)"
        ) from error


def newest_known(wanted: int) -> int:
    """Return the newest architecture that the compiler knows and a GPU of the wanted one can run."""
    known = [int(number) for number in built(nvrtc.nvrtcGetSupportedArchs())]
    fitting = [number for number in known if number <= wanted]
    if not fitting:
        raise RuntimeUnavailable(f'the compiler knows {known} and nothing older')
    return max(fitting)


def translated(architecture: int, *, to_ptx: bool) -> bytes:
    """Run CUDA's run-time compiler."""
    options = [f'--gpu-architecture={"compute" if to_ptx else "sm"}_{architecture}'.encode(), b'--std=c++17']
    program = built(nvrtc.nvrtcCreateProgram(SOURCE.read_bytes(), SOURCE.name.encode(), 0, [], []))
    try:
        if int(nvrtc.nvrtcCompileProgram(program, len(options), options)[0]):
            raise RuntimeUnavailable(build_log(program))
        read_size, read = (
            (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if to_ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        )
        code = bytes(built(read_size(program)))
        built(read(program, code))
        return code
    finally:
        built(nvrtc.nvrtcDestroyProgram(program))


def built(result: Sequence[Any]) -> Any:
    """Take the value out of what a function of the compiler returns."""
    error, *values = result
    if int(error):
        raise RuntimeUnavailable(nvrtc.nvrtcGetErrorString(error)[1].decode())
    return values[0] if values else None


def build_log(program: Any) -> str:
    """Return what the compiler said."""
    text = bytes(built(nvrtc.nvrtcGetProgramLogSize(program)))
    built(nvrtc.nvrtcGetProgramLog(program, text))
    return text.rstrip(b'\0\n').decode(errors='replace')
