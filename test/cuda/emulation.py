"""Builds the emulated GPU and the kernels as plain functions, once per run of the tests."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / 'edge_vision' / 'cuda'


def build(source, target, *options):
    compiler = os.environ.get('CXX', 'c++')
    if shutil.which(compiler) is None:
        pytest.skip(f'there is no C++ compiler {compiler!r} to emulate the GPU with')
    flags = ['-std=c++17', '-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', f'-I{SOURCES}', f'-I{HERE}']
    subprocess.run([compiler, *flags, *options, str(HERE / source), '-o', str(target), '-pthread'], check=True)
    return target


def kernels(directory):
    """Return ``run_kernel`` of kernels.cpp as a function of (name, grid, block, *arguments)."""
    library = ctypes.CDLL(str(build('kernels.cpp', directory / 'kernels.so')))
    library.number_of_half.restype = ctypes.c_float
    library.run_kernel.restype = ctypes.c_bool

    def run(name, grid, block, *arguments):
        addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
        assert library.run_kernel(name.encode(), *grid, *block, addresses)

    return library, run
