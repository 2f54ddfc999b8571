"""Keeps what only a person may let go of over a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from . import durable
from .causes import OPERATOR_STOP, UNREADABLE_LATCHES
from .decision import Cause
from .errors import ConfigurationError
from .events import ACTIONS

FORMAT = 1
KEPT = '; kept over a restart'


def lock(path: Path) -> TextIO:
    """Keep every other decision from a latch file until the answer is closed or this process is dead.

    Raises:
        ConfigurationError: Another one has it, or it could not be written later.

    """
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f'latch_file is {str(path)!r}, expected a file in a directory that can be written')
    try:
        return durable.lock(path.with_name(f'{path.name}.lock'))
    except BlockingIOError as error:
        msg = f'latch_file is {str(path)!r}, which another decision keeps; give each decision one of its own'
        raise ConfigurationError(msg) from error
    except OSError as error:
        msg = f'latch_file is {str(path)!r}, which cannot be locked: {error.strerror}; expected one on a local disk'
        raise ConfigurationError(msg) from error


def save(path: Path, causes: Iterable[Cause]) -> None:
    """Write causes so that either the old file or the new one is there, whenever the power goes.

    Raises:
        OSError: The disk refuses.

    """
    held = [{'name': c.name, 'source': c.source, 'action': c.action, 'reason': c.reason} for c in causes]
    durable.write(path, json.dumps({'format': FORMAT, 'held': held}).encode())


def load(path: Path, now_ns: int) -> tuple[Cause, ...]:
    """Read what was held; it holds again until it is let go of, and so does a file that cannot be read."""
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        return (_damaged(path, error, now_ns),)
    try:
        return _causes(json.loads(text), now_ns)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return (_damaged(path, error, now_ns),)


def _causes(content: Any, now_ns: int) -> tuple[Cause, ...]:
    if content['format'] != FORMAT or not isinstance(content['held'], list):
        raise ValueError(f'{content!r:.80} is not of format {FORMAT}')
    return tuple(_cause(item, now_ns) for item in content['held'])


def _cause(item: Any, now_ns: int) -> Cause:
    name, source, action, reason = (item[key] for key in ('name', 'source', 'action', 'reason'))
    if action not in ACTIONS or not all(isinstance(text, str) for text in (name, source, reason)):
        raise ValueError(f'{item!r:.80} is not a cause')
    reason = reason.removesuffix(KEPT) + KEPT
    return Cause(name, source, action, now_ns, reason, latched=name != OPERATOR_STOP)


def _damaged(path: Path, error: Exception, now_ns: int) -> Cause:
    reason = f'{path} cannot be read, what it held is not known: {error}'
    return Cause(UNREADABLE_LATCHES, '', 'stop', now_ns, reason.replace('\n', ' '), latched=True)
