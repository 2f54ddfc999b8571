"""Files that a crash or a power cut leaves whole, and that one process has for itself."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO


def write(path: Path, content: bytes) -> None:
    """Write a file so that either the old one or the new one is there, whatever dies.

    Raises:
        OSError: The disk refuses.

    """
    part = path.with_name(f'{path.name}.part')
    with part.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names of new files as durable as their content.

    Raises:
        OSError: The disk refuses.

    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> TextIO:
    """Keep other processes out until the file is closed, or this process has died.

    Raises:
        BlockingIOError: Another process has it.
        OSError: The disk refuses.

    """
    file = path.open('w')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file
