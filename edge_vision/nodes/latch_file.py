"""Brings to disk what only a person may let go of, while the decision goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rclpy.impl.rcutils_logger import RcutilsLogger

from .. import latches
from ..decision import Cause
from ..frames import Slot
from .spin import Worker

PATIENCE = 1.0  # s that a disk may take without a word about it


class LatchFile:
    """Writes a latch file in a thread of its own: a disk may hang, and whoever stops or tells must not wait for it.

    Args:
        path: The file, which no other decision may have meanwhile.
        now_ns: The time now.
        kept: Returns what it is to hold; called in that thread, from the first `update` on.
        log: For what the disk refuses.

    Attributes:
        held: What it holds.

    Raises:
        ConfigurationError: The file could not be written later, or another decision has it.

    """

    def __init__(self, path: Path, now_ns: int, kept: Callable[[], tuple[Cause, ...]], log: RcutilsLogger) -> None:
        self._lock = latches.lock(path)
        self.held = latches.load(path, now_ns)
        self._path, self._kept, self._log = path, kept, log
        self._begun: float | None = None
        self._refused = ''
        self._due: Slot[bool] = Slot()
        self._worker = Worker('decision-latches', self._work)

    def update(self) -> None:
        """Write it soon if what is kept has changed; to be called again for what the disk refused."""
        self._due.put(True)

    @property
    def trouble(self) -> str:
        """Why what is kept would not outlive a restart, as a sentence; '' where it would."""
        begun = self._begun
        took = 0.0 if begun is None else time.monotonic() - begun
        if took > PATIENCE:
            return f'latch_file is {str(self._path)!r}, which the disk has not written for {took:.0f} s'
        return self._refused

    def close(self) -> None:
        """Write it for the last time and let others have it, unless the disk hangs."""
        self._due.close()
        if self._worker.join():
            self._lock.close()

    def _work(self) -> None:
        while self._due.take():
            self._write()
        self._write()

    def _write(self) -> None:
        kept = self._kept()
        if {cause.key for cause in kept} == {cause.key for cause in self.held}:
            self._refused = ''
            return
        self._begun = time.monotonic()
        try:
            latches.save(self._path, kept)
            self.held, self._refused = kept, ''
        except OSError as error:
            self._refused = f'latch_file cannot be written: {error}'
            self._log.error(self._refused, throttle_duration_sec=5.0)
        finally:
            self._begun = None
