"""A wall clock that a test can step in one process while it runs, without touching the machine's."""

import os
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

import pytest


def build(directory):
    """Compile the library to preload; None where there is no compiler, except in CI, which must have one."""
    compiler = shlex.split(os.environ.get('CC', 'cc'))
    if shutil.which(compiler[0]) is None:
        if os.environ.get('CI') == 'true':
            pytest.fail(f'there is no compiler {compiler[0]!r}, and CI=true forbids to skip')
        return None
    library = directory / 'wall_clock.so'
    source = Path(__file__).with_suffix('.c')
    subprocess.run([*compiler, '-shared', '-fPIC', '-O1', '-o', library, source, '-ldl'], check=True)
    return library


class WallClock:
    """The wall clock of one process to be started.

    Args:
        library: What `build` gave.
        file: Where the offset is kept.

    """

    def __init__(self, library, file):
        self._file = file
        self.set(0)
        self.environment = {'LD_PRELOAD': str(library), 'WALL_CLOCK_OFFSET': str(file)}

    def set(self, offset):
        """Let the clock be off by that many seconds from now on."""
        with self._file.open('r+b' if self._file.exists() else 'wb') as file:
            file.write(struct.pack('=q', round(offset * 1e9)))
