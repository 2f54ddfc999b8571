"""Where events wait for the broker: a durable queue on SQLite that survives whatever dies."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from . import durable
from .errors import ConfigurationError, SpoolError
from .events import Event, EventError
from .rescue import rescued

DATABASE = 'spool.db'

_log = logging.getLogger(__name__)

_FORMAT = 1
_SCHEMA = f"""
BEGIN;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice, so that a reader can go on after the last one it saw
    id TEXT NOT NULL UNIQUE,
    keep INTEGER NOT NULL,
    stored_ns INTEGER NOT NULL,
    event TEXT NOT NULL
);
CREATE INDEX events_to_drop ON events (keep, seq);
CREATE TABLE pictures (seq INTEGER PRIMARY KEY, keep INTEGER NOT NULL, picture BLOB NOT NULL);
CREATE INDEX pictures_to_drop ON pictures (keep, seq);
CREATE TABLE delivered (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
# As `Event.to_json` writes it; inside of a text the quotes would be escaped.
_IS_NEW_STOP = """instr(event, '"action":"stop"') AND instr(event, '"phase":"new"')"""
# An index alone is no new format: it is added to older files, and older versions keep it up to date.
_STOPS = f'CREATE INDEX IF NOT EXISTS new_stops ON events (seq) WHERE {_IS_NEW_STOP}'

_REMEMBERED = 10_000
_EXPIRED_AT_ONCE = 100  # so that appending never waits long
_RESCUED_AT_ONCE = 64
_DAMAGED_KEPT = 3
_PARTS = ('', '-wal', '-shm')  # files of one database
_ROW_BYTES = 160  # what a row costs beyond its texts: keys, three index entries, page headers
_SIZE = f'{_ROW_BYTES} + length(CAST(event AS BLOB)) + coalesce(length(picture), 0)'
_CLOCK_NOT_SET_NS = 1_600_000_000 * 10**9  # a device without a battery starts in 1970
_REPORT_PERIOD = 60.0  # s
_DISK_TROUBLE = ('unable to open', 'disk I/O error', 'is full', 'readonly', 'locked')  # not the file's fault
_DAMAGE = ('malformed', 'not a database')


class StoredEvent(NamedTuple):
    """One event that waits.

    Attributes:
        seq: Its place in the queue.
        id: The event's id.
        event: Its JSON.
        picture: Its evidence as a JPEG; None where there is none.

    """

    seq: int
    id: str
    event: str
    picture: bytes | None


class Dropped(NamedTuple):
    """What was given up since the spool was opened.

    Attributes:
        events: Events dropped because the spool was full.
        pictures: Pictures dropped because the spool was full; their events remain and say so.
        expired: Events dropped because of their age.

    """

    events: int = 0
    pictures: int = 0
    expired: int = 0


@dataclass
class _Tally:
    """What one transaction changes in the counters, applied once it is committed."""

    depth: int = 0
    bytes: int = 0
    events: int = 0
    pictures: int = 0
    expired: int = 0

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class Spool:
    """Keeps events and their pictures on disk, in order, until they are acknowledged.

    A full spool gives up in this order, the oldest first in each step: pictures of `flag` events,
    other pictures, `flag` events, other events. Nothing else is ever dropped but what is too old.

    A database that is damaged, at the start or while it is used, is set aside as ``spool.damaged-<time>.db`` (the
    newest three are kept); a new one is started with every event that can still be read and checked.

    One thread or several may append while another reads and acknowledges. One process at a time
    may open a directory.

    Args:
        directory: Where the database lies; made with permission 0700.
        max_bytes: Largest sum of events and pictures; the file may be about a fifth larger.
        max_age: Seconds after which an event is given up; 0 keeps it for ever.
        clock: Gives ns since the epoch; by default one that a step of the wall clock does not move.

    Raises:
        ConfigurationError: A bound is negative or leaves no room at all.

    """

    def __init__(
        self,
        directory: str | Path,
        *,
        max_bytes: int = 1 << 30,
        max_age: float = 30 * 86400.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        if max_bytes < 64 * 1024:
            msg = f'spool.max_bytes is {max_bytes!r}, expected at least 65536'
            raise ConfigurationError(msg)
        if max_age < 0:
            msg = f'spool.max_age is {max_age!r}, expected seconds from 0 (0 keeps events for ever)'
            raise ConfigurationError(msg)
        self._directory = Path(directory).expanduser()
        self._max_bytes = max_bytes
        self._max_age_ns = int(max_age * 1e9)
        self._clock = clock or _steady_clock()
        # One lock for all that writes: SQLite's own way to wait for a writer sleeps for milliseconds.
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._lock_file: TextIO | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._total = _Tally()
        self._reported = (0.0, Dropped())
        self._listener: Callable[[], None] | None = None
        self._damaged = False
        self._set_aside = ''

    def __enter__(self) -> Spool:  # noqa: PYI034  typing.Self needs Python 3.11
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open the database; one that is damaged is set aside and a new one started.

        Raises:
            SpoolError: The directory cannot be used, or another process uses it.

        """
        with _as_spool_error(f'open the spool in {str(self._directory)!r}'):
            self._prepare_directory()
            try:
                self._lock_file = self._lock_directory()
                self._connect()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the database; what waits in it stays. Harmless when it is closed already."""
        with self._write_lock, self._read_lock:
            self._disconnect()
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None

    def append(self, event: Event, picture: bytes | None = None) -> bool:
        """Put one event on disk; it is there when this returns.

        Returns:
            False where an event of the same id waits already.

        Raises:
            SpoolError: It cannot be written; nothing of it is stored.
            EventError: The event cannot be written as JSON.

        """
        return self.append_many([(event, picture)]) == 1

    def append_many(self, events: Iterable[tuple[Event, bytes | None]]) -> int:
        """Put events with their pictures on disk in one transaction.

        Returns:
            How many are new; those whose id waits or was delivered already are left as they are.

        Raises:
            SpoolError: They cannot be written; nothing of them is stored.
            EventError: An event cannot be written as JSON.

        """
        self._mend()
        now_ns = self._clock()
        rows = [(e.id, int(e.action != 'flag'), now_ns, e.to_json(), picture) for e, picture in events]
        with self._write_lock, self._transaction(self._writer, 'write to the spool') as (connection, tally):
            for *event, picture in rows:
                _insert(connection, event, picture, tally)
            self._expire(connection, now_ns, tally)
            _make_room(connection, self._total.bytes + tally.bytes - self._max_bytes, tally)
            stored = tally.depth + tally.events + tally.expired
        self._report()
        if self._listener is not None:
            self._listener()
        return stored

    def pending(self, after: int = 0, limit: int = 64, *, urgent: bool = False) -> list[StoredEvent]:
        """Read waiting events in the order in which they came.

        Args:
            after: Only those behind this place in the queue.
            limit: At most so many.
            urgent: Only events that begin a stop, the newest first.

        Raises:
            SpoolError: The database cannot be read.

        """
        self._mend()
        which = f'{_IS_NEW_STOP} AND seq > ? ORDER BY seq DESC' if urgent else 'seq > ? ORDER BY seq'
        query = f'SELECT seq, id, event, picture FROM events LEFT JOIN pictures USING (seq) WHERE {which} LIMIT ?'  # noqa: S608
        with self._read_lock, self._noting_damage(), _as_spool_error('read the spool'):
            return [StoredEvent(*row) for row in _opened(self._reader).execute(query, (after, limit))]

    def acknowledge(self, seqs: Iterable[int]) -> None:
        """Delete events that have arrived; places that are empty already are skipped.

        The newest `_REMEMBERED` ids are kept, so that an event that is announced again is not sent again.

        Raises:
            SpoolError: The database cannot be written.

        """
        self._mend()
        with self._deleting() as (connection, tally):
            for seq in seqs:
                connection.execute('INSERT OR IGNORE INTO delivered SELECT seq, id FROM events WHERE seq = ?', (seq,))
                _delete(connection, seq, tally)
            connection.execute(
                'DELETE FROM delivered WHERE seq <= (SELECT max(seq) FROM delivered) - ?', (_REMEMBERED,)
            )

    def expire(self) -> None:
        """Give up what is too old, as each append does, while nothing is appended.

        Raises:
            SpoolError: The database cannot be written.

        """
        if not self._max_age_ns:
            return
        now_ns, expired = self._clock(), _EXPIRED_AT_ONCE
        while expired == _EXPIRED_AT_ONCE:
            self._mend()
            with self._deleting() as (connection, tally):
                self._expire(connection, now_ns, tally)
            expired = tally.expired
        self._report()

    def listen(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after each append, in the thread that appended."""
        self._listener = callback

    @property
    def depth(self) -> int:
        """Events that wait."""
        return self._total.depth

    @property
    def bytes(self) -> int:
        """Size of what waits, as `max_bytes` counts it."""
        return self._total.bytes

    @property
    def dropped(self) -> Dropped:
        """What was given up since the spool was opened."""
        return Dropped(self._total.events, self._total.pictures, self._total.expired)

    @property
    def set_aside(self) -> str:
        """The damaged database that was set aside last, since this was made; '' where none was."""
        return self._set_aside

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest waiting event was stored; 0 where none waits.

        Raises:
            SpoolError: The database cannot be read.

        """
        with self._read_lock, self._noting_damage(), _as_spool_error('read the spool'):
            row = _opened(self._reader).execute('SELECT stored_ns FROM events ORDER BY seq LIMIT 1').fetchone()
        return 0.0 if row is None else max(0.0, (self._clock() - row[0]) / 1e9)

    def _prepare_directory(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            others = [entry for entry in self._directory.iterdir() if not entry.name.startswith(('spool.', 'lock'))]
            if others:
                msg = (
                    f'spool.directory is {str(self._directory)!r}, which other users may read and which holds other '
                    f'files such as {others[0].name!r}; give the spool a directory of its own'
                )
                raise SpoolError(msg)
            self._directory.chmod(0o700)

    def _lock_directory(self) -> TextIO:
        try:
            return durable.lock(self._directory / 'lock')
        except BlockingIOError as error:
            msg = f'spool.directory is {str(self._directory)!r}, which another process uses; give each bridge its own'
            raise SpoolError(msg) from error

    def _connect(self) -> None:
        path = self._directory / DATABASE
        try:
            self._writer = _open_database(path)
        except sqlite3.DatabaseError as error:
            if any(words in str(error) for words in _DISK_TROUBLE):
                raise
            damaged = _set_aside(path, error)
            self._set_aside = damaged.name
            self._writer = _open_database(path)
            self._take_over(damaged)
        durable.sync_directory(self._directory)
        # An event must be on disk before anyone is told: with FULL each commit waits for the disk, so that a power
        # cut takes nothing back. A deletion need not wait: at worst an event is sent again, under the same id.
        self._writer.execute('PRAGMA synchronous = FULL')
        self._reader = _plain_connection(path)
        self._reader.execute('PRAGMA synchronous = NORMAL')
        self._take_stock()

    def _disconnect(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    def _mend(self) -> None:
        """Open the database again where it was found damaged in use."""
        if not self._damaged:
            return
        with self._write_lock, self._read_lock, _as_spool_error(f'open the spool in {str(self._directory)!r}'):
            if self._damaged and self._lock_file is not None:
                self._disconnect()
                self._connect()
                self._damaged = False

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except SpoolError as error:
            self._damaged = self._damaged or any(words in str(error.__cause__) for words in _DAMAGE)
            raise

    def _take_over(self, damaged: Path) -> None:
        """Store again what can be read of a damaged database, in the same places of the queue."""
        connection, taken = _opened(self._writer), 0
        try:
            with closing(rescued(damaged)) as events:
                while batch := list(islice(events, _RESCUED_AT_ONCE)):
                    connection.execute('BEGIN')
                    connection.executemany(
                        'INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)', [e[:5] for e in batch]
                    )
                    pictures = [(e.seq, e.keep, e.picture) for e in batch if e.picture]
                    connection.executemany('INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)', pictures)
                    connection.execute('COMMIT')
                    taken += len(batch)
        except sqlite3.Error as error:  # a full disk, mostly: there are two databases now
            with suppress(sqlite3.Error):
                connection.execute('ROLLBACK')
            _log.error('spool: not all that can be read of %s has room in the new one: %s', damaged.name, error)
        # A reader goes on after the last place that it saw: no place of the damaged database may be used for another.
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('events', ?)", (self._next_place(connection),))
        _log.warning('spool: took over %d events from %s', taken, damaged.name)

    def _next_place(self, connection: sqlite3.Connection) -> int:
        """Return a place behind all that were used: nobody ever stored a million events per second."""
        (last,) = connection.execute('SELECT coalesce(max(seq), 0) FROM events').fetchone()
        return max(int(last), self._clock() // 1000)

    def _take_stock(self) -> None:
        """Count what an earlier process left, and forgive times that a wrong clock wrote."""
        connection, now_ns = _opened(self._writer), self._clock()
        with connection:
            connection.execute(
                'UPDATE events SET stored_ns = ? WHERE stored_ns < ? OR stored_ns > ?',
                (now_ns, min(now_ns, _CLOCK_NOT_SET_NS), now_ns),
            )
        query = f'SELECT count(*), coalesce(sum({_SIZE}), 0) FROM events LEFT JOIN pictures USING (seq)'  # noqa: S608
        depth, size = connection.execute(query).fetchone()
        self._total = _Tally(depth=depth, bytes=size)
        if depth:
            _log.info('spool: %d events from before wait in %s', depth, self._directory)

    def _expire(self, connection: sqlite3.Connection, now_ns: int, tally: _Tally) -> None:
        if not self._max_age_ns:
            return
        query = 'SELECT seq, stored_ns FROM events ORDER BY seq LIMIT ?'
        for seq, stored_ns in connection.execute(query, (_EXPIRED_AT_ONCE,)).fetchall():
            if now_ns - stored_ns <= self._max_age_ns:
                return
            _delete(connection, seq, tally)
            tally.expired += 1

    @contextmanager
    def _transaction(
        self, connection: sqlite3.Connection | None, action: str
    ) -> Iterator[tuple[sqlite3.Connection, _Tally]]:
        tally = _Tally()
        with self._noting_damage(), _as_spool_error(f'{action} in {str(self._directory)!r}'):
            connection = _opened(connection)
            connection.execute('BEGIN IMMEDIATE')
            try:
                yield connection, tally
                connection.execute('COMMIT')
            except BaseException:
                if connection.in_transaction:  # some errors, a full disk among them, end it by themselves
                    connection.execute('ROLLBACK')
                # Even to delete takes room in the log, so a full disk would stay full for ever: the log gives way.
                with suppress(sqlite3.Error):
                    connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')
                raise
        self._total = self._total + tally

    @contextmanager
    def _deleting(self) -> Iterator[tuple[sqlite3.Connection, _Tally]]:
        transaction = self._transaction(self._reader, 'delete from the spool')
        with self._write_lock, self._read_lock, transaction as (connection, tally):
            yield connection, tally

    def _report(self) -> None:
        """Log what was given up, at once and then at most once a minute."""
        (last, reported), dropped, now = self._reported, self.dropped, time.monotonic()
        if dropped == reported or (last and now - last < _REPORT_PERIOD):
            return
        self._reported = (now, dropped)
        _log.warning(
            'spool: gave up %d events and %d pictures for lack of room and %d events for their age since it was opened',
            *dropped,
        )


def _insert(connection: sqlite3.Connection, event: list[object], picture: bytes | None, tally: _Tally) -> None:
    """Store one event (id, keep, stored_ns, json) unless its id is there."""
    if connection.execute('SELECT 1 FROM delivered WHERE id = ?', event[:1]).fetchone():
        return
    cursor = connection.execute('INSERT OR IGNORE INTO events (id, keep, stored_ns, event) VALUES (?, ?, ?, ?)', event)
    if cursor.rowcount == 0:
        return
    if picture:
        connection.execute('INSERT INTO pictures VALUES (?, ?, ?)', (cursor.lastrowid, event[1], picture))
    tally.depth += 1
    tally.bytes += _ROW_BYTES + len(str(event[3]).encode()) + len(picture or b'')


def _delete(connection: sqlite3.Connection, seq: int, tally: _Tally) -> None:
    query = f'SELECT {_SIZE} FROM events LEFT JOIN pictures USING (seq) WHERE seq = ?'  # noqa: S608
    row = connection.execute(query, (seq,)).fetchone()
    if row is None:
        return
    connection.execute('DELETE FROM events WHERE seq = ?', (seq,))
    connection.execute('DELETE FROM pictures WHERE seq = ?', (seq,))
    tally.depth -= 1
    tally.bytes -= row[0]


def _make_room(connection: sqlite3.Connection, excess: int, tally: _Tally) -> None:
    """Drop pictures, then events, the least important and oldest first, until ``excess`` bytes are gone."""
    target = tally.bytes - excess
    while tally.bytes > target:
        row = connection.execute('SELECT seq, length(picture) FROM pictures ORDER BY keep, seq LIMIT 1').fetchone()
        if row is None:
            break
        _drop_picture(connection, row[0], row[1], tally)
    while tally.bytes > target:
        row = connection.execute('SELECT seq FROM events ORDER BY keep, seq LIMIT 1').fetchone()
        _delete(connection, row[0], tally)
        tally.events += 1


def _drop_picture(connection: sqlite3.Connection, seq: int, size: int, tally: _Tally) -> None:
    """Delete a picture and make its event say so."""
    connection.execute('DELETE FROM pictures WHERE seq = ?', (seq,))
    (before,) = connection.execute('SELECT event FROM events WHERE seq = ?', (seq,)).fetchone()
    try:
        after = Event.from_json(before).without_picture('the spool was full').to_json()
    except EventError:  # damaged on disk
        after = before
    connection.execute('UPDATE events SET event = ? WHERE seq = ?', (after, seq))
    tally.bytes += len(after.encode()) - len(before.encode()) - size
    tally.pictures += 1


def _plain_connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    connection.execute('PRAGMA journal_size_limit = 4194304')
    return connection


def _text(stored: bytes) -> str:
    """Read even a text that the disk has damaged: one bad event must not hold up all behind it."""
    return stored.decode(errors='replace')


def _open_database(path: Path) -> sqlite3.Connection:
    """Open a sound database of our format, or raise `sqlite3.DatabaseError`."""
    connection = _plain_connection(path)
    try:
        _check(connection)
        # WAL: appending and sending do not wait for each other, and a commit is one write and one sync.
        connection.execute('PRAGMA journal_mode = WAL')
        (version,) = connection.execute('PRAGMA user_version').fetchone()
        if version == 0:
            connection.executescript(_SCHEMA)
        connection.execute(_STOPS)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` unless the file is new, or sound and of our format."""
    try:
        (verdict,) = connection.execute('PRAGMA integrity_check(1)').fetchone()
        (version,) = connection.execute('PRAGMA user_version').fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except UnicodeDecodeError as error:  # what SQLite says of it quotes the damaged bytes
        raise sqlite3.DatabaseError(str(error)) from error
    if verdict != 'ok':
        raise sqlite3.DatabaseError(verdict.splitlines()[-1])
    if (version, tables) != (0, set()) and not (version == _FORMAT and tables >= {'events', 'pictures', 'delivered'}):
        msg = f'it has format {version} and tables {sorted(tables)}, expected format {_FORMAT}'
        raise sqlite3.DatabaseError(msg)


def _set_aside(path: Path, error: Exception) -> Path:
    """Rename a damaged database and what belongs to it, so that a person can look at it; return its new name."""
    stamp = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%S.%fZ')
    damaged = path.with_name(f'{path.stem}.damaged-{stamp}{path.suffix}')
    for suffix in _PARTS:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(damaged.with_name(damaged.name + suffix))
    _log.error('spool: %s is damaged (%s); it is kept as %s and a new one is started', path, error, damaged.name)
    for old in sorted(path.parent.glob(f'{path.stem}.damaged-*{path.suffix}'))[:-_DAMAGED_KEPT]:
        for suffix in _PARTS:
            old.with_name(old.name + suffix).unlink(missing_ok=True)
    return damaged


def _opened(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    if connection is None:
        msg = 'the spool is closed; call open() first'
        raise SpoolError(msg)
    return connection


@contextmanager
def _as_spool_error(action: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        msg = f'cannot {action}: {error}; check the disk and the permissions of spool.directory'
        raise SpoolError(msg) from error


def _steady_clock() -> Callable[[], int]:
    """Make a clock that starts at the wall clock's time and then only moves forward."""
    offset = time.time_ns() - time.monotonic_ns()
    return lambda: time.monotonic_ns() + offset
