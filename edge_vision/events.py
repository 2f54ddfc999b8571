"""What happened: one flagged event, and its CloudEvents form on the wire."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote, unquote

from .errors import EdgeVisionError

TYPE = 'edge_vision.event.v1'
PHASES = ('new', 'end')
ACTIONS = ('stop', 'slowdown', 'alarm', 'flag')
EVIDENCE_KINDS = ('none', 'crop', 'frame')

_NOT_IN_A_TOPIC = re.compile(r'[/+#\x00-\x1f\x7f-\x9f]|^\$')


class EventError(EdgeVisionError, ValueError):
    """A text is not an event of this package."""


class BBox(NamedTuple):
    """A box in pixels of the camera image, as vision_msgs has it."""

    center_x: float
    center_y: float
    size_x: float
    size_y: float

    @classmethod
    def from_xyxy(cls, left: float, top: float, right: float, bottom: float) -> BBox:
        """Make a box from its edges in pixels."""
        return cls((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom in pixels."""
        half_x, half_y = self.size_x / 2, self.size_y / 2
        return self.center_x - half_x, self.center_y - half_y, self.center_x + half_x, self.center_y + half_y


@dataclass(frozen=True, slots=True)
class Evidence:
    """Which picture belongs to an event; fresh from a rule it is only a wish for a `kind`.

    Attributes:
        kind: One of `EVIDENCE_KINDS`.
        content_type: Media type of the picture; '' where there is none.
        bytes: Size of the picture.
        sha256: Its checksum in hex.
        topic: Where it is published.
        reason: Why there is none although a rule asked for one.

    """

    kind: str = 'none'
    content_type: str = ''
    bytes: int = 0
    sha256: str = ''
    topic: str = ''
    reason: str = ''


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a rule flagged, or its end; made on the stop path, so it checks and formats nothing.

    Attributes:
        id: Unique and sortable, the same over every retry; from `event_id`.
        camera: Name of the camera, unique on the device; '/' allowed.
        rule: Name of the rule, or a built-in cause such as 'no_fresh_image'.
        action: One of `ACTIONS`.
        phase: One of `PHASES`.
        stamp_ns: Capture time of the frame in ns since the epoch.
        device_id: Name of the device; the bridge fills it in where it is ''.
        class_id: Label of the detection; '' where no detection is the cause.
        score: Confidence in 0..1.
        track_id: Track of the detection; '' where there is none.
        bbox: Where it is, in pixels.
        image: Width and height of the camera image in pixels.
        latency_ms: Time per stage in ms: capture_to_infer, infer, decide, capture_to_command.
        evidence: The picture that belongs to it.
        frames: Consecutive frames that completed it; 0 where no frame did.
        zone: Corners of the rule's zone as normalised x, y, x, y and so on; empty: the whole image.
        reason: A sentence for people.
        by: Who asked for it, as far as ROS tells: the nodes that had a client of the service.

    """

    id: str
    camera: str
    rule: str
    action: str
    phase: str
    stamp_ns: int
    device_id: str = ''
    class_id: str = ''
    score: float | None = None
    track_id: str = ''
    bbox: BBox | None = None
    image: tuple[int, int] | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    evidence: Evidence = Evidence()
    frames: int = 0
    zone: tuple[float, ...] = ()
    reason: str = ''
    by: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Write the event as CloudEvents 1.0, JSON structured mode.

        Raises:
            EventError: A number is not finite.

        """
        envelope = {
            'specversion': '1.0',
            'id': self.id,
            'source': f'/{quote(topic_segment(self.device_id))}/{quote(self.camera or "unnamed")}',
            'type': TYPE,
            'subject': self.rule,
            'time': _rfc3339(self.stamp_ns),
            'datacontenttype': 'application/json',
            'data': self._data(),
        }
        try:
            return json.dumps(envelope, separators=(',', ':'), ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            msg = f'event {self.id!r} of rule {self.rule!r} holds a number that is not finite, which JSON cannot carry'
            raise EventError(msg) from error

    def _data(self) -> dict[str, object]:
        bbox, image, evidence = self.bbox, self.image, self.evidence
        return {
            'phase': self.phase,
            'rule': self.rule,
            'action': self.action,
            'class_id': self.class_id,
            'score': None if self.score is None else round(float(self.score), 6),
            'track_id': self.track_id,
            'bbox': None if bbox is None else {name: round(float(v), 3) for name, v in bbox._asdict().items()},
            'image': None if image is None else {'width': int(image[0]), 'height': int(image[1])},
            'stamp_ns': int(self.stamp_ns),
            'latency_ms': {stage: round(float(ms), 3) for stage, ms in self.latency_ms.items()},
            'evidence': {
                'kind': evidence.kind,
                'content_type': evidence.content_type,
                'bytes': evidence.bytes,
                'sha256': evidence.sha256,
                'topic': evidence.topic,
                **({'reason': evidence.reason} if evidence.reason else {}),
            },
            **({'frames': self.frames} if self.frames else {}),
            **({'zone': list(self.zone)} if self.zone else {}),
            **({'reason': self.reason} if self.reason else {}),
            **({'by': list(self.by)} if self.by else {}),
        }

    @classmethod
    def from_json(cls, text: str) -> Event:
        """Read an event that `to_json` wrote.

        Raises:
            EventError: The text is not JSON or not such an event; the message names the field.

        """
        try:
            envelope = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            msg = f'an event must be CloudEvents 1.0 JSON, but the text is not JSON: {error}'
            raise EventError(msg) from error
        fields = _Fields(envelope, 'event')
        fields.one_of('specversion', ('1.0',))
        fields.one_of('type', (TYPE,))
        device_id, camera = _read_source(fields.text('source'))
        data = fields.fields('data')
        return cls(
            id=fields.text('id', minimum=1),
            device_id=device_id,
            camera=camera,
            rule=data.text('rule', minimum=1),
            action=data.one_of('action', ACTIONS),
            phase=data.one_of('phase', PHASES),
            stamp_ns=data.count('stamp_ns'),
            class_id=data.text('class_id'),
            score=data.number('score') if data.has('score') else None,
            track_id=data.text('track_id'),
            bbox=_read_bbox(data.fields('bbox')) if data.has('bbox') else None,
            image=_read_image(data.fields('image')) if data.has('image') else None,
            latency_ms=data.fields('latency_ms').numbers() if data.has('latency_ms') else {},
            evidence=_read_evidence(data.fields('evidence')) if data.has('evidence') else Evidence(),
            frames=data.count('frames') if data.has('frames') else 0,
            zone=tuple(float(v) for v in data.list_of('zone', (int, float))) if data.has('zone') else (),
            reason=data.text('reason') if data.has('reason') else '',
            by=tuple(data.list_of('by', (str,))) if data.has('by') else (),
        )

    def with_picture(self, picture: bytes, topic: str) -> Event:
        """Complete the evidence with a JPEG and the topic it will be published on."""
        digest = hashlib.sha256(picture).hexdigest()
        evidence = Evidence(self.evidence.kind, 'image/jpeg', len(picture), digest, topic)
        return replace(self, evidence=evidence)

    def without_picture(self, reason: str) -> Event:
        """Say honestly that there is no picture, and why."""
        return replace(self, evidence=Evidence(reason=reason))


def default_device_id() -> str:
    """Name this device by its host name."""
    return topic_segment(socket.gethostname())


def topic_segment(text: str) -> str:
    """Make one level of an MQTT topic from any text: no '/', no wildcards, no control characters."""
    return _NOT_IN_A_TOPIC.sub('_', text) or 'unnamed'


def event_id(time_ns: int) -> str:
    """Make an id for an event of this time: a UUIDv7 that sorts after all earlier ones of this process.

    Args:
        time_ns: Time in ns since the epoch that the id shall sort by.

    """
    return _ids.next(time_ns)


class _IdSource:
    """Counts up within one millisecond, and where the clock steps back, so that order is creation order."""

    _TAIL_BITS = 74  # rand_a and rand_b of RFC 9562, used as one number

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, time_ns: int) -> str:
        """Make the next id."""
        with self._lock:
            # The tail starts below half of its range: that leaves room to count before it reaches the time.
            fresh = time_ns // 1_000_000 << self._TAIL_BITS | secrets.randbits(self._TAIL_BITS - 1)
            value = fresh if fresh > self._last else self._last + 1 + secrets.randbits(32)
            self._last = value
        milliseconds, tail = value >> self._TAIL_BITS, value & (1 << self._TAIL_BITS) - 1
        bits = milliseconds << 80 | 0x7 << 76 | tail >> 62 << 64 | 0b10 << 62 | tail & (1 << 62) - 1
        digits = f'{bits:032x}'
        return f'{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}'


