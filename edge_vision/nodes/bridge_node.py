"""Keeps flagged events safe on disk and relays them, and only them, to the cloud."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from ..errors import EncodingError, SpoolError
from ..events import Event, EventError, default_device_id, topic_segment
from ..evidence import encode
from ..frames import Frame
from ..mqtt import BrokerSettings, Sender, TlsSettings
from ..params import BridgeParams
from ..spool import Spool
from . import diagnostics, qos
from .convert import frame_from_msg, ns_from_stamp
from .parameters import declare_and_follow
from .spin import Worker

FRAMES_WAITING = 64  # events whose frames are kept in memory until they are on disk
RING_BYTES = 96 << 20  # newest images kept for the events of another process
FRAME_WAIT = 0.5  # s an event waits for its image from another process
RETRY_PERIOD = 0.5  # s between attempts to write to a disk that refuses
BATCH = 256


class Flagged(NamedTuple):
    """An event on its way to disk, with the frame that caused it where this process has it."""

    event: Event
    frame: Frame | None
    announce: Callable[[], None]


class BridgeNode(Node):
    """Spools every event with its evidence and sends it to the broker until that has acknowledged it.

    Args:
        composed: Whether a decision in this process gives its events with their frames to `accept`; ``events`` and
            images are then not subscribed.
        kwargs: Passed to `rclpy.node.Node`.

    """

    def __init__(self, *, composed: bool = False, **kwargs: Any) -> None:
        self._cleanup = ExitStack()
        super().__init__('bridge', **kwargs)
        self._params = declare_and_follow(self, BridgeParams)
        self._settings = broker_settings(self._params)
        self._composed = composed
        self._spool = Spool(
            spool_directory(self._params, self.get_namespace()),
            max_bytes=self._params.spool_max_bytes,
            max_age=self._params.spool_max_age,
        )
        self._spool.open()
        self._cleanup.callback(self._spool.close)
        self._sender = Sender(self._spool, self._settings, stats=self._stats)
        self._flagged: queue.SimpleQueue[Flagged | None] = queue.SimpleQueue()
        self._events = self._without_picture = self._malformed = self._bytes_captured = 0
        self._disk_error = ''
        self._oldest_age = 0.0
        self._ring: OrderedDict[int, Image] = OrderedDict()
        self._ring_grew = threading.Condition()
        self._closing = threading.Event()
        self.create_service(Trigger, '~/is_connected', self._on_is_connected)
        self.create_subscription(CameraInfo, 'camera_info', self._on_info, qos.EACH)
        if not composed:
            self.create_subscription(String, 'events', self._on_event, qos.EVENTS)
            self.create_subscription(
                Image, 'image_raw', self._on_image, qos.NEWEST, qos_overriding_options=qos.overridable()
            )
        self._sender.start()
        self._cleanup.callback(self._sender.close)
        self._cleanup.callback(Worker('bridge-spool', self._store).join)
        self._cleanup.callback(Worker('bridge-watch', self._watch_spool).join)
        self._cleanup.callback(self._closing.set)
        self._cleanup.callback(self._flagged.put, None)
        self._cleanup.callback(diagnostics.publish_health(self, self._health))

    def destroy_node(self) -> None:
        """Bring what is waiting to disk, send what the broker takes at once, and destroy the node."""
        self._cleanup.close()
        super().destroy_node()

    def accept(self, event: Event, frame: Frame | None, announce: Callable[[], None] = lambda: None) -> None:
        """Take charge of an event; returns at once.

        Args:
            event: The event.
            frame: What caused it, where this process has it.
            announce: Called when the event is on disk.

        """
        if frame is not None and self._flagged.qsize() >= FRAMES_WAITING:
            frame = None
        self._flagged.put(Flagged(event, frame, announce))

    def _on_event(self, msg: String) -> None:
        try:
            self.accept(Event.from_json(msg.data), None)
        except EventError as error:
            self._malformed += 1
            self.get_logger().error(f'dropped an event: {error}', throttle_duration_sec=5.0)

    def _on_image(self, msg: Image) -> None:
        with self._ring_grew:
            self._ring[ns_from_stamp(msg.header.stamp)] = msg
            while len(self._ring) > max(2, RING_BYTES // max(len(msg.data), 1)):
                self._ring.popitem(last=False)
            self._ring_grew.notify_all()

    def _on_info(self, msg: CameraInfo) -> None:
        self._bytes_captured += msg.width * msg.height * 3

    def _store(self) -> None:
        closing = False
        while not closing:
            batch = [self._flagged.get()]
            while not self._flagged.empty() and len(batch) < BATCH:
                batch.append(self._flagged.get())
            closing = None in batch
            flagged = [item for item in batch if item is not None]
            deadline = time.monotonic() + FRAME_WAIT
            if self._append([self._with_evidence(item, deadline) for item in flagged]):
                for item in flagged:
                    item.announce()

    def _watch_spool(self) -> None:
        """Ask the disk what only it knows, in a thread that may wait for it."""
        while not self._closing.wait(1.0):
            with suppress(SpoolError):  # who writes says so
                self._oldest_age = self._spool.oldest_age

    def _append(self, stored: list[tuple[Event, bytes | None]]) -> bool:
        while True:
            try:
                self._spool.append_many(stored)
            except SpoolError as error:
                self._disk_error = str(error)
                self.get_logger().error(f'{len(stored)} events wait in memory: {error}', throttle_duration_sec=5.0)
                if self._closing.wait(RETRY_PERIOD):
                    ids = [event.id for event, _ in stored]
                    self.get_logger().error(f'events lost, as the disk refused them to the end: {ids}')
                    return False
            else:
                self._disk_error = ''
                self._events += len(stored)
                return True

    def _with_evidence(self, item: Flagged, deadline: float) -> tuple[Event, bytes | None]:
        event = dataclasses.replace(item.event, device_id=self._settings.device_id)
        kind = event.evidence.kind
        if kind == 'none':
            return event, None
        try:
            frame = item.frame or self._frame_of(event.stamp_ns, deadline)
        except EncodingError as error:
            return self._no_picture(event, str(error))
        if frame is None:
            return self._no_picture(event, 'the frame was no longer held')
        picture = encode(
            frame.image,
            kind,
            event.bbox.xyxy if event.bbox else None,
            margin=self._params.crop_margin,
            quality=self._params.jpeg_quality,
            max_bytes=self._params.max_payload_bytes,
        )
        if picture is None:
            return self._no_picture(event, 'the frame could not be encoded')
        return event.with_picture(picture, self._settings.topics.evidence(event.id)), picture

    def _no_picture(self, event: Event, reason: str) -> tuple[Event, None]:
        self._without_picture += 1
        return event.without_picture(reason), None

    def _frame_of(self, stamp_ns: int, deadline: float) -> Frame | None:
        """Find the image of a stamp among those received, or wait for it until it cannot come any more."""
        if self._composed:
            return None
        with self._ring_grew:
            self._ring_grew.wait_for(
                lambda: max(self._ring, default=0) >= stamp_ns or self._closing.is_set(),
                max(0.0, deadline - time.monotonic()),
            )
            msg = self._ring.get(stamp_ns)
        return frame_from_msg(msg) if msg is not None else None

    def _on_is_connected(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        state = self._sender.state
        response.success = state.connected
        response.message = f'connected by MQTT {state.protocol}' if state.connected else state.last_error
        return response

    def _stats(self) -> dict[str, object]:
        state = self._sender.state
        return {
            'bytes_captured': self._bytes_captured,
            'bytes_sent': state.bytes_sent,
            'events': self._events,
            'events_sent': state.events_sent,
            'spool_depth': self._spool.depth,
            'spool_oldest_age_s': round(self._oldest_age, 3),
            'stamp_ns': time.time_ns(),
        }

    def _health(self) -> diagnostics.Health:
        state = self._sender.state
        dropped = self._spool.dropped
        figures = {
            'broker': f'{self._settings.host}:{self._settings.port}',
            'protocol': state.protocol,
            'in_flight': state.in_flight,
            'spool_bytes': self._spool.bytes,
            'resent': state.resent,
            'connects': state.connects,
            'without_picture': self._without_picture,
            'malformed': self._malformed,
            'dropped_events': dropped.events,
            'dropped_pictures': dropped.pictures,
            'expired_events': dropped.expired,
            **self._stats(),
        }
        if self._disk_error:
            return diagnostics.Health(diagnostics.ERROR, self._disk_error, figures)
        if not state.connected:
            return diagnostics.Health(diagnostics.ERROR, state.last_error or 'not connected yet', figures)
        return diagnostics.Health(diagnostics.OK, 'connected', figures)


def broker_settings(params: BridgeParams) -> BrokerSettings:
    """Translate the node's parameters.

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
    )


def spool_directory(params: BridgeParams, namespace: str) -> Path:
    """Return where events are kept: one directory per namespace, as only one process may have it open."""
    if params.spool_directory:
        return Path(params.spool_directory).expanduser()
    data = Path(os.environ.get('XDG_DATA_HOME') or '~/.local/share').expanduser()
    return data / 'edge_vision' / 'spool' / topic_segment(namespace.strip('/') or 'default')


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [BridgeNode()]
