"""The thread that sends what the spool holds, in order, and deletes what the broker has acknowledged."""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..errors import ConfigurationError, SpoolError
from ..events import Event, EventError
from ..evidence import shrink
from ..spool import Spool, StoredEvent
from .connection import (
    ACCEPTED,
    BAD_FORMAT,
    CONNECT_TIMEOUT,
    REFUSED,
    TOO_LARGE,
    BrokerError,
    Connection,
    MessageRefusedError,
    NoAnswerError,
    OddAnswerError,
    TooLargeError,
    reason_of,
)
from .pacing import RateLimit, SendQueue, SizeLimit
from .settings import PROTOCOLS, BrokerSettings

_log = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 0.2, 30.0  # s
_STABLE_AFTER = 5.0  # s; a connection that lasted this long starts the back-off anew
_HOUSEKEEPING = 1.0  # s between looks at keep-alive and clocks while nothing happens
_SMALLEST_PICTURE = 1024  # bytes; less shows nothing
_LARGEST_EVENT = 1 << 28  # bytes; more is no MQTT packet


class SenderState(NamedTuple):
    """What the sender has done and how it fares.

    Attributes:
        connected: Whether the broker has accepted this client.
        protocol: MQTT version of the connection; '' while there is none.
        last_error: What is wrong, for a person; '' while nothing is.
        in_flight: Messages sent and not yet acknowledged.
        events_sent: Events acknowledged by the broker, each counted once.
        resent: Events sent again because a connection broke before their acknowledgement.
        bytes_sent: Bytes of all topics and payloads sent, those sent again included.
        connects: Connections made.
        held_back: Events that the broker refuses for good; they wait and are tried again in another connection.
        pictures_refused: Pictures that the broker refused and that were made smaller or left out.

    """

    connected: bool
    protocol: str
    last_error: str
    in_flight: int
    events_sent: int
    resent: int
    bytes_sent: int
    connects: int
    held_back: int
    pictures_refused: int