_ids = _IdSource()


class _Fields:
    """A JSON object read field by field, with an error that names the field."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            msg = f'{path} is {value!r:.60}, expected a JSON object as edge_vision writes it'
            raise EventError(msg)
        self._value: dict[str, Any] = value
        self._path = path

    def has(self, name: str) -> bool:
        return self._value.get(name) is not None

    def fields(self, name: str) -> _Fields:
        return _Fields(self._value.get(name), f'{self._path}.{name}')

    def text(self, name: str, minimum: int = 0) -> str:
        value = self._value.get(name)
        if not isinstance(value, str) or len(value) < minimum:
            self._refuse(name, 'a text')
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in choices:
            self._refuse(name, f'one of {list(choices)}')
        return value

    def count(self, name: str) -> int:
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            self._refuse(name, 'a whole number from 0')
        return value

    def number(self, name: str) -> float:
        value = self._value.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1e12 < value < 1e12:
            self._refuse(name, 'a number within ±1e12')
        return float(value)

    def list_of(self, name: str, types: tuple[type, ...]) -> list[Any]:
        value = self._value.get(name)
        if not isinstance(value, list) or not all(isinstance(item, types) for item in value):
            self._refuse(name, f'a list of {" or ".join(t.__name__ for t in types)}')
        return value

    def numbers(self) -> dict[str, float]:
        return {name: self.number(name) for name in self._value}

    def _refuse(self, name: str, expected: str) -> NoReturn:
        msg = f'{self._path}.{name} is {self._value.get(name)!r:.60}, expected {expected}'
        raise EventError(msg)


def _refuse_constant(name: str) -> NoReturn:
    msg = f'{name} is no JSON number'
    raise ValueError(msg)


def _read_source(source: str) -> tuple[str, str]:
    parts = source.split('/', 2)
    if len(parts) != 3 or parts[0] or not parts[1] or not parts[2]:
        msg = f"event.source is {source!r:.60}, expected '/<device_id>/<camera>'"
        raise EventError(msg)
    return unquote(parts[1]), unquote(parts[2])


def _read_bbox(fields: _Fields) -> BBox:
    return BBox(*(fields.number(name) for name in BBox._fields))


def _read_image(fields: _Fields) -> tuple[int, int]:
    return fields.count('width'), fields.count('height')


def _read_evidence(fields: _Fields) -> Evidence:
    return Evidence(
        kind=fields.one_of('kind', EVIDENCE_KINDS),
        content_type=fields.text('content_type') if fields.has('content_type') else '',
        bytes=fields.count('bytes') if fields.has('bytes') else 0,
        sha256=fields.text('sha256') if fields.has('sha256') else '',
        topic=fields.text('topic') if fields.has('topic') else '',
        reason=fields.text('reason') if fields.has('reason') else '',
    )


def _rfc3339(stamp_ns: int) -> str:
    seconds, rest_ns = divmod(int(stamp_ns), 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f'{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z'
