"""One connection to the broker: made, watched, and given up."""

from __future__ import annotations

import logging
import re
import select
import socket
import ssl
import time
from contextlib import suppress
from typing import Any, NamedTuple

import paho.mqtt.client as paho

from .pacing import Window
from .settings import BrokerSettings

CONNECT_TIMEOUT = 5.0  # s, for each of TCP, TLS and the broker's answer

_log = logging.getLogger(__name__)

_PACKET_OVERHEAD = 64  # bytes of a PUBLISH packet beyond topic and payload, with room to spare

ACCEPTED = 0x00
REFUSED = 0x80  # reasons from here on are refusals
_UNSUPPORTED_VERSION = 0x84
TOO_LARGE = 0x95
BAD_FORMAT = 0x99
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
    0x95: 'packet too large',
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
_EVENT_TOO_LARGE = 'the event is larger than the broker takes; raise its message_size_limit'
_V3_REASONS = {1: _UNSUPPORTED_VERSION, 2: 0x85, 3: 0x88, 4: 0x86, 5: 0x87}


class BrokerError(Exception):
    """The broker cannot be reached, refuses, or has gone."""


class MessageRefusedError(BrokerError):
    """The broker does not take an event or its picture."""


class TooLargeError(BrokerError):
    """The broker gives a connection up over a message that is too large for it."""


class OddAnswerError(BrokerError):
    """The broker answers with something that MQTT does not allow."""


class NoAnswerError(BrokerError):
    """Something listens, but it does not speak this version of MQTT."""


class _Sent(NamedTuple):
    """A message on its way: of which event, how large, whether it is the picture, and since when."""

    seq: int | None
    size: int
    is_picture: bool
    at: float


