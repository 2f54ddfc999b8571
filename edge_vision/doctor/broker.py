"""Connects to the broker as the bridge does, and takes leave at once: nothing is published, no session is kept."""

from __future__ import annotations

import dataclasses
import socket

from ..mqtt import BrokerSettings, settings_of
from ..mqtt.connection import BrokerError, Connection, NoAnswerError
from ..mqtt.settings import PROTOCOLS
from ..params import BridgeParams


class UnreachableError(Exception):
    """The broker cannot be reached or refuses; the message says why and what to do."""


def settings(params: BridgeParams) -> BrokerSettings:
    """Take what a connection needs from the bridge's parameters.

    The client id is another one: a broker ends the connection of the bridge that has the same.

    Raises:
        ConfigurationError: They contradict each other, or a file they name cannot be read.

    """
    bridge = settings_of(params)
    return dataclasses.replace(bridge, client_id=f'{bridge.name}-doctor')


def knock(target: BrokerSettings) -> str:
    """Connect and disconnect.

    Returns:
        The MQTT version that the broker speaks.

    Raises:
        UnreachableError: It cannot be reached or refuses.

    """
    reader, writer = socket.socketpair()
    with reader, writer:
        for protocol in PROTOCOLS:
            try:
                connection = Connection(target, protocol, reader, announces=False)
            except NoAnswerError as error:
                if protocol == PROTOCOLS[-1]:
                    raise UnreachableError(str(error)) from error
            except BrokerError as error:
                raise UnreachableError(str(error)) from error
            else:
                connection.disconnect()
                connection.close()
                return protocol
    raise AssertionError  # pragma: no cover
