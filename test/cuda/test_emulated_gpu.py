"""Runs `on_emulated_gpu.py` where cuda-python finds the emulation in the place of the driver's library."""

import os
import subprocess
import sys
from pathlib import Path

import emulation
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
    pytest.importorskip('cuda.bindings', reason='cuda-python is not installed')
    directory = tmp_path_factory.mktemp('driver')
    emulation.build('driver.cpp', directory / 'libcuda.so.1', '-Wl,-soname,libcuda.so.1')
    return directory


@pytest.mark.parametrize(
    ('tests', 'environment'),
    [
        ('not lost', {}),
        ('not lost', {'EMULATED_INTEGRATED': '1'}),
        ('lost_gpu', {}),
        ('lost_driver', {'EMULATED_NO_DEVICE': '1'}),
    ],
    ids=['with memory of its own', 'that shares memory with the CPU', 'that is lost', 'that is not there'],
)
def test_frames_go_through_a_gpu(driver, tests, environment):
    """Run the tests; their own words are in the output of this one."""
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', '-k', tests]
    everything = {**os.environ, **environment, 'LD_LIBRARY_PATH': str(driver), 'PYTHONPATH': str(HERE.parent)}
    command.append(str(HERE / 'on_emulated_gpu.py'))
    done = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ' passed' in done.stdout
    assert 'skipped' not in done.stdout
