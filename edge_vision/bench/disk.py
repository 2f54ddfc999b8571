"""A disk that can be made slow or full for one process while it runs: a small library that the process preloads.

What it delays is the wait for the disk (fsync, fdatasync), what it refuses is every write, and both only for files
below one directory. All else is as real as without it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *state; /* the delay in ns, and whether the disk is full */
static const char *directory;

__attribute__((constructor)) static void find(void) {
    const char *path = getenv("EDGE_VISION_DISK_STATE");
    directory = getenv("EDGE_VISION_DISK");
    int file = path && directory ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 2 * sizeof *state, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) state = mapped;
}

static int concerns(int file) {
    char link[32], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, name, sizeof name);
    size_t wanted = strlen(directory);
    return length > (ssize_t)wanted && !strncmp(name, directory, wanted) && name[wanted] == '/';
}

static void wait_for_disk(int file) {
    if (!state || !state[0] || !concerns(file)) return;
    struct timespec delay = {state[0] / 1000000000, state[0] % 1000000000};
    nanosleep(&delay, NULL);
}

static int refuses(int file) {
    if (!state || !state[1] || !concerns(file)) return 0;
    errno = ENOSPC;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int fsync(int file) {
    wait_for_disk(file);
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    wait_for_disk(file);
    return REAL(fdatasync)(file);
}

ssize_t write(int file, const void *data, size_t size) {
    static __typeof__(&write) real;
    if (!real) real = REAL(write);
    return refuses(file) ? -1 : real(file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    static __typeof__(&pwrite) real;
    if (!real) real = REAL(pwrite);
    return refuses(file) ? -1 : real(file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    static __typeof__(&pwrite64) real;
    if (!real) real = REAL(pwrite64);
    return refuses(file) ? -1 : real(file, data, size, at);
}
"""


def build(folder: Path) -> Path | None:
    """Compile the library into a folder; None where there is no C compiler.

    Raises:
        subprocess.CalledProcessError: The compiler refuses.

    """
    compiler = shlex.split(os.environ.get('CC', 'cc'))
    if shutil.which(compiler[0]) is None:
        return None
    source, library = folder / 'disk.c', folder / 'disk.so'
    source.write_text(SOURCE, encoding='utf-8')
    command = [*compiler, '-shared', '-fPIC', '-O1', '-o', str(library), str(source), '-ldl']
    subprocess.run(command, check=True)  # noqa: S603  the user's own compiler
    return library


class Disk:
    """How the disk below a directory behaves for the processes that are started with `environment`.

    Args:
        directory: What is concerned.
        state: A file that says how it behaves; made when it is absent.

    """

    def __init__(self, directory: Path, state: Path) -> None:
        self._directory = directory.resolve()
        self._state = state
        if not state.exists():
            self.behave()

    def environment(self, library: Path) -> dict[str, str]:
        """Variables for a process that is to see the disk so."""
        return {
            'LD_PRELOAD': str(library),
            'EDGE_VISION_DISK': str(self._directory),
            'EDGE_VISION_DISK_STATE': str(self._state),
        }

    def behave(self, *, delay: float = 0.0, full: bool = False) -> None:
        """Let every wait for the disk last ``delay`` seconds longer from now on, and let it be full or not."""
        with self._state.open('r+b' if self._state.exists() else 'wb') as file:
            file.write(struct.pack('=qq', round(delay * 1e9), full))
