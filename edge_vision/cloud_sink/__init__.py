"""The command ``edge_vision cloud-sink``: the other end of the bridge, as small as a cloud side can be.

It keeps every event and picture once, acknowledges them when they are on disk, and reports what a day brought. It only
listens: nothing is ever published.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ..errors import ConfigurationError, EdgeVisionError
from ..events import topic_segment
from ..mqtt import BrokerSettings, TlsSettings
from .report import daily, table
from .store import MAX_PICTURE_BYTES, Arrival, Store, open_for_reading

SESSION_EXPIRY = 30 * 86_400  # s for which the broker keeps what comes while this is away
TOPICS = ('events', 'evidence/+', 'available', 'stats')
PORTS = {False: 1883, True: 8883}

_BATCH = 256  # messages between two waits for the disk
_ANSWER_TIMEOUT = 10.0  # s
_POLL = 0.2  # s
_FIRST_RETRY, _LAST_RETRY = 0.2, 30.0  # s
_STABLE_AFTER = 5.0  # s; a connection that lasted this long starts the back-off anew
_NOTES = 5  # lines about what came, per batch
_UNSPECIFIED = 0x80  # what the library says of its own accord when a connection breaks

_OPTIONS = {
    'broker.tls: cannot use ca_file': 'cannot use --tls-ca',
    'with certificate_file': 'with --tls-cert',
    'and key_file': 'and --tls-key',
    'broker.allow_insecure': '--allow-insecure',
    'broker.host': '--host',
    'broker.tls': 'TLS',
    'client.credentials_file': '--credentials-file',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add('--host', default='127.0.0.1', help='MQTT broker [%(default)s]')
    add('--port', type=int, help='its port [1883, 8883 with TLS]')
    add('--tls-ca', metavar='FILE', default='', help="certificates to trust, PEM [the system's]")
    add('--tls-cert', metavar='FILE', default='', help='certificate of this client, PEM')
    add('--tls-key', metavar='FILE', default='', help='its key, PEM')
    add('--allow-insecure', action='store_true', help='allow a connection without TLS to another machine')
    add('--credentials-file', metavar='FILE', default='', help='user name in the first line, password in the second')
    add('--client-id', default='edge_vision-cloud-sink', help='names the session that the broker keeps [%(default)s]')
    add('--prefix', default='edge_vision', help='first levels of the topics [%(default)s]')
    add('--output', metavar='DIR', type=Path, required=True, help='where events and pictures are kept')
    add('--report', metavar='DATE', type=day, help='print the report of a day (YYYY-MM-DD, UTC, or today) and end')
    add('--json', action='store_true', help='print reports as JSON, one per line')


def day(text: str) -> date:
    """Read a day."""
    try:
        return _today() if text == 'today' else date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a day such as 2026-01-31, or today') from error


def run(args: argparse.Namespace) -> int:
    """Take what comes until SIGINT or SIGTERM and report; or only report.

    Raises:
        EdgeVisionError: An argument is not usable, the first connection fails, or the disk does.

    """
    if args.report:
        connection = open_for_reading(args.output)
        _print_report(connection, args.report, as_json=args.json)
        connection.close()
        return 0
    settings = broker_settings(args)
    prefix = read_prefix(args.prefix)
    with Store(args.output) as store, _ending() as ending:
        sink = Sink(store, settings, prefix, as_json=args.json)
        sink.run(ending)
        _print_report(store.connection, _today(), as_json=args.json)
    return 0


def broker_settings(args: argparse.Namespace) -> BrokerSettings:
    """Check the arguments as the bridge checks its parameters, TLS unless on this machine among them.

    Raises:
        ConfigurationError: They contradict each other, or a file they name cannot be read.

    """
    if args.tls_key and not args.tls_cert:
        raise ConfigurationError(f'--tls-key is {args.tls_key!r} without --tls-cert, expected both')
    if not args.client_id:
        raise ConfigurationError('--client-id is empty, expected a name that the broker can keep a session by')
    plain = False if args.allow_insecure else None
    tls = TlsSettings(True if args.tls_ca or args.tls_cert else plain, args.tls_ca, args.tls_cert, args.tls_key)
    try:
        settings = BrokerSettings(
            host=args.host,
            port=PORTS[False] if args.port is None else args.port,
            tls=tls,
            allow_insecure=args.allow_insecure,
            client_id=args.client_id,
            credentials_file=args.credentials_file,
        )
    except ConfigurationError as error:
        message = str(error)
        for parameter, option in _OPTIONS.items():
            message = message.replace(parameter, option)
        raise ConfigurationError(message) from error
    return replace(settings, port=PORTS[settings.uses_tls]) if args.port is None else settings


def read_prefix(text: str) -> str:
    """Return the prefix as the bridge publishes under it.

    Raises:
        ConfigurationError: It is empty or holds a wildcard.

    """
    prefix = '/'.join(topic_segment(level) for level in text.split('/') if level)
    if not prefix or prefix != text.strip('/'):
        raise ConfigurationError(
            f'--prefix is {text!r}, expected levels of a topic such as edge_vision or factory/hall2'
        )
    return prefix


class ConnectionLostError(EdgeVisionError):
    """The broker cannot be reached, refuses, or has gone."""


class Sink:
    """Stores what a broker hands out, then acknowledges it.

    Args:
        store: An open store.
        settings: The broker.
        prefix: First levels of the topics.
        as_json: Whether the report at midnight is JSON.

    """

    def __init__(self, store: Store, settings: BrokerSettings, prefix: str, *, as_json: bool = False) -> None:
        self._store = store
        self._settings = settings
        self._prefix = prefix
        self._as_json = as_json
        self._today = _today()

    def run(self, ending: threading.Event) -> None:
        """Take what comes until ``ending``; a connection that is lost is made again for ever.

        Raises:
            ConnectionLostError: The first connection fails: the arguments may be wrong.
                SpoolError: The disk fails.

        """
        connection: Connection | None = self._connected()
        retry = _FIRST_RETRY
        while connection is not None:
            began = time.monotonic()
            try:
                self._serve(connection, ending)
            except ConnectionLostError as error:
                say(f'{error}; trying again')
                retry = _FIRST_RETRY if time.monotonic() - began > _STABLE_AFTER else min(2 * retry, _LAST_RETRY)
                connection = self._reconnected(ending, retry)
            else:
                return

    def _connected(self) -> Connection:
        connection = Connection(self._settings, self._prefix)
        say(connection.greeting)
        return connection

    def _reconnected(self, ending: threading.Event, retry: float) -> Connection | None:
        said = ''
        while not ending.wait(retry * random.uniform(0.5, 1.0)):  # noqa: S311  jitter
            try:
                return self._connected()
            except ConnectionLostError as error:
                if str(error) != said:
                    said = str(error)
                    say(f'{said}; trying again')
            retry = min(2 * retry, _LAST_RETRY)
        return None

    def _serve(self, connection: Connection, ending: threading.Event) -> None:
        while not ending.is_set():
            messages = connection.receive()
            if messages:
                notes = self._store.take([arrival for arrival, _ in messages])
                connection.acknowledge([mid for _, mid in messages])
                say(*notes[:_NOTES], *([f'and {len(notes) - _NOTES} more of this'] if len(notes) > _NOTES else []))
            if self._today != _today():
                _print_report(self._store.connection, self._today, as_json=self._as_json)
                self._today = _today()
        connection.close()


class Connection:
    """One connection to the broker, with a session that outlives it.

    Args:
        settings: The broker.
        prefix: First levels of the topics.

    Raises:
        ConnectionLostError: The broker cannot be reached or refuses.

    """

    def __init__(self, settings: BrokerSettings, prefix: str) -> None:
        self._name = f'broker {settings.host}:{settings.port}'
        self._prefix = prefix
        self._answer: Any = None
        self._resumed = False
        self._granted: list[Any] | None = None
        self._expiry = SESSION_EXPIRY
        self._goodbye: Any = None
        self._inbox: list[tuple[Arrival, int]] = []
        self._client = self._new_client(settings)
        self._dial(settings)
        self._await(lambda: self._answer is not None, 'answer')
        answer: Any = self._answer
        if answer.is_failure:
            raise self._lost(f'it refuses the connection: {answer}')
        self._client.subscribe([(f'{prefix}/+/{topic}', SubscribeOptions(qos=1)) for topic in TOPICS])
        self._await(lambda: self._granted is not None, 'grant the subscription')
        granted: Any = self._granted
        refused = [code for code in granted if code.is_failure]
        if refused:
            raise self._lost(f'it refuses the subscription to {prefix}/+/...: {refused[0]}')

    @property
    def greeting(self) -> str:
        """Say what the broker granted."""
        session = 'the session goes on' if self._resumed else 'a new session'
        return f'connected to {self._name}, {session}; it is kept for {self._expiry / 3600:g} h without this'

    def receive(self) -> list[tuple[Arrival, int]]:
        """Wait a moment for messages and take what has come, with the numbers to acknowledge them by.

        Raises:
            ConnectionLostError: The connection is lost; what was not acknowledged comes again.

        """
        if not self._inbox:
            self._check(self._client.loop(_POLL))
        seen = 0
        while seen < len(self._inbox) < _BATCH:
            seen = len(self._inbox)
            self._check(self._client.loop(0.0))
        received, self._inbox = self._inbox, []
        return received

    def acknowledge(self, mids: list[int]) -> None:
        """Let the broker forget messages."""
        for mid in mids:
            if mid:  # QoS 0 has none
                self._client.ack(mid, 1)

    def close(self) -> None:
        """Leave; the session stays."""
        self._client.disconnect()
        self._client.loop_write()

    def _new_client(self, settings: BrokerSettings) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            protocol=paho.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        settings.prepare(client)
        return client

    def _dial(self, settings: BrokerSettings) -> None:
        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY
        properties.ReceiveMaximum = _BATCH
        properties.MaximumPacketSize = MAX_PICTURE_BYTES + 65_536
        try:
            self._client.connect(
                settings.host, settings.port, settings.keep_alive, clean_start=False, properties=properties
            )
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, 'verify_message', '') or getattr(error, 'strerror', '') or error
            raise self._lost(f'it cannot be reached: {reason}') from error

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                raise self._lost(f'it does not {what}; is it an MQTT 5 broker?')
            code: MQTTErrorCode = self._client.loop(_POLL)
            if not condition():  # a refusal ends the connection too
                self._check(code)

    def _check(self, code: MQTTErrorCode) -> None:
        if code == paho.MQTT_ERR_SUCCESS:
            return
        reason = self._goodbye
        told = getattr(reason, 'value', 0) > _UNSPECIFIED
        said = f'it ends the connection: {reason}' if told else 'the connection is lost'
        hint = '' if self._answer is not None else ' before it answered; does it speak TLS, or want --tls-cert?'
        raise self._lost(f'{said}{hint}')

    def _lost(self, reason: str) -> ConnectionLostError:
        return ConnectionLostError(f'{self._name}: {reason}')

    def _on_connect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answer = reason
        self._resumed = bool(flags.session_present)
        self._expiry = getattr(properties, 'SessionExpiryInterval', SESSION_EXPIRY)

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: int, reasons: list[Any], _properties: Any) -> None:
        self._granted = reasons

    def _on_disconnect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._goodbye = self._goodbye or reason  # the library calls twice; the broker's own word comes first

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        topic = message.topic
        arrival = Arrival(topic[len(self._prefix) + 1 :], payload, time.time_ns(), len(topic.encode()) + len(payload))
        self._inbox.append((arrival, message.mid))


def say(*lines: str) -> None:
    """Tell a person something; standard output is for reports."""
    for line in lines:
        sys.stderr.write(f'cloud-sink: {line}\n')
    sys.stderr.flush()


def _print_report(connection: sqlite3.Connection, of: date, *, as_json: bool) -> None:
    report = daily(connection, of, time.time_ns())
    sys.stdout.write((json.dumps(report) if as_json else table(report)) + '\n')
    sys.stdout.flush()


def _today() -> date:
    return datetime.now(timezone.utc).date()


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    ending = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: ending.set()) for number in numbers]
    try:
        yield ending
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
