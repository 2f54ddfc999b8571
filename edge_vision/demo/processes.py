"""The demo's child processes: started with a log of their own, watched, and always ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import EdgeVisionError

PR_SET_PDEATHSIG = 1  # prctl(2)
END_TIMEOUT = 15.0  # s


class ChildFailed(EdgeVisionError):  # noqa: N818  reads as what it is
    """A process of the demo ended before it was told to."""


class Child:
    """One process of the demo.

    Args:
        name: For messages and the log's name.
        arguments: Arguments of ``python -m``.
        log: File for its stderr, and for its stdout unless ``pipe``.
        environment: Added to this process's.
        pipe: Keep stdout readable by this process.

    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str], *, pipe: bool = False
    ) -> None:
        self.name = name
        self._log = log
        with log.open('wb') as sink:
            self.process = subprocess.Popen(
                [sys.executable, '-m', *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe else sink,
                stderr=sink,
                env={**os.environ, **environment},
                preexec_fn=_die_with_parent,  # noqa: PLW1509  calls one function of libc
            )

    def check(self) -> None:
        """Raise `ChildFailed`, with what the process said last, if it is not running."""
        code = self.process.poll()
        if code is not None:
            raise ChildFailed(self._last_words(code))

    def _last_words(self, code: int) -> str:
        lines = self._log.read_text(encoding='utf-8', errors='replace').splitlines()
        told = [line for line in lines if line.startswith('edge_vision: error: ')]
        if told:
            return told[-1].removeprefix('edge_vision: error: ')
        return f'{self.name} ended with exit code {code}; see {self._log}'

    def tell_to_end(self) -> None:
        """Send SIGTERM."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = END_TIMEOUT) -> None:
        """Wait for the end, and make an end after the timeout, s."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def end(children: Sequence[Child], timeout: float = END_TIMEOUT) -> None:
    """Tell all to end, then wait for all, s; what takes longer is killed."""
    for child in children:
        child.tell_to_end()
    deadline = time.monotonic() + timeout
    for child in children:
        child.wait(max(0.1, deadline - time.monotonic()))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
