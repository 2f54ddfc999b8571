"""Which broker, how the connection is protected, who this client is, and what its topics are called."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as paho

from ..errors import ConfigurationError
from ..events import default_device_id, topic_segment
from ..params import BridgeParams
from .pacing import ORDERS

PROTOCOLS = ('5', '3.1.1')
USERNAME_VARIABLE = 'EDGE_VISION_MQTT_USERNAME'
PASSWORD_VARIABLE = 'EDGE_VISION_MQTT_PASSWORD'  # noqa: S105  the name of a variable


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
    def name(self) -> str:
        """The client id that the broker is told."""
        return self.client_id or f'edge_vision-{topic_segment(self.device_id)}'

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


def _no_password() -> str:
    """Refuse to ask on the terminal for the password of a key."""
    msg = 'the key is protected by a password, which is not supported'
    raise ValueError(msg)


def settings_of(params: BridgeParams) -> BrokerSettings:
    """Translate the bridge's parameters.

    Raises:
        ConfigurationError: They contradict each other, or a file they name cannot be read.

    """
    plain = False if params.allow_insecure else None
    return BrokerSettings(
        host=params.broker_host,
        port=params.broker_port,
        tls=TlsSettings(
            enabled=True if params.tls_enabled else plain,
            ca_file=params.tls_ca_certificate,
            certificate_file=params.tls_client_certificate,
            key_file=params.tls_client_key,
        ),
        allow_insecure=params.allow_insecure,
        client_id=params.client_id,
        credentials_file=params.credentials_file,
        keep_alive=round(params.keep_alive_interval),
        topic_prefix=params.topic_prefix,
        device_id=topic_segment(params.device_id) if params.device_id else default_device_id(),
        max_payload_bytes=params.max_payload_bytes,
        max_events_per_second=params.max_events_per_second,
        max_bytes_per_second=params.max_bytes_per_second,
        order=params.delivery_order,
    )
