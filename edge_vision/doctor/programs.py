"""Asks other programs, none of them for longer than a moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

PROGRAM_TIMEOUT = 3.0  # s
CHILD_TIMEOUT = 12.0  # s; a library that takes longer to say what it can do hangs
MODEL_TIMEOUT = 30.0  # s; a large model on a small processor takes long to open
QUIET = {'LC_ALL': 'C', 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}  # English, and no idle threads
ALSO_IN = ('/usr/sbin', '/sbin', '/usr/local/sbin')  # where a user's PATH may not lead


class Answer(NamedTuple):
    """What a program said.

    Attributes:
        output: What it wrote to stdout.
        trouble: Why there is no usable answer; '' where there is one.

    """

    output: str
    trouble: str = ''


def find(name: str) -> str:
    """Find a program; '' where it is not installed."""
    places = os.pathsep.join([os.environ.get('PATH', os.defpath), *ALSO_IN])
    return shutil.which(name, path=places) or ''


def ask(*command: str, timeout: float = PROGRAM_TIMEOUT) -> Answer | None:
    """Run a program that is installed; None where it is not."""
    path = find(command[0])
    return answer([path, *command[1:]], timeout) if path else None


def answer(command: Sequence[str], timeout: float) -> Answer:
    """Run a program and take what it writes; one that hangs is killed with all that it started."""
    try:
        process = subprocess.Popen(  # noqa: S603  programs named in this package
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
            start_new_session=True,
            env={**os.environ, **QUIET},
        )
    except OSError as error:
        return Answer('', f'cannot be started: {error.strerror}')
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Answer('', f'hangs: no answer within {timeout:g} s')
    if process.returncode == 0:
        return Answer(output)
    last = (errors.strip() or output.strip()).splitlines()[-1:]
    return Answer(output, ' '.join(last) or ended(process.returncode))


def ended(code: int) -> str:
    """Describe how a program ended that said nothing."""
    if code >= 0:
        return f'ends with exit code {code}'
    with suppress(ValueError):
        return f'crashes with {signal.Signals(-code).name}'
    return f'crashes with signal {-code}'


def child(probe: str, arguments: Mapping[str, Any] | None = None, timeout: float = CHILD_TIMEOUT) -> dict[str, Any]:
    """Run a probe of `edge_vision.doctor.child` in a Python of its own, which may crash or hang.

    Returns:
        What it found; ``{'trouble': sentence}`` where it found nothing.

    """
    said = answer(
        [sys.executable, '-m', f'{__package__}.child', probe, json.dumps(arguments or {}, default=str)],
        timeout,
    )
    try:
        found = json.loads(said.output.splitlines()[-1])
    except (IndexError, ValueError):
        return {'trouble': said.trouble or 'says nothing'}
    return found if isinstance(found, dict) else {'trouble': f'says {found!r}'}
