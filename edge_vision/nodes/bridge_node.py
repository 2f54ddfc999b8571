"""Keeps flagged events safe on disk and relays them, and only them, to the cloud."""

from __future__ import annotations

import dataclasses
import errno
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from ..errors import EncodingError, SpoolError
from ..events import Event, EventError
from ..evidence import encode
from ..frames import Frame
from ..mqtt import Sender, settings_of
from ..params import BridgeParams
from ..places import spool_directory
from ..spool import Spool
from ..waiting import Flagged, Waiting
from . import diagnostics, qos
from .convert import frame_from_msg
from .parameters import declare_and_follow
from .recent_images import RecentImages
from .spin import Worker

EVENTS_WAITING = 10_000  # in memory until they are on disk, at most; about 1 kB each
FRAME_BYTES_WAITING = 96 << 20  # pixels kept in memory with them, at most
# An event may be about any image, not only the newest: some may wait while this process does not get to run.
IMAGES = QoSProfile(depth=8, reliability=qos.NEWEST.reliability)
RECENT_BYTES = 96 << 20  # newest images kept for the events of another process
FRAME_WAIT = 0.5  # s an event waits for its image from another process
RETRY_PERIOD = 0.5  # s between attempts to write to a disk that refuses
BATCH = 256
LARGEST_EVENT = 32 * 1024  # characters taken from another process; one of ours has about 1000
EVENT_ID = re.compile(r'[A-Za-z0-9._:-]{1,128}')  # what every broker takes as a level of a topic
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)  # which may pass
JPEG_SHARE = 0.04  # a camera's pictures as JPEGs of quality 85 against their pixels, about


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
        self._settings = settings_of(self._params)
        self._composed = composed
        self._spool = Spool(
            spool_directory(self._params, self.get_namespace()),
            max_bytes=self._params.spool_max_bytes,
            max_age=self._params.spool_max_age,
        )
        self._disk_error = ''
        self._open_spool(first=True)
        self._cleanup.callback(self._spool.close)
        self._sender = Sender(self._spool, self._settings, stats=self._stats)
        self._waiting = Waiting(EVENTS_WAITING, FRAME_BYTES_WAITING)
        self._events = self._without_picture = self._malformed = self._bytes_captured = 0
        self._oldest_age = 0.0
        self._recent: dict[str, RecentImages | None] = {}  # None: a name that two cameras have
        self._closing = threading.Event()
        self.create_service(Trigger, '~/is_connected', self._on_is_connected)
        for topic in self._params.image_topics:
            self._watch_camera(topic)
        if not composed:
            self.create_subscription(String, 'events', self._on_event, qos.EVENTS)
        if not self._disk_error:
            self._sender.start()
        self._cleanup.callback(self._sender.close)
        self._cleanup.callback(Worker('bridge-spool', self._store).join)
        self._cleanup.callback(Worker('bridge-watch', self._watch_spool).join)
        self._cleanup.callback(self._closing.set)
        for recent in filter(None, self._recent.values()):
            self._cleanup.callback(recent.close)
        self._cleanup.callback(self._waiting.close)
        self._cleanup.callback(diagnostics.publish_health(self, self._health))

    def destroy_node(self) -> None:
        """Bring what is waiting to disk, send what the broker takes at once, and destroy the node."""
        self._cleanup.close()
        super().destroy_node()

    def accept(self, event: Event, frame: Frame | None, announce: Callable[[], None] = lambda: None) -> None:
        """Take charge of an event; returns at once, however long the disk takes.

        Args:
            event: The event.
            frame: What caused it, where this process has it.
            announce: Called when the event is on disk.

        """
        self._waiting.put(Flagged(event, frame, announce))

    def _watch_camera(self, topic: str) -> None:
        """Count what a camera captures, and keep its newest images unless frames come with their events."""
        beside = topic[: topic.rfind('/') + 1]
        self.create_subscription(CameraInfo, f'{beside}camera_info', self._on_info, qos.EACH)
        if self._composed:
            return
        recent = RecentImages(RECENT_BYTES // len(self._params.image_topics))
        self.create_subscription(Image, topic, recent.put, IMAGES, qos_overriding_options=qos.overridable())
        # An event names its camera by the namespace of its detections: beside the images, remapped or not.
        asked_for = expand_topic_name(topic, self.get_name(), self.get_namespace())
        names = (self.resolve_topic_name(topic), asked_for)
        for camera in {name.rpartition('/')[0].strip('/') or 'camera' for name in names}:
            self._recent[camera] = None if camera in self._recent else recent

    def _on_event(self, msg: String) -> None:
        try:
            self.accept(event_of_another_process(msg.data), None)
        except EventError as error:
            self._malformed += 1
            self.get_logger().error(f'dropped an event: {error}', throttle_duration_sec=5.0)

    def _on_info(self, msg: CameraInfo) -> None:
        self._bytes_captured += msg.width * msg.height * 3

    def _open_spool(self, *, first: bool = False) -> None:
        """Open the spool; where the disk refuses, the machine is watched over all the same and events wait.

        Raises:
            SpoolError: At first: the directory cannot be this bridge's, now or later.

        """
        try:
            self._spool.open()
        except SpoolError as error:
            cause = error.__cause__
            if first and not (isinstance(cause, sqlite3.Error) or getattr(cause, 'errno', None) in DISK_TROUBLE):
                raise
            self._disk_error = str(error)
            self.get_logger().error(f'events wait in memory: {error}', throttle_duration_sec=5.0)
        else:
            self._disk_error = ''

    def _store(self) -> None:
        if self._disk_error:
            while self._disk_error and not self._closing.wait(RETRY_PERIOD):
                self._open_spool()
            self._sender.start()
        while batch := self._waiting.take(BATCH):
            deadline = time.monotonic() + FRAME_WAIT
            stored = [self._with_evidence(item, deadline) for item in batch]
            announcements = [item.announce for item in batch]
            batch.clear()  # its frames are large, and the disk may take long
            if self._append(stored):
                for announce in announcements:
                    announce()

    def _watch_spool(self) -> None:
        """Ask the disk what only it knows, and drop what is too old, in a thread that may wait for it."""
        while not self._closing.wait(1.0):
            with suppress(SpoolError):  # who writes says so
                self._spool.expire()
                self._oldest_age = self._spool.oldest_age

    def _append(self, stored: list[tuple[Event, bytes | None]]) -> bool:
        while True:
            try:
                self._events += self._spool.append_many(stored)
            except SpoolError as error:
                self._disk_error = str(error)
                waiting = f'{len(stored) + len(self._waiting)} events wait in memory'
                given_up = f'{self._waiting.dropped} were given up'
                self.get_logger().error(f'{waiting}, {given_up}: {error}', throttle_duration_sec=5.0)
                if self._closing.wait(RETRY_PERIOD):
                    ids = [event.id for event, _ in stored]
                    self.get_logger().error(f'events lost, as the disk refused them to the end: {ids}')
                    return False
            else:
                self._disk_error = ''
                return True

    def _with_evidence(self, item: Flagged, deadline: float) -> tuple[Event, bytes | None]:
        event = dataclasses.replace(item.event, device_id=self._settings.device_id)
        kind = event.evidence.kind
        if kind == 'none':
            return event, None
        frame, reason = (item.frame, '') if item.frame else self._frame_of(event, deadline)
        if frame is None:
            return self._no_picture(event, reason)
        if event.image not in (None, frame.size):
            return self._no_picture(event, f'the image is of {frame.size}, the detections of {event.image}')
        picture = encode(
            frame.image,
            kind,
            event.bbox.xyxy if event.bbox else None,
            margin=self._params.crop_margin,
            quality=self._params.jpeg_quality,
            max_bytes=self._params.max_payload_bytes,
            blur_outside=self._params.blur_outside,
        )
        if picture is None:
            return self._no_picture(event, 'the frame could not be encoded')
        return event.with_picture(picture, self._settings.topics.evidence(event.id)), picture

    def _no_picture(self, event: Event, reason: str) -> tuple[Event, None]:
        self._without_picture += 1
        return event.without_picture(reason), None

    def _frame_of(self, event: Event, deadline: float) -> tuple[Frame | None, str]:
        """Find the image of an event of another process among those received; or say why there is none."""
        if self._composed:
            return None, 'the frame was no longer held'
        recent = self._recent.get(event.camera)
        if recent is None:
            return None, f'image_topics does not say which images are of camera {event.camera!r}'
        msg = recent.find(event.stamp_ns, deadline)
        try:
            return (frame_from_msg(msg), '') if msg else (None, 'the frame was no longer held')
        except EncodingError as error:
            return None, str(error)

    def _on_is_connected(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        state = self._sender.state
        response.success = state.connected
        response.message = f'connected by MQTT {state.protocol}' if state.connected else state.last_error
        return response

    def _stats(self) -> dict[str, object]:
        state, dropped = self._sender.state, self._spool.dropped
        return {
            'bytes_captured': self._bytes_captured,
            'bytes_sent': state.bytes_sent,
            'events': self._events,
            'events_sent': state.events_sent,
            'events_dropped': self._waiting.dropped + dropped.events + dropped.expired,
            'spool_depth': self._spool.depth,
            'spool_oldest_age_s': round(self._oldest_age, 3),
            'estimated_cost_avoided': round(self._cost_avoided(state.bytes_sent), 6),
            'stamp_ns': time.time_ns(),
        }

    def _cost_avoided(self, bytes_sent: int) -> float:
        """Estimate what it would have cost to move every picture to a cloud as a JPEG, less what was sent, $."""
        avoided = self._bytes_captured * JPEG_SHARE - bytes_sent
        return avoided / 1e9 * self._params.price_per_gb

    def _health(self) -> diagnostics.Health:
        state = self._sender.state
        dropped = self._spool.dropped
        figures = {
            'broker': f'{self._settings.host}:{self._settings.port}',
            'protocol': state.protocol,
            'in_flight': state.in_flight,
            'spool_bytes': self._spool.bytes,
            'resent': state.resent,
            'held_back': state.held_back,
            'pictures_refused': state.pictures_refused,
            'connects': state.connects,
            'without_picture': self._without_picture,
            'malformed': self._malformed,
            'waiting': len(self._waiting),
            'dropped_waiting': self._waiting.dropped,
            'dropped_events': dropped.events,
            'dropped_pictures': dropped.pictures,
            'expired_events': dropped.expired,
            **self._stats(),
        }
        if self._disk_error:
            return diagnostics.Health(diagnostics.ERROR, self._disk_error, figures)
        if not state.connected:
            return diagnostics.Health(diagnostics.ERROR, state.last_error or 'not connected yet', figures)
        if self._spool.set_aside:
            kept = f'a damaged spool was set aside as {self._spool.set_aside}; look at it and delete it'
            return diagnostics.Health(diagnostics.WARN, kept, figures)
        if state.held_back:
            held_back = f'{state.held_back} events are held back: {state.last_error}'
            return diagnostics.Health(diagnostics.WARN, held_back, figures)
        if not self._composed and not self.count_publishers('events'):
            unheard = 'hears of no decision that publishes events; start one, or all processes anew (docs/dds.md)'
            return diagnostics.Health(diagnostics.WARN, unheard, figures)
        return diagnostics.Health(diagnostics.OK, 'connected', figures)


def event_of_another_process(text: str) -> Event:
    """Read an event that could also be stored and sent.

    Raises:
        EventError: It is not one.

    """
    if len(text) > LARGEST_EVENT:
        msg = f'an event must have at most {LARGEST_EVENT} characters, but the text has {len(text)}'
        raise EventError(msg)
    event = Event.from_json(text)
    if not EVENT_ID.fullmatch(event.id):
        msg = f'event.id is {event.id!r:.60}, expected at most 128 letters, digits or any of . _ : -'
        raise EventError(msg)
    try:
        event.to_json().encode()
    except UnicodeEncodeError as error:
        msg = f'event {event.id!r} holds half a character, which no text can carry'
        raise EventError(msg) from error
    return event


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [BridgeNode()]
