"""The cloud's side of the demo: takes what the bridge sends, and counts it."""

from __future__ import annotations

import json
import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from ..errors import EdgeVisionError

TOPICS = 'edge_vision/#'


class Cloud:
    """Subscribes to everything below the topic prefix and keeps it.

    Args:
        host: Broker.
        port: Its port.

    Raises:
        EdgeVisionError: The broker cannot be reached.

    """

    def __init__(self, host: str, port: int) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, Any] = {}
        self._pictures: dict[str, bytes] = {}
        self._bytes = self._duplicated = 0
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe(TOPICS, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise EdgeVisionError(
                f'broker {host}:{port} cannot be reached: {error}; start one or leave out --broker'
            ) from error
        self._client.loop_start()
        if not self._subscribed.wait(10.0):
            raise EdgeVisionError(f'broker {host}:{port} did not answer a subscription; is it an MQTT broker?')

    def start_over(self) -> None:
        """Forget what has come so far."""
        with self._lock:
            self._events, self._pictures = {}, {}
            self._bytes = self._duplicated = 0

    @property
    def events(self) -> dict[str, Any]:
        """CloudEvents by id."""
        with self._lock:
            return dict(self._events)

    @property
    def pictures(self) -> dict[str, bytes]:
        """JPEG evidence by event id."""
        with self._lock:
            return dict(self._pictures)

    @property
    def bytes(self) -> int:
        """Payload and topic bytes of every message."""
        return self._bytes

    @property
    def duplicated(self) -> int:
        """Events that came again."""
        return self._duplicated

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.retain:
            return
        levels = message.topic.split('/')
        with self._lock:
            self._bytes += len(message.payload) + len(message.topic)
            if levels[-1] == 'events':
                event = json.loads(message.payload)
                self._duplicated += event['id'] in self._events
                self._events[event['id']] = event
            elif levels[-2] == 'evidence':
                self._pictures[levels[-1]] = bytes(message.payload)