class Sender:
    """Sends what the spool holds, in order, and deletes what the broker has acknowledged.

    All of MQTT happens in one thread of its own; whoever appends to the spool only wakes it.

    Args:
        spool: An open spool; must stay open until `close` has returned.
        settings: Where to send.
        stats: Gives what is published on the stats topic; called in the sender's thread.
        stats_period: Seconds between two of these.

    """

    def __init__(
        self,
        spool: Spool,
        settings: BrokerSettings,
        *,
        stats: Callable[[], Mapping[str, object]] | None = None,
        stats_period: float = 10.0,
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._topics = settings.topics
        self._stats = stats
        self._stats_period = stats_period
        self._thread = threading.Thread(target=self._run, name='mqtt_sender', daemon=True)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._news = threading.Event()
        self._connected = threading.Event()
        self._closing = threading.Event()
        self._deadline = float('inf')
        self._connection: Connection | None = None
        self._queue = self._new_queue()
        self._retry = _FIRST_RETRY
        self._last_error = self._logged_error = ''
        self._refused = False
        self._delivered: dict[int, None] = {}  # acknowledged and not yet deleted, in order
        self._interrupted: set[int] = set()
        self._held_back: dict[int, str] = {}  # place in the spool -> what is wrong
        self._picture_limit = SizeLimit(settings.max_payload_bytes)
        self._event_limit = SizeLimit(_LARGEST_EVENT)
        self._events_sent = self._resent = self._bytes_sent = self._connects = self._pictures_refused = 0
        self._event_rate = RateLimit(settings.max_events_per_second)
        self._byte_rate = RateLimit(settings.max_bytes_per_second)

    @property
    def state(self) -> SenderState:
        """A snapshot of the counters."""
        connection = self._connection
        connected = self._connected.is_set()
        return SenderState(
            connected=connected,
            protocol='' if connection is None else connection.protocol,
            last_error=self._last_error,
            in_flight=0 if connection is None else connection.in_flight,
            events_sent=self._events_sent,
            resent=self._resent,
            bytes_sent=self._bytes_sent,
            connects=self._connects,
            held_back=len(self._held_back),
            pictures_refused=self._pictures_refused,
        )

    def start(self) -> None:
        """Start connecting and sending; an absent broker is tried again for ever."""
        self._spool.listen(self._wake)
        self._thread.start()

    def close(self, timeout: float = 2.0) -> bool:
        """Send what can be sent in time, say 'offline' and disconnect.

        Args:
            timeout: Seconds it may take.

        Returns:
            Whether the spool is empty.

        """
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(timeout + 1.0)
        if not self._thread.is_alive():
            self._wake_reader.close()
            self._wake_writer.close()
        return self._spool.depth == 0

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the broker has accepted this client; False after ``timeout`` seconds."""
        return self._connected.wait(timeout)

    def _wake(self) -> None:
        self._news.set()
        with suppress(OSError):  # it is being woken already, or it is closed
            self._wake_writer.send(b'.')

    def _run(self) -> None:
        while True:
            lasted = self._attempt()
            if lasted > _STABLE_AFTER:
                self._retry = _FIRST_RETRY
            if self._closing.wait(self._retry * random.uniform(0.5, 1.0)):  # noqa: S311  jitter
                return
            self._retry = min(2 * self._retry, _LAST_RETRY)

    def _attempt(self) -> float:
        """Connect and send until that fails; return how many seconds the connection lasted."""
        connected = time.monotonic()
        try:
            with self._connection_made() as connection:
                connected = time.monotonic()
                self._serve(connection)
        except (BrokerError, SpoolError, ConfigurationError) as error:
            self._refused = isinstance(error, MessageRefusedError)
            self._note(str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, events must go on flowing
            self._note(f'unexpected error: {error!r}', error)
        return time.monotonic() - connected

    @contextmanager
    def _connection_made(self) -> Iterator[Connection]:
        connection = self._connection = self._connect()
        self._connects += 1
        self._held_back.clear()
        if not self._refused:
            self._last_error = self._logged_error = ''
        self._connected.set()
        settings = self._settings
        _log.info('mqtt: connected to %s:%d (MQTT %s)', settings.host, settings.port, connection.protocol)
        try:
            yield connection
        finally:
            self._connected.clear()
            self._collect(connection)  # the last acknowledgements may have come with the loss
            self._interrupted.update(connection.unsettled)
            self._event_limit.forget()
            self._connection = None
            connection.close()

    def _connect(self) -> Connection:
        """Connect, with the next protocol version where the broker does not speak the first."""
        *first, last = PROTOCOLS if self._settings.protocol == 'auto' else (self._settings.protocol,)
        for protocol in first:
            with suppress(NoAnswerError):
                return Connection(self._settings, protocol, self._wake_reader)
        return Connection(self._settings, last, self._wake_reader)

    def _new_queue(self) -> SendQueue:
        return SendQueue(self._spool, self._news, self._settings.max_in_flight, self._settings.order)

    def _serve(self, connection: Connection) -> None:
        self._publish(connection, self._topics.available, b'online', retain=True)
        self._queue = self._new_queue()
        next_stats = time.monotonic() + self._stats_period
        while not self._finished(connection):
            wait = self._send_due(connection)
            if connection.has_room and time.monotonic() >= next_stats:
                next_stats += self._stats_period
                self._publish_stats(connection)
            connection.poll(min(wait, _HOUSEKEEPING, max(0.0, self._deadline - time.monotonic())))
            self._settle(connection)
        self._say_goodbye(connection)

    def _finished(self, connection: Connection) -> bool:
        if not self._closing.is_set():
            return False
        return time.monotonic() >= self._deadline or (connection.in_flight == 0 and self._queue.peek() is None)

    def _send_due(self, connection: Connection) -> float:
        """Send what window and rate limits allow; return the seconds until more may go."""
        while connection.has_room and (stored := self._queue.peek()) is not None:
            wait = max(self._event_rate.wait(), self._byte_rate.wait())
            if wait > 0.0:
                return wait
            self._queue.pop()
            if stored.seq not in self._delivered:
                self._send(connection, stored)
        if connection.in_flight == 0:
            connection.window.restart()
        return _HOUSEKEEPING  # an acknowledgement or the wake-up call comes before

    def _send(self, connection: Connection, stored: StoredEvent) -> None:
        """Send a picture and then its event, so that whoever reads the event finds the picture."""
        self._event_rate.spend(1)
        self._resent += stored.seq in self._interrupted
        topic = self._topics.events
        if len(stored.event.encode()) > min(self._event_limit.largest, connection.room_for(topic)):
            connection.refuse(stored.seq, TOO_LARGE)
            return
        connection.expect(stored.seq)
        event = self._send_picture(connection, stored).encode()
        self._await(connection, lambda: connection.has_room)
        mid = self._publish(connection, topic, event, stored.seq)
        if len(event) > connection.largest_event_taken:
            self._await_event(connection, mid, stored.seq, len(event))

    def _send_picture(self, connection: Connection, stored: StoredEvent) -> str:
        """Send a picture, made as small as the broker wants it; return the event that tells the truth about it.

        Only where the broker has taken none of this size yet is its answer waited for: an event that has gone cannot
        be changed any more.
        """
        topic = self._topics.evidence(stored.id)
        while True:
            limit = min(self._picture_limit.largest, connection.room_for(topic))
            event, picture = _fitted(stored, topic, limit if limit >= _SMALLEST_PICTURE else 0)
            if not picture:
                return event
            mid = self._publish(connection, topic, picture, stored.seq, is_picture=True)
            if len(picture) <= connection.largest_picture_taken:
                return event
            answer = self._answer_to_picture(connection, mid, stored.seq, len(picture))
            if answer < REFUSED:
                return event
            if answer == BAD_FORMAT:
                self._pictures_refused += 1
                return _without_picture(stored, f'the broker refused it: {reason_of(answer)}')
            if answer != TOO_LARGE:
                raise MessageRefusedError(connection.refusal_of(topic, answer))
            self._make_smaller(len(picture))

    def _answer_to_picture(self, connection: Connection, mid: int, seq: int, size: int) -> int:
        connection.ask_for(mid)
        try:
            self._await_answer(connection, mid, seq, self._picture_limit)
        except TooLargeError:
            self._make_smaller(size)
            raise
        return connection.answer(mid) or ACCEPTED

    def _await_event(self, connection: Connection, mid: int, seq: int, size: int) -> None:
        """Send no more before the largest event yet has arrived: the one that costs the connection must be known."""
        # A connection that takes no event at all is lost over something else than the size of this one.
        silence_counts = connection.largest_event_taken > 0 or self._event_limit.suspects(seq)
        try:
            self._await_answer(connection, mid, seq, self._event_limit, silence_counts=silence_counts)
        except TooLargeError:
            self._event_limit.largest = size - 1
            self._retry = _FIRST_RETRY
            _log.warning('mqtt: the broker takes no event of %d bytes; such events wait', size)
            raise

    def _await_answer(
        self, connection: Connection, mid: int, seq: int, limit: SizeLimit, *, silence_counts: bool = True
    ) -> None:
        """Wait for the answer to a message, and suspect the message where the connection is lost meanwhile.

        Raises:
            TooLargeError: The connection is lost, as the message is too large.
            BrokerError: The connection is lost, or there is no more time.

        """
        try:
            self._await(connection, lambda: not connection.awaits(mid))
        except BrokerError as error:
            silent = silence_counts and not (connection.goodbye or isinstance(error, MessageRefusedError))
            # What MQTT does not allow is how mosquitto answers a message above its message_size_limit.
            said_so = connection.goodbye == TOO_LARGE or isinstance(error, OddAnswerError)
            if limit.refuses(seq, said_so=said_so, silent=silent):
                raise TooLargeError(str(error)) from error
            raise

    def _make_smaller(self, refused: int) -> None:
        self._pictures_refused += 1
        self._picture_limit.largest = refused // 2
        self._retry = _FIRST_RETRY
        _log.warning('mqtt: the broker takes no picture of %d bytes; they are made smaller from now on', refused)

    def _await(self, connection: Connection, condition: Callable[[], bool]) -> None:
        """Wait until something is so.

        Raises:
            BrokerError: The connection is lost, or there is no more time.

        """
        while not condition():
            if time.monotonic() >= self._deadline:
                msg = 'closed before the broker has answered'
                raise BrokerError(msg)
            connection.poll(min(_HOUSEKEEPING, max(0.0, self._deadline - time.monotonic())))
            self._settle(connection)

    def _publish(
        self,
        connection: Connection,
        topic: str,
        payload: bytes,
        seq: int | None = None,
        *,
        retain: bool = False,
        is_picture: bool = False,
    ) -> int:
        size = len(topic.encode()) + len(payload)
        self._byte_rate.spend(size)
        self._bytes_sent += size
        return connection.publish(topic, payload, seq, retain=retain, is_picture=is_picture)

    def _publish_stats(self, connection: Connection) -> None:
        if self._stats is None:
            return
        try:
            payload = json.dumps(self._stats(), separators=(',', ':'), default=str).encode()
        except Exception as error:  # noqa: BLE001  a fault of the statistics must not hold up events
            self._note(f'no statistics: {error!r}', error)
        else:
            self._publish(connection, self._topics.stats, payload)

    def _settle(self, connection: Connection) -> None:
        """Delete what has arrived, and break off where something was refused."""
        if connection.refusal:
            self._drain(connection, time.monotonic() + CONNECT_TIMEOUT)
            raise MessageRefusedError(connection.refusal)
        self._collect(connection)
        if self._delivered:
            try:
                self._spool.acknowledge(self._delivered)
                self._queue.forget(self._delivered)
                self._delivered.clear()
            except SpoolError as error:  # tried again next time; until then they are remembered and not sent again
                self._note(str(error))

    def _collect(self, connection: Connection) -> None:
        arrived = connection.take_arrived()
        if arrived:
            self._events_sent += len(arrived)
            self._interrupted.difference_update(arrived)
            self._delivered.update(dict.fromkeys(arrived))
            self._refused, self._last_error = False, next(iter(self._held_back.values()), '')
        for seq, refusal in connection.take_refused():
            self._held_back[seq] = refusal
            self._note(refusal)

    def _drain(self, connection: Connection, deadline: float) -> None:
        while connection.in_flight and time.monotonic() < deadline:
            connection.poll(deadline - time.monotonic())

    def _say_goodbye(self, connection: Connection) -> None:
        self._publish(connection, self._topics.available, b'offline', retain=True)
        self._drain(connection, max(self._deadline, time.monotonic() + 0.2))
        self._settle(connection)
        connection.disconnect()

    def _note(self, error: str, unexpected: Exception | None = None) -> None:
        if error != self._logged_error:
            _log.warning('mqtt: %s', error, exc_info=unexpected)
        self._last_error = self._logged_error = error


def _fitted(stored: StoredEvent, topic: str, limit: int) -> tuple[str, bytes | None]:
    """Make the picture fit and the event tell the truth about it."""
    picture = stored.picture
    if picture and len(picture) > limit:
        picture = shrink(picture, limit) if limit else None
    if picture is stored.picture and (not picture or f'"topic":"{topic}"' in stored.event):
        return stored.event, picture
    try:
        event = Event.from_json(stored.event)
    except EventError:  # damaged on disk; the broker's other end sees what is left of it
        return stored.event, picture
    event = event.with_picture(picture, topic) if picture else event.without_picture('it could not be made to fit')
    return event.to_json(), picture


def _without_picture(stored: StoredEvent, reason: str) -> str:
    try:
        return Event.from_json(stored.event).without_picture(reason).to_json()
    except EventError:  # damaged on disk
        return stored.event
