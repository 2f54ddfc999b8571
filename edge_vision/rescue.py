"""What can still be read of a damaged spool: row by row, each checked by what it says of itself."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from .events import Event, EventError

_LARGEST_SEQ = 1 << 62  # behind the largest one that SQLite knows it would find no next place
_SCANS = (
    'SELECT seq FROM events NOT INDEXED ORDER BY seq',
    'SELECT seq FROM events NOT INDEXED ORDER BY seq DESC',
    'SELECT seq FROM events INDEXED BY events_to_drop',
    'SELECT seq FROM pictures NOT INDEXED ORDER BY seq',
)
_DAMAGE = (sqlite3.Error, UnicodeDecodeError, OverflowError)


class Rescued(NamedTuple):
    """One sound event, with the columns of the spool.

    Attributes:
        seq: Its place in the queue.
        id: The event's id.
        keep: Its class.
        stored_ns: When it was stored, ns since the epoch.
        event: Its JSON.
        picture: Its evidence; None where there is none or it is damaged, which the event then says.

    """

    seq: int
    id: str
    keep: int
    stored_ns: int
    event: str
    picture: bytes | None


def rescued(path: Path) -> Generator[Rescued, None, None]:
    """Read the events of a damaged database that are sound, in order."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute('PRAGMA writable_schema = ON')  # lets SQLite read a file that is shorter than it says
        for seq in sorted(_places(connection)):
            with suppress(*_DAMAGE, EventError):
                yield _read(connection, seq)


def _places(connection: sqlite3.Connection) -> set[int]:
    """Find events from both ends and by the indexes: each way ends where the damage begins."""
    places: set[int] = set()
    for scan in _SCANS:
        with suppress(*_DAMAGE):
            for (seq,) in connection.execute(scan):
                places.add(seq)
    return {seq for seq in places if 0 < seq < _LARGEST_SEQ}


def _read(connection: sqlite3.Connection, seq: int) -> Rescued:
    """Read one event, or raise what `rescued` passes over."""
    query = 'SELECT id, keep, stored_ns, event FROM events NOT INDEXED WHERE seq = ?'
    row = connection.execute(query, (seq,)).fetchone()
    if row is None or tuple(map(type, row)) != (str, int, int, str):
        raise EventError
    name, keep, stored_ns, text = row
    event = Event.from_json(text)
    if event.id != name:
        raise EventError
    picture = _picture(connection, seq)
    if event.evidence.sha256 and (picture is None or hashlib.sha256(picture).hexdigest() != event.evidence.sha256):
        return Rescued(seq, name, keep, stored_ns, event.without_picture('the spool was damaged').to_json(), None)
    return Rescued(seq, name, keep, stored_ns, text, picture)


def _picture(connection: sqlite3.Connection, seq: int) -> bytes | None:
    with suppress(*_DAMAGE):
        row = connection.execute('SELECT picture FROM pictures WHERE seq = ?', (seq,)).fetchone()
        return row[0] if row and isinstance(row[0], bytes) else None
    return None
