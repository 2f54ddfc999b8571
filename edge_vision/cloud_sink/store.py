"""Where the cloud side keeps what devices sent: SQLite for what they said, a file for each picture.

SQLite and not lines of JSON: an event, the drop of its duplicates and the counters belong into one transaction, and a
file that was cut off in the middle of a line has none. The events themselves are in it as they came.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import date, datetime, timezone
from pathlib import Path
from typing import NamedTuple, TextIO
from urllib.parse import quote

from .. import durable
from ..errors import ConfigurationError, SpoolError
from ..events import Event, EventError, topic_segment

DATABASE = 'events.db'
MAX_EVENT_BYTES = 64 * 1024
MAX_PICTURE_BYTES = 16 * 1024 * 1024
REJECTED_KEPT = 1000  # messages set aside, the newest
REJECTED_BYTES = 4096  # of each of them

_FORMAT = 1
_SCHEMA = f"""
BEGIN;
CREATE TABLE events (
    device TEXT NOT NULL, id TEXT NOT NULL, camera TEXT NOT NULL, rule TEXT NOT NULL, action TEXT NOT NULL,
    phase TEXT NOT NULL, track_id TEXT NOT NULL, stamp_ns INTEGER NOT NULL, arrived_ns INTEGER NOT NULL,
    command_ms REAL, sha256 TEXT NOT NULL, copies INTEGER NOT NULL, bytes INTEGER NOT NULL, event TEXT NOT NULL,
    PRIMARY KEY (device, id)
);
CREATE INDEX events_by_time ON events (stamp_ns);
CREATE TABLE pictures (
    device TEXT NOT NULL, id TEXT NOT NULL, sha256 TEXT NOT NULL, copies INTEGER NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (device, id, sha256)
);
CREATE TABLE devices (device TEXT PRIMARY KEY, online INTEGER, since_ns INTEGER, stats TEXT NOT NULL DEFAULT '');
CREATE TABLE availability (device TEXT NOT NULL, at_ns INTEGER NOT NULL, online INTEGER NOT NULL);
CREATE INDEX availability_by_device ON availability (device, at_ns);
CREATE TABLE traffic (
    device TEXT NOT NULL, day TEXT NOT NULL, messages INTEGER NOT NULL, bytes INTEGER NOT NULL,
    rejected INTEGER NOT NULL, PRIMARY KEY (device, day)
);
CREATE TABLE rejected (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ns INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL,
    payload BLOB NOT NULL
);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
_LONGEST_NAME = 128


class Arrival(NamedTuple):
    """A message as it came.

    Attributes:
        topic: Below the prefix: '<device>/events' and so on.
        payload: What it carries.
        at_ns: When it came, ns since the epoch.
        size: Bytes of its whole topic and its payload.

    """

    topic: str
    payload: bytes
    at_ns: int
    size: int


class _RejectedError(Exception):
    """A message that no bridge of ours sends."""