class Connection:
    """One connection, with a client of its own.

    The MQTT library would send again what was in flight when it reconnects, and the spool does that too: a new
    client for each connection leaves it to the spool alone.

    Args:
        settings: Where to connect.
        protocol: One of `PROTOCOLS`.
        wake: A socket that becomes readable when there is something to send.
        announces: Whether the broker tells others that this device is offline when the connection is lost.

    Raises:
        BrokerError: The broker cannot be reached or refuses.
        ConfigurationError: Credentials or certificates cannot be read any more.

    """

    def __init__(self, settings: BrokerSettings, protocol: str, wake: socket.socket, *, announces: bool = True) -> None:
        self.protocol = protocol
        self._announces = announces
        self.refusal = ''
        self._settings = settings
        self._wake = wake
        self.goodbye = 0  # why the broker has ended the connection; 0: it did not say
        self.largest_event_taken = self.largest_picture_taken = 0  # bytes
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
        sent = _Sent(seq, len(payload), is_picture, time.monotonic())
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        self._check(info.rc)
        self._in_flight[info.mid] = sent
        if seq is not None and is_picture:
            self._outstanding[seq] += 1
        return info.mid

    def awaits(self, mid: int) -> bool:
        """Whether the broker has not answered a message yet."""
        return mid in self._in_flight

    def ask_for(self, mid: int) -> None:
        """Have the answer to a message kept for `answer` instead of acting on it."""
        self._asked[mid] = None

    def answer(self, mid: int) -> int | None:
        """Return the reason code that the broker answered with; None while it has not."""
        return self._asked[mid]

    def refuse(self, seq: int, code: int) -> None:
        """Give an event up for this connection."""
        self._outstanding.pop(seq, None)
        reason = _EVENT_TOO_LARGE if code == TOO_LARGE else reason_of(code)
        self._refused.append((seq, f'{self._refusal("an event", reason)}; it waits for another connection'))

    def refusal_of(self, what: str, code: int) -> str:
        """Describe a message that the broker does not take."""
        return self._refusal(what, reason_of(code))

    def _refusal(self, what: str, reason: str) -> str:
        return str(self._error(f'it refuses {what}: {reason}'))

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
            BrokerError: The connection is lost.

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
            'client_id': settings.name,
            'clean_session': None if protocol == '5' else True,
            'protocol': paho.MQTTv5 if protocol == '5' else paho.MQTTv311,
            'reconnect_on_failure': False,
        }
        if hasattr(paho, 'CallbackAPIVersion'):  # 2.0 and newer
            options['callback_api_version'] = paho.CallbackAPIVersion.VERSION2
        client = paho.Client(**options)
        client.max_inflight_messages_set(0)  # the window is ours: nothing may wait inside the library
        if self._announces:
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
        with suppress(BrokerError):  # who closes the connection at once has not answered either
            self._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT
        with suppress(BrokerError):  # a refusal ends the connection too
            while self._answer is None and time.monotonic() < deadline:
                self.poll(0.1)
        self._client.on_log = None  # which costs time
        if self._answer == ACCEPTED:
            return
        closed = self._client.socket() is None
        self.close()
        if self._trouble:
            raise self._error(f'TLS: it refuses this client: {self._trouble}; check broker.tls.client_certificate')
        if self._answer in {None, _UNSUPPORTED_VERSION}:
            hint = (
                f', but closes the connection; it may have no room for one more, or {self._why_closed}'
                if closed
                else ''
            )
            raise NoAnswerError(str(self._error(f'it does not answer as a broker of MQTT {self.protocol} does{hint}')))
        raise self._error(f'it refuses the connection: {reason_of(self._answer)}')

    @property
    def _why_closed(self) -> str:
        if self._settings.uses_tls:  # its reason can be lost with the connection
            return 'refuse this client; check broker.tls.client_certificate'
        return 'want TLS'

    def _socket(self) -> socket.socket:
        connection = self._client.socket()
        if connection is None:
            raise self._error(self._farewell or 'the connection is lost')
        return connection  # type: ignore[return-value]  # only another kind with web sockets

    def _check(self, code: int) -> None:
        if code == paho.MQTT_ERR_PROTOCOL and self._answer == ACCEPTED and not self.goodbye:
            msg = 'it answers with what MQTT does not allow, as some do to a message that is too large for them'
            raise OddAnswerError(str(self._error(msg)))
        if code != paho.MQTT_ERR_SUCCESS:
            raise self._error(self._farewell or f'the connection is lost: {paho.error_string(code)}')

    @property
    def _farewell(self) -> str:
        return f'it ends the connection: {reason_of(self.goodbye)}' if self.goodbye else ''

    def _error(self, reason: str) -> BrokerError:
        return BrokerError(f'broker {self._settings.host}:{self._settings.port}: {reason}')

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any = None) -> None:
        code = getattr(reason, 'value', reason)
        self._answer = _V3_REASONS.get(code, code)
        self.window = Window(min(self._settings.max_in_flight, getattr(properties, 'ReceiveMaximum', 65535)))
        self._maximum_packet_size = getattr(properties, 'MaximumPacketSize', self._maximum_packet_size)

    def _on_publish(self, _client: Any, _userdata: Any, mid: int, reason: Any = None, _properties: Any = None) -> None:
        code = getattr(reason, 'value', ACCEPTED)
        used = len(self._in_flight)
        sent = self._in_flight.pop(mid)
        self.window.acknowledged(sent.at, time.monotonic(), used)
        asked = mid in self._asked
        if asked:
            self._asked[mid] = code
        if asked or code < REFUSED:
            self._count(sent, taken=code < REFUSED)
        elif sent.seq is None:  # availability and statistics are worth a line, not the connection
            _log.warning('mqtt: %s', self.refusal_of('a message', code))
        elif code in {TOO_LARGE, BAD_FORMAT} and not sent.is_picture:
            self.refuse(sent.seq, code)
        else:
            self.refusal = self.refusal_of('a message', code)

    def _count(self, sent: _Sent, *, taken: bool) -> None:
        if taken and sent.is_picture:
            self.largest_picture_taken = max(self.largest_picture_taken, sent.size)
        elif taken and sent.seq is not None:
            self.largest_event_taken = max(self.largest_event_taken, sent.size)
        if sent.seq in self._outstanding:
            self._outstanding[sent.seq] -= 1
            if self._outstanding[sent.seq] == 0:
                del self._outstanding[sent.seq]
                self._arrived.append(sent.seq)

    def _on_disconnect(self, _client: Any, _userdata: Any, *details: Any) -> None:
        codes = [getattr(detail, 'value', 0) for detail in details]
        self.goodbye = next((code for code in codes if code in _REASONS and code != REFUSED), 0)

    def _on_log(self, _client: Any, _userdata: Any, _level: int, text: str) -> None:
        """Keep what TLS says of a refusal that comes after the handshake: the library only logs it."""
        alert = _TLS_ALERT.search(text)
        self._trouble = self._trouble or (alert[1] if alert else '')


def reason_of(code: int) -> str:
    """Say what a reason code of MQTT 5 means."""
    return _REASONS.get(code, f'reason 0x{code:02X}')
