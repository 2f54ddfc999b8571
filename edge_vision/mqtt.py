"""The way to the cloud: settings, topics, and the thread that sends what the spool holds."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as paho

from .errors import ConfigurationError, SpoolError
from .events import Event, EventError, topic_segment
from .evidence import shrink
from .pacing import ORDERS, RateLimit, SendQueue, Window
from .spool import Spool, StoredEvent

PROTOCOLS = ('5', '3.1.1')
USERNAME_VARIABLE = 'EDGE_VISION_MQTT_USERNAME'
PASSWORD_VARIABLE = 'EDGE_VISION_MQTT_PASSWORD'  # noqa: S105  the name of a variable

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 5.0  # s, for each of TCP, TLS and the broker's answer
_FIRST_RETRY, _LAST_RETRY = 0.2, 30.0  # s
_STABLE_AFTER = 5.0  # s; a connection that lasted this long starts the back-off anew
_HOUSEKEEPING = 1.0  # s between looks at keep-alive and clocks while nothing happens
_PACKET_OVERHEAD = 64  # bytes of a PUBLISH packet beyond topic and payload, with room to spare
_SMALLEST_PICTURE = 1024  # bytes; less shows nothing
_PATIENCE = 3  # connections lost over one picture before it is made smaller

_ACCEPTED = 0x00
_REFUSED = 0x80  # reasons from here on are refusals
_UNSUPPORTED_VERSION = 0x84
_TOO_LARGE = 0x95
_BAD_FORMAT = 0x99
_REASONS = {
    0x80: 'unspecified error',
    0x83: 'refused for a reason of its own',
    0x85: 'client id not allowed; set another client.id',
    0x86: 'bad user name or password; check client.credentials_file or the environment',
    0x87: "not authorised; check client.credentials_file or the environment, and the broker's access list",
    0x88: 'server unavailable',
    0x89: 'server busy; tried again later',
    0x8A: 'this client is banned',
    0x8B: 'server shutting down',
    0x8D: 'keep-alive timeout',
    0x8E: 'session taken over: another client uses the same client.id',
    0x90: 'topic name invalid; check topic_prefix and device_id',
    0x93: 'too many messages in flight',
    0x95: 'packet too large; lower max_payload_bytes',
    0x96: 'message rate too high; set max_events_per_second',
    0x97: 'quota exceeded; check what the broker allows, or set max_events_per_second',
    0x98: 'administrative action',
    0x99: 'payload format invalid',
    0x9C: 'use another server',
    0x9D: 'server moved',
    0x9F: 'connection rate exceeded',
}
# Numbers of OpenSSL: not valid yet, expired, another host name, another address.
_TLS_REMEDIES = {
    **dict.fromkeys((9, 10), "check it and this machine's clock"),
    **dict.fromkeys((62, 64), 'set broker.host to a name that is in it'),
}
_TLS_ALERT = re.compile(r'failed to receive on socket: \[SSL: \w+\] (.*?)(?: \(_ssl.*)?$')
_V3_REASONS = {1: _UNSUPPORTED_VERSION, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}


@dataclass(frozen=True)
class TlsSettings:
    """How the connection is protected.

    Attributes:
        enabled: None means on, unless the broker is on this machine.
        ca_file: Certificates to trust, PEM; '' trusts what the system trusts.
        certificate_file: This client's certificate, PEM, where the broker asks for one.
        key_file: Its key, PEM; '' where it is in the certificate file.

    """

    enabled: bool | None = None
    ca_file: str = ''
    certificate_file: str = ''
    key_file: str = ''

    def context(self) -> ssl.SSLContext:
        """Load the files.

        Raises:
            ConfigurationError: A file cannot be used.

        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if self.certificate_file:
                context.load_cert_chain(self.certificate_file, self.key_file or None, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            msg = (
                f'broker.tls: cannot use ca_file {self.ca_file!r} with certificate_file {self.certificate_file!r} '
                f'and key_file {self.key_file!r}: {error}; expected readable PEM files'
            )
            raise ConfigurationError(msg) from error
        return context


class Topics:
    """The topics of one device.

    Args:
        prefix: First levels, such as 'edge_vision' or 'factory/hall2'.
        device_id: Name of the device; made safe for a topic.

    """

    def __init__(self, prefix: str, device_id: str) -> None:
        levels = [topic_segment(level) for level in prefix.split('/') if level]
        root = '/'.join([*levels, topic_segment(device_id)])
        self.events = f'{root}/events'
        self.available = f'{root}/available'
        self.stats = f'{root}/stats'
        self._evidence = f'{root}/evidence'

    def evidence(self, event_id: str) -> str:
        """Topic of the picture that belongs to an event."""
        return f'{self._evidence}/{topic_segment(event_id)}'


@dataclass(frozen=True)
class BrokerSettings:
    """Where events go and how.

    Attributes:
        host: Name or address of the broker.
        port: Its TCP port.
        tls: How the connection is protected.
        allow_insecure: Allows a connection without TLS to another machine.
        client_id: '' makes one from the device id.
        credentials_file: First line user name, second line password; '' takes them from the environment
            (`USERNAME_VARIABLE`, `PASSWORD_VARIABLE`), or connects without.
        keep_alive: Seconds of silence after which a dead connection is noticed.
        topic_prefix: First levels of all topics.
        device_id: Name of this device.
        protocol: '5', '3.1.1', or 'auto' for 5 with 3.1.1 where the broker does not speak it.
        max_in_flight: Messages sent and not yet acknowledged, at most.
        order: 'oldest_first', or 'stops_first' for events that begin a stop before all others, the newest of
            them first.
        max_payload_bytes: Largest picture to send; larger ones are made smaller first.
        max_events_per_second: Rate limit; 0 is none.
        max_bytes_per_second: Rate limit over all topics and payloads; 0 is none.

    Raises:
        ConfigurationError: A value is not usable, or the connection would not be protected.

    """

    host: str = '127.0.0.1'
    port: int = 1883
    tls: TlsSettings = field(default_factory=TlsSettings)
    allow_insecure: bool = False
    client_id: str = ''
    credentials_file: str = ''
    keep_alive: int = 60
    topic_prefix: str = 'edge_vision'
    device_id: str = 'device'
    protocol: str = 'auto'
    max_in_flight: int = 64
    max_payload_bytes: int = 128 * 1024
    max_events_per_second: float = 0.0
    max_bytes_per_second: float = 0.0
    order: str = 'oldest_first'

    def __post_init__(self) -> None:
        """Check all of it, files included."""
        if not self.host or set(self.host) & set('/@ '):  # not shown: it may hold a password
            msg = 'broker.host is no bare host name or address; give port, TLS and credentials in their own parameters'
            raise ConfigurationError(msg)
        if self.protocol not in ('auto', *PROTOCOLS):
            msg = f'protocol is {self.protocol!r}, expected one of {["auto", *PROTOCOLS]}'
            raise ConfigurationError(msg)
        if self.order not in ORDERS:
            msg = f'delivery.order is {self.order!r}, expected one of {list(ORDERS)}'
            raise ConfigurationError(msg)
        for name, low, high in (
            ('port', 1, 65535),
            ('keep_alive', 1, 65535),
            ('max_in_flight', 1, 65535),
            ('max_payload_bytes', 1024, 1 << 28),
            ('max_events_per_second', 0, 1e9),
            ('max_bytes_per_second', 0, 1e12),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                msg = f'{name} is {value!r}, expected {low}..{high:g}'
                raise ConfigurationError(msg)
        if not (self.uses_tls or self.allow_insecure or self._on_this_machine):
            msg = (
                f'broker.host is {self.host!r} on another machine and broker.tls is off: events, pictures and the '
                'password would travel in the clear; switch broker.tls on, or set broker.allow_insecure to accept that'
            )
            raise ConfigurationError(msg)
        if self.uses_tls:
            self.tls.context()
        self.credentials()

    @property
    def topics(self) -> Topics:
        """The topics of this device."""
        return Topics(self.topic_prefix, self.device_id)

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return not self._on_this_machine if self.tls.enabled is None else self.tls.enabled

    @property
    def _on_this_machine(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == 'localhost'

    def prepare(self, client: paho.Client) -> None:
        """Give a client its credentials and its TLS, before it connects.

        Raises:
            ConfigurationError: Credentials or certificates cannot be read.

        """
        credentials = self.credentials()
        if credentials is not None:
            client.username_pw_set(*credentials)
        if self.uses_tls:
            client.tls_set_context(self.tls.context())

    def credentials(self) -> tuple[str, str | None] | None:
        """Read user name and password; the password is None where only a user name is given.

        Raises:
            ConfigurationError: The file cannot be read or holds no user name, or the environment has only a password.

        """
        if not self.credentials_file:
            return _environment_credentials()
        try:
            lines = Path(self.credentials_file).expanduser().read_text(encoding='utf-8').splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else 'it is not UTF-8 text'
            msg = f'client.credentials_file is {self.credentials_file!r}, which cannot be read: {reason}'
            raise ConfigurationError(msg) from None
        if not lines or not lines[0]:
            msg = (
                f'client.credentials_file is {self.credentials_file!r}, expected the user name in its first line '
                'and the password in its second'
            )
            raise ConfigurationError(msg)
        return lines[0], lines[1] if len(lines) > 1 else None


def _environment_credentials() -> tuple[str, str | None] | None:
    name, password = os.environ.get(USERNAME_VARIABLE), os.environ.get(PASSWORD_VARIABLE)
    if name:
        return name, password
    if password:
        msg = f'{PASSWORD_VARIABLE} is set and {USERNAME_VARIABLE} is not; set both, or client.credentials_file'
        raise ConfigurationError(msg)
    return None


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
        held_back: Events that the broker refuses for good; they wait and are tried once per connection.
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
        self._connection: _Connection | None = None
        self._queue = self._new_queue()
        self._retry = _FIRST_RETRY
        self._last_error = self._logged_error = ''
        self._refused = False
        self._delivered: dict[int, None] = {}  # acknowledged and not yet deleted, in order
        self._interrupted: set[int] = set()
        self._held_back: dict[int, str] = {}  # place in the spool -> what is wrong
        self._largest_picture = settings.max_payload_bytes
        self._suspect = (0, 0)  # a place in the spool, and how many connections its picture may have cost
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
        except (_BrokerError, SpoolError, ConfigurationError) as error:
            self._refused = isinstance(error, _MessageRefusedError)
            self._note(str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, events must go on flowing
            self._note(f'unexpected error: {error!r}', error)
        return time.monotonic() - connected

    @contextmanager
    def _connection_made(self) -> Iterator[_Connection]:
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
            self._connection = None
            connection.close()

    def _connect(self) -> _Connection:
        """Connect, with the next protocol version where the broker does not speak the first."""
        *first, last = PROTOCOLS if self._settings.protocol == 'auto' else (self._settings.protocol,)
        for protocol in first:
            with suppress(_NoAnswerError):
                return _Connection(self._settings, protocol, self._wake_reader)
        return _Connection(self._settings, last, self._wake_reader)

    def _new_queue(self) -> SendQueue:
        return SendQueue(self._spool, self._news, self._settings.max_in_flight, self._settings.order)

    def _serve(self, connection: _Connection) -> None:
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

    def _finished(self, connection: _Connection) -> bool:
        if not self._closing.is_set():
            return False
        return time.monotonic() >= self._deadline or (connection.in_flight == 0 and self._queue.peek() is None)

    def _send_due(self, connection: _Connection) -> float:
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

    def _send(self, connection: _Connection, stored: StoredEvent) -> None:
        """Send a picture and then its event, so that whoever reads the event finds the picture."""
        self._event_rate.spend(1)
        self._resent += stored.seq in self._interrupted
        connection.expect(stored.seq)
        event = self._send_picture(connection, stored).encode()
        topic = self._topics.events
        if len(event) > connection.room_for(topic):
            connection.refuse(stored.seq, _TOO_LARGE)
            return
        self._await(connection, lambda: connection.has_room)
        self._publish(connection, topic, event, stored.seq)

    def _send_picture(self, connection: _Connection, stored: StoredEvent) -> str:
        """Send a picture, made as small as the broker wants it; return the event that tells the truth about it.

        Only where the broker has taken none of this size yet is its answer waited for: an event that has gone cannot
        be changed any more.
        """
        topic = self._topics.evidence(stored.id)
        while True:
            limit = min(self._largest_picture, connection.room_for(topic))
            event, picture = _fitted(stored, topic, limit if limit >= _SMALLEST_PICTURE else 0)
            if not picture:
                return event
            mid = self._publish(connection, topic, picture, stored.seq, is_picture=True)
            if len(picture) <= connection.largest_taken:
                return event
            answer = self._answer(connection, stored.seq, mid, len(picture))
            if answer < _REFUSED:
                return event
            if answer == _BAD_FORMAT:
                self._pictures_refused += 1
                return _without_picture(stored, f'the broker refused it: {_reason(answer)}')
            if answer != _TOO_LARGE:
                raise _MessageRefusedError(connection.refusal_of(topic, answer))
            self._make_smaller(len(picture))

    def _answer(self, connection: _Connection, seq: int, mid: int, size: int) -> int:
        """Wait for the answer to a picture, and suspect the picture where the connection is lost meanwhile."""
        connection.ask_for(mid)
        try:
            self._await(connection, lambda: connection.answer(mid) is not None)
        except _BrokerError as error:
            lost = self._suspect[1] if self._suspect[0] == seq else 0
            lost += not (connection.goodbye or isinstance(error, _MessageRefusedError))  # without a reason of its own
            # What MQTT does not allow is how mosquitto answers a message above its message_size_limit.
            said_so = connection.goodbye == _TOO_LARGE or isinstance(error, _OddAnswerError)
            if said_so or lost >= _PATIENCE:
                self._make_smaller(size)
                lost = 0
            self._suspect = (seq, lost)
            raise
        return connection.answer(mid) or _ACCEPTED

    def _make_smaller(self, refused: int) -> None:
        self._pictures_refused += 1
        self._largest_picture = refused // 2
        self._retry = _FIRST_RETRY
        _log.warning('mqtt: the broker takes no picture of %d bytes; they are made smaller from now on', refused)

    def _await(self, connection: _Connection, condition: Callable[[], bool]) -> None:
        """Wait until something is so.

        Raises:
            _BrokerError: The connection is lost, or there is no more time.

        """
        while not condition():
            if time.monotonic() >= self._deadline:
                msg = 'closed before the broker has answered'
                raise _BrokerError(msg)
            connection.poll(min(_HOUSEKEEPING, max(0.0, self._deadline - time.monotonic())))
            self._settle(connection)

    def _publish(
        self,
        connection: _Connection,
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

    def _publish_stats(self, connection: _Connection) -> None:
        if self._stats is None:
            return
        try:
            payload = json.dumps(self._stats(), separators=(',', ':'), default=str).encode()
        except Exception as error:  # noqa: BLE001  a fault of the statistics must not hold up events
            self._note(f'no statistics: {error!r}', error)
        else:
            self._publish(connection, self._topics.stats, payload)

    def _settle(self, connection: _Connection) -> None:
        """Delete what has arrived, and break off where something was refused."""
        if connection.refusal:
            self._drain(connection, time.monotonic() + _CONNECT_TIMEOUT)
            raise _MessageRefusedError(connection.refusal)
        self._collect(connection)
        if self._delivered:
            try:
                self._spool.acknowledge(self._delivered)
                self._queue.forget(self._delivered)
                self._delivered.clear()
            except SpoolError as error:  # tried again next time; until then they are remembered and not sent again
                self._note(str(error))

    def _collect(self, connection: _Connection) -> None:
        arrived = connection.take_arrived()
        if arrived:
            self._events_sent += len(arrived)
            self._interrupted.difference_update(arrived)
            self._delivered.update(dict.fromkeys(arrived))
            self._refused, self._last_error = False, next(iter(self._held_back.values()), '')
        for seq, refusal in connection.take_refused():
            self._held_back[seq] = refusal
            self._note(refusal)

    def _drain(self, connection: _Connection, deadline: float) -> None:
        while connection.in_flight and time.monotonic() < deadline:
            connection.poll(deadline - time.monotonic())

    def _say_goodbye(self, connection: _Connection) -> None:
        self._publish(connection, self._topics.available, b'offline', retain=True)
        self._drain(connection, max(self._deadline, time.monotonic() + 0.2))
        self._settle(connection)
        connection.disconnect()

    def _note(self, error: str, unexpected: Exception | None = None) -> None:
        if error != self._logged_error:
            _log.warning('mqtt: %s', error, exc_info=unexpected)
        self._last_error = self._logged_error = error


class _BrokerError(Exception):
    """The broker cannot be reached, refuses, or has gone."""


class _MessageRefusedError(_BrokerError):
    """The broker does not take an event or its picture."""


class _OddAnswerError(_BrokerError):
    """The broker answers with something that MQTT does not allow."""


class _NoAnswerError(_BrokerError):
    """Something listens, but it does not speak this version of MQTT."""


class _Sent(NamedTuple):
    """A message on its way: of which event, how large its picture is (0: it is none), and since when."""

    seq: int | None
    picture: int
    at: float


class _Connection:
    """One connection, with a client of its own.

    The MQTT library would send again what was in flight when it reconnects, and the spool does that too: a new
    client for each connection leaves it to the spool alone.

    Args:
        settings: Where to connect.
        protocol: One of `PROTOCOLS`.
        wake: A socket that becomes readable when there is something to send.

    Raises:
        _BrokerError: The broker cannot be reached or refuses.
        ConfigurationError: Credentials or certificates cannot be read any more.

    """

    def __init__(self, settings: BrokerSettings, protocol: str, wake: socket.socket) -> None:
        self.protocol = protocol
        self.refusal = ''
        self._settings = settings
        self._wake = wake
        self.goodbye = 0  # why the broker has ended the connection; 0: it did not say
        self.largest_taken = 0  # bytes of the largest picture that the broker has taken
        self._answer: int | None = None
        self._trouble = ''
        self.window = Window(settings.max_in_flight)
        self._maximum_packet_size = 1 << 28
        self._in_flight: dict[int, _Sent] = {}  # by packet id
        self._outstanding: dict[int, int] = {}  # place in the spool -> acknowledgements still to come
        self._asked: dict[int, int | None] = {}  # packet id -> the broker's answer
        self._arrived: list[int] = []
        self._refused: list[tuple[int, str]] = []
        self._client = self._new_client()
        self._dial()
        self._await_answer()

    @property
    def in_flight(self) -> int:
        """Messages sent and not yet acknowledged."""
        return len(self._in_flight)

    @property
    def unsettled(self) -> list[int]:
        """Places in the spool whose acknowledgement has not come."""
        return list(self._outstanding)

    @property
    def has_room(self) -> bool:
        """Whether one more message may be sent now."""
        return len(self._in_flight) < self.window.size

    def room_for(self, topic: str) -> int:
        """Largest payload that the broker takes on a topic, in bytes."""
        return self._maximum_packet_size - len(topic.encode()) - _PACKET_OVERHEAD

    def expect(self, seq: int) -> None:
        """Count an event as arrived once it and its pictures are acknowledged."""
        self._outstanding[seq] = 1

    def publish(
        self, topic: str, payload: bytes, seq: int | None, *, retain: bool = False, is_picture: bool = False
    ) -> int:
        """Send a message and return its packet id; with ``seq`` it belongs to an event that `expect` announced."""
        sent = _Sent(seq, len(payload) if is_picture else 0, time.monotonic())
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self._check(info.rc)
        self._in_flight[info.mid] = sent
        if seq is not None and is_picture:
            self._outstanding[seq] += 1
        return info.mid

    def ask_for(self, mid: int) -> None:
        """Have the answer to a message kept for `answer` instead of acting on it."""
        self._asked[mid] = None

    def answer(self, mid: int) -> int | None:
        """Return the reason code that the broker answered with; None while it has not."""
        return self._asked[mid]

    def refuse(self, seq: int, code: int) -> None:
        """Give an event up for this connection."""
        self._outstanding.pop(seq, None)
        self._refused.append((seq, f'{self.refusal_of("an event", code)}; it waits for the next connection'))

    def refusal_of(self, what: str, code: int) -> str:
        """Describe a message that the broker does not take."""
        return str(self._error(f'it refuses {what}: {_reason(code)}'))

    def take_refused(self) -> list[tuple[int, str]]:
        """Take the places in the spool of all that was given up since the last call, with the reason."""
        refused, self._refused = self._refused, []
        return refused

    def take_arrived(self) -> list[int]:
        """Take the places in the spool of all that has arrived since the last call."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def poll(self, timeout: float) -> None:
        """Wait for the network or the wake-up call and do what is due.

        Raises:
            _BrokerError: The connection is lost.

        """
        connection = self._socket()
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        decrypted = connection.pending() if isinstance(connection, ssl.SSLSocket) else 0
        ready = dict(poller.poll(0 if decrypted else timeout * 1000))
        if self._wake.fileno() in ready:
            with suppress(BlockingIOError):
                self._wake.recv(4096)
        if decrypted or ready.get(connection.fileno(), 0) & ~select.POLLOUT:
            self._check(self._read())
        if self._client.want_write():
            self._check(self._client.loop_write())
        self._check(self._client.loop_misc())

    def _read(self) -> int:
        try:
            return self._client.loop_read()
        except (AssertionError, LookupError, ValueError):  # older versions of the library, at a reason out of place
            return paho.MQTT_ERR_PROTOCOL

    def disconnect(self) -> None:
        """Take leave, so that the broker does not send the last will."""
        self._client.disconnect()
        self._client.loop_write()

    def close(self) -> None:
        """Break the connection off; the broker sends the last will unless `disconnect` came before."""
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    def _new_client(self) -> paho.Client:
        settings, protocol = self._settings, self.protocol
        options: dict[str, Any] = {
            'client_id': settings.client_id or f'edge_vision-{topic_segment(settings.device_id)}',
            'clean_session': None if protocol == '5' else True,
            'protocol': paho.MQTTv5 if protocol == '5' else paho.MQTTv311,
            'reconnect_on_failure': False,
        }
        if hasattr(paho, 'CallbackAPIVersion'):  # 2.0 and newer
            options['callback_api_version'] = paho.CallbackAPIVersion.VERSION2
        client = paho.Client(**options)
        client.max_inflight_messages_set(0)  # the window is ours: nothing may wait inside the library
        client.will_set(settings.topics.available, b'offline', qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_log = self._on_log
        client.on_publish = self._on_publish
        client.on_disconnect = self._on_disconnect
        settings.prepare(client)
        return client

    def _dial(self) -> None:
        settings = self._settings
        start: dict[str, Any] = {'clean_start': True} if self.protocol == '5' else {}
        try:
            self._client.connect(settings.host, settings.port, settings.keep_alive, **start)
        except ssl.SSLCertVerificationError as error:
            remedy = _TLS_REMEDIES.get(error.verify_code, 'check broker.tls.ca_certificate')
            raise self._error(f'TLS: its certificate is not trusted: {error.verify_message}; {remedy}') from error
        except ssl.SSLError as error:
            raise self._error(f'TLS fails: {error.reason or error}') from error
        except socket.gaierror as error:
            raise self._error(f'the host name is not known: {error.strerror}') from error
        except ConnectionRefusedError as error:
            raise self._error('unreachable: nothing listens there') from error
        except OSError as error:
            raise self._error(f'unreachable: {error}') from error
        # Small messages go out at once instead of waiting for the acknowledgement of the one before.
        self._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _CONNECT_TIMEOUT
        with suppress(_BrokerError):  # a refusal ends the connection too
            while self._answer is None and time.monotonic() < deadline:
                self.poll(0.1)
        self._client.on_log = None  # which costs time
        if self._answer == _ACCEPTED:
            return
        closed = self._client.socket() is None
        self.close()
        if self._trouble:
            raise self._error(f'TLS: it refuses this client: {self._trouble}; check broker.tls.client_certificate')
        if self._answer in {None, _UNSUPPORTED_VERSION}:
            hint = ', but closes the connection; it may have no room for one more' if closed else ''
            hint += ', or want TLS' if closed and not self._settings.uses_tls else ''
            raise _NoAnswerError(str(self._error(f'it does not answer as a broker of MQTT {self.protocol} does{hint}')))
        raise self._error(f'it refuses the connection: {_reason(self._answer)}')

    def _socket(self) -> socket.socket:
        connection = self._client.socket()
        if connection is None:
            raise self._error(self._farewell or 'the connection is lost')
        return connection  # type: ignore[return-value]  # only another kind with web sockets

    def _check(self, code: int) -> None:
        if code == paho.MQTT_ERR_PROTOCOL and self._answer == _ACCEPTED and not self.goodbye:
            msg = 'it answers with what MQTT does not allow, as some do to a message that is too large for them'
            raise _OddAnswerError(str(self._error(msg)))
        if code != paho.MQTT_ERR_SUCCESS:
            raise self._error(self._farewell or f'the connection is lost: {paho.error_string(code)}')

    @property
    def _farewell(self) -> str:
        return f'it ends the connection: {_reason(self.goodbye)}' if self.goodbye else ''

    def _error(self, reason: str) -> _BrokerError:
        return _BrokerError(f'broker {self._settings.host}:{self._settings.port}: {reason}')

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any = None) -> None:
        code = getattr(reason, 'value', reason)
        self._answer = _V3_REASONS.get(code, code)
        self.window = Window(min(self._settings.max_in_flight, getattr(properties, 'ReceiveMaximum', 65535)))
        self._maximum_packet_size = getattr(properties, 'MaximumPacketSize', self._maximum_packet_size)

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, reason: Any = None, _properties: Any = None) -> None:
        code = getattr(reason, 'value', _ACCEPTED)
        used = len(self._in_flight)
        sent = self._in_flight.pop(mid)
        self.window.acknowledged(sent.at, time.monotonic(), used)
        asked = mid in self._asked
        if asked:
            self._asked[mid] = code
        if asked or code < _REFUSED:
            self._count(sent, taken=code < _REFUSED)
        elif sent.seq is None:  # availability and statistics are worth a line, not the connection
            _log.warning('mqtt: %s', self.refusal_of('a message', code))
        elif code in {_TOO_LARGE, _BAD_FORMAT} and not sent.picture:
            self.refuse(sent.seq, code)
        else:
            self.refusal = self.refusal_of('a message', code)

    def _count(self, sent: _Sent, *, taken: bool) -> None:
        if taken:
            self.largest_taken = max(self.largest_taken, sent.picture)
        if sent.seq in self._outstanding:
            self._outstanding[sent.seq] -= 1
            if self._outstanding[sent.seq] == 0:
                del self._outstanding[sent.seq]
                self._arrived.append(sent.seq)

    def _on_disconnect(self, _client: Any, _userdata: Any, *details: Any) -> None:
        codes = [getattr(detail, 'value', 0) for detail in details]
        self.goodbye = next((code for code in codes if code in _REASONS and code != _REFUSED), 0)

    def _on_log(self, _client: Any, _userdata: Any, _level: int, text: str) -> None:
        """Keep what TLS says of a refusal that comes after the handshake: the library only logs it."""
        alert = _TLS_ALERT.search(text)
        self._trouble = self._trouble or (alert[1] if alert else '')


def _reason(code: int) -> str:
    return _REASONS.get(code, f'reason 0x{code:02X}')


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


def _no_password() -> str:
    """Refuse to ask on the terminal for the password of a key."""
    msg = 'the key is protected by a password, which is not supported'
    raise ValueError(msg)