class Store:
    """Events, pictures and counters on disk.

    ::

        events.db                             everything but pictures
        pictures/<device>/<day>/<id>.jpg      its sha256 is the one in its event
        waiting/<device>/<id>.<sha256>.jpg    its event has not come yet
        mismatched/<device>/<id>.<sha256>.jpg its event names another sha256

    Args:
        directory: Made with permission 0700; one process at a time may write to it.

    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock_file: TextIO | None = None
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Store:  # noqa: PYI034  typing.Self needs Python 3.11
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open the database, or make it.

        Raises:
            ConfigurationError: The directory cannot be used, another process uses it, or its format is a newer one.

        """
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database. Harmless when it is closed already."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database.

        Raises:
            SpoolError: It is closed.

        """
        if self._connection is None:
            msg = 'the store is closed; call open() first'
            raise SpoolError(msg)
        return self._connection

    def take(self, arrivals: Sequence[Arrival]) -> list[str]:
        """Put messages on disk; they are there when this returns, each event and each picture once.

        Returns:
            What a person should know of them.

        Raises:
            SpoolError: The disk does not take them; nothing may be acknowledged.

        """
        notes: list[str] = []
        try:
            with self._transaction() as connection:
                for arrival in arrivals:
                    self._take(connection, arrival, notes)
                connection.execute(
                    'DELETE FROM rejected WHERE seq <= (SELECT max(seq) FROM rejected) - ?', (REJECTED_KEPT,)
                )
        except (OSError, sqlite3.Error) as error:
            msg = f'cannot write to {str(self._directory)!r}: {error}; what was not acknowledged stays with the broker'
            raise SpoolError(msg) from error
        return notes

    def _open(self) -> None:
        try:
            _make_directory(self._directory)
            self._lock_file = self._lock()
            self._connection = _connect(self._directory / DATABASE)
            if _format_of(self._connection) == 0:
                self._connection.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f'--output is {str(self._directory)!r}, which cannot be used: {error}') from error

    def _lock(self) -> TextIO:
        try:
            return durable.lock(self._directory / 'lock')
        except BlockingIOError as error:
            msg = f'--output is {str(self._directory)!r}, which another cloud-sink uses; give each its own'
            raise ConfigurationError(msg) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute('BEGIN IMMEDIATE')
        try:
            yield self.connection
            self.connection.execute('COMMIT')
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute('ROLLBACK')
            raise

    def _take(self, connection: sqlite3.Connection, arrival: Arrival, notes: list[str]) -> None:
        device, _, rest = arrival.topic.partition('/')
        kind, _, name = rest.partition('/')
        rejected = 0
        try:
            if not device:
                raise _RejectedError('the topic names no device')  # noqa: TRY301
            if kind == 'events':
                self._take_event(connection, device, arrival, notes)
            elif kind == 'evidence':
                self._take_picture(connection, device, name, arrival, notes)
            elif kind == 'available':
                _take_availability(connection, device, arrival, notes)
            else:
                _take_stats(connection, device, arrival.payload)
        except (_RejectedError, EventError, UnicodeError) as error:
            rejected = 1
            row = (arrival.at_ns, arrival.topic, str(error), arrival.payload[:REJECTED_BYTES])
            connection.execute('INSERT INTO rejected (at_ns, topic, reason, payload) VALUES (?, ?, ?, ?)', row)
            notes.append(f'set aside a message on {arrival.topic!r:.80}: {error}')
        connection.execute(
            'INSERT INTO traffic VALUES (?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET messages = messages + 1, '
            'bytes = bytes + excluded.bytes, rejected = rejected + excluded.rejected',
            (device, day_of(arrival.at_ns).isoformat(), arrival.size, rejected),
        )

    def _take_event(self, connection: sqlite3.Connection, device: str, arrival: Arrival, notes: list[str]) -> None:
        event = _read_event(device, arrival.payload)
        cursor = connection.execute(
            'INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?)',
            (
                device, event.id, event.camera, event.rule, event.action, event.phase, event.track_id, event.stamp_ns,
                arrival.at_ns, event.latency_ms.get('capture_to_command'), event.evidence.sha256,
                arrival.size, arrival.payload.decode(),
            ),
        )  # fmt: skip
        if cursor.rowcount == 0:
            query = 'UPDATE events SET copies = copies + 1, bytes = bytes + ? WHERE device = ? AND id = ?'
            connection.execute(query, (arrival.size, device, event.id))
            return
        query = 'SELECT sha256 FROM pictures WHERE device = ? AND id = ?'
        for (digest,) in connection.execute(query, (device, event.id)).fetchall():
            waiting = self._path('waiting', device, event.id, digest)
            place = self._place(device, event.id, digest, (event.stamp_ns, event.evidence.sha256), notes)
            if waiting.exists():  # else it was moved before this was killed
                _make_directory(place.parent)
                waiting.replace(place)
                durable.sync_directory(place.parent)

    def _take_picture(
        self, connection: sqlite3.Connection, device: str, event_id: str, arrival: Arrival, notes: list[str]
    ) -> None:
        if not event_id or not 0 < len(arrival.payload) <= MAX_PICTURE_BYTES:
            size, most = len(arrival.payload), MAX_PICTURE_BYTES
            raise _RejectedError(f'a picture of event {event_id!r:.60} has {size} bytes, expected 1..{most}')
        digest = hashlib.sha256(arrival.payload).hexdigest()
        cursor = connection.execute(
            'INSERT INTO pictures VALUES (?, ?, ?, 1, ?) ON CONFLICT DO UPDATE SET copies = copies + 1, '
            'bytes = bytes + excluded.bytes RETURNING copies',
            (device, event_id, digest, arrival.size),
        )
        if cursor.fetchone()[0] > 1:
            return
        query = 'SELECT stamp_ns, sha256 FROM events WHERE device = ? AND id = ?'
        event = connection.execute(query, (device, event_id)).fetchone()
        _write(self._place(device, event_id, digest, event, notes), arrival.payload)

    def _place(self, device: str, event_id: str, digest: str, event: tuple[int, str] | None, notes: list[str]) -> Path:
        """Find where a picture belongs, given its event's stamp and sha256, or None while that has not come."""
        if event is None:
            return self._path('waiting', device, event_id, digest)
        if event[1] == digest:
            day = day_of(event[0]).isoformat()
            return self._directory / 'pictures' / file_name(device) / day / f'{file_name(event_id)}.jpg'
        notes.append(f'a picture of event {event_id!r:.60} of {device!r:.60} has another sha256 than its event says')
        return self._path('mismatched', device, event_id, digest)

    def _path(self, folder: str, device: str, event_id: str, digest: str) -> Path:
        return self._directory / folder / file_name(device) / f'{file_name(event_id)}.{digest[:16]}.jpg'


def open_for_reading(directory: Path) -> sqlite3.Connection:
    """Open a store's database beside the process that writes to it.

    Raises:
        ConfigurationError: There is none.

    """
    path = directory / DATABASE
    if not path.is_file():
        raise ConfigurationError(f'--output is {str(directory)!r}, expected the directory of a cloud-sink')
    try:
        with ExitStack() as undo:
            connection = undo.enter_context(closing(_connect(path)))
            connection.execute('PRAGMA query_only = ON')
            connection.execute('SELECT 1 FROM events LIMIT 1')
            undo.pop_all()
    except sqlite3.Error as error:
        raise ConfigurationError(f'--output is {str(directory)!r}, which cannot be read: {error}') from error
    return connection


def day_of(stamp_ns: int) -> date:
    """Return the day of a time, UTC."""
    return datetime.fromtimestamp(stamp_ns // 1_000_000_000, timezone.utc).date()


def file_name(text: str) -> str:
    """Make a file name of any text, another one for every text: no '/', no leading dot, at most 165 characters."""
    name = quote(text, safe='')
    if name.startswith('.'):
        name = f'%2E{name[1:]}'
    if len(name) > _LONGEST_NAME:
        name = f'{name[:100]}~{hashlib.sha256(text.encode()).hexdigest()}'
    return name


def _read_event(device: str, payload: bytes) -> Event:
    if len(payload) > MAX_EVENT_BYTES:
        raise _RejectedError(f'an event has {len(payload)} bytes, expected at most {MAX_EVENT_BYTES}')
    event = Event.from_json(payload.decode())
    if topic_segment(event.device_id) != device:
        raise _RejectedError(f'its source is the device {event.device_id!r:.60}, expected the one of the topic')
    if topic_segment(event.id) != event.id:
        raise _RejectedError(f'event.id is {event.id!r:.60}, expected one that can be a level of a topic')
    f'{event.id}{event.camera}{event.rule}{event.track_id}{event.evidence.sha256}'.encode()  # no lone surrogates
    return event


def _take_availability(connection: sqlite3.Connection, device: str, arrival: Arrival, notes: list[str]) -> None:
    if arrival.payload not in (b'online', b'offline'):
        raise _RejectedError(f"available is {arrival.payload[:60]!r}, expected b'online' or b'offline'")
    online = arrival.payload == b'online'
    before = connection.execute('SELECT online FROM devices WHERE device = ?', (device,)).fetchone()
    if before is not None and before[0] == online:  # NULL where only statistics came
        return
    connection.execute(
        'INSERT INTO devices (device, online, since_ns) VALUES (?, ?, ?) '
        'ON CONFLICT DO UPDATE SET online = excluded.online, since_ns = excluded.since_ns',
        (device, online, arrival.at_ns),
    )
    connection.execute('INSERT INTO availability VALUES (?, ?, ?)', (device, arrival.at_ns, online))
    notes.append(f'device {device!r:.60} is {arrival.payload.decode()}')


def _take_stats(connection: sqlite3.Connection, device: str, payload: bytes) -> None:
    if len(payload) > MAX_EVENT_BYTES:
        raise _RejectedError(f'statistics have {len(payload)} bytes, expected at most {MAX_EVENT_BYTES}')
    connection.execute(
        'INSERT INTO devices (device, stats) VALUES (?, ?) ON CONFLICT DO UPDATE SET stats = excluded.stats',
        (device, payload.decode()),
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None)
    try:
        _check_format(connection, path)
        connection.execute('PRAGMA journal_mode = WAL')
        # An event is acknowledged once it is committed, so a commit waits for the disk.
        connection.execute('PRAGMA synchronous = FULL')
    except BaseException:
        connection.close()
        raise
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    version = _format_of(connection)
    if version not in (0, _FORMAT):
        msg = f'{str(path)!r} has format {version}, expected {_FORMAT}; use the edge_vision that wrote it'
        raise ConfigurationError(msg)


def _format_of(connection: sqlite3.Connection) -> int:
    """Return the format of a database; 0 is a new one."""
    (version,) = connection.execute('PRAGMA user_version').fetchone()
    return int(version)


def _make_directory(path: Path) -> None:
    """Make a directory and its parents so that a power cut does not take them back."""
    if not path.is_dir():
        if path.parent != path:
            _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        durable.sync_directory(path.parent)


def _write(path: Path, content: bytes) -> None:
    _make_directory(path.parent)
    durable.write(path, content)
