"""Tells what was decided and why: as events, and as the facts of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .decision import Cause
from .detections import Detections, InferenceTimes
from .events import BBox, Event, Evidence, event_id
from .frames import Frame


class Look(NamedTuple):
    """One frame's detections as they reached the decision, kept for what is told afterwards.

    Attributes:
        source: The detections topic.
        detections: What was found.
        frame: The picture, where this process has it.
        times: What came before the decision, where the detector is in this process.
        age_ns: From the capture to the start of the decision.
        decide_ns: The decision and its commands.

    """

    source: str
    detections: Detections
    frame: Frame | None
    times: InferenceTimes | None
    age_ns: int
    decide_ns: int

    @property
    def capture_to_command_ms(self) -> float:
        """From the capture until the commands were published."""
        return (self.age_ns + self.decide_ns) / 1e6


def latency_ms(look: Look, times: InferenceTimes | None) -> dict[str, float]:
    """List the time each stage took; without those of the detector where nobody knows them."""
    latency = {'decide': look.decide_ns / 1e6, 'capture_to_command': look.capture_to_command_ms}
    if times is None:
        return latency
    return {'capture_to_infer': times.capture_to_infer_ns / 1e6, 'infer': times.infer_ns / 1e6, **latency}


def begin_event(cause: Cause, look: Look | None, *, camera: str, device_id: str, now_ns: int, evidence: str) -> Event:
    """Tell that a cause began.

    Args:
        cause: The cause.
        look: The frame that completed it; None where none did.
        camera: Name of the camera.
        device_id: Name of the device.
        now_ns: Time of an event without a frame, in ns since the epoch.
        evidence: The picture asked for: none, crop or frame.

    """
    told = _event('new', cause, look, camera=camera, device_id=device_id, now_ns=now_ns)
    if look is None or cause.box < 0:
        return told
    found, i = look.detections, cause.box
    bbox = BBox.from_xyxy(*found.xyxy[i].tolist())
    return replace(
        told,
        class_id=found.class_id[i],
        score=float(found.score[i]),
        track_id=found.track_id[i],
        bbox=bbox,
        evidence=Evidence(evidence),
    )


def end_event(cause: Cause, look: Look | None, *, camera: str, device_id: str, now_ns: int) -> Event:
    """Tell that a cause ended; see `begin_event`."""
    return _event('end', cause, look, camera=camera, device_id=device_id, now_ns=now_ns)


def _event(phase: str, cause: Cause, look: Look | None, *, camera: str, device_id: str, now_ns: int) -> Event:
    stamp_ns = now_ns if look is None else look.detections.stamp_ns
    return Event(
        id=event_id(stamp_ns),
        device_id=device_id,
        camera=camera,
        rule=cause.name,
        action=cause.action,
        phase=phase,
        stamp_ns=stamp_ns,
        image=None if look is None else look.detections.image_size,
        latency_ms={} if look is None else latency_ms(look, look.times),
    )


def summary(causes: Sequence[Cause]) -> str:
    """Name everything that holds in one line."""
    return '; '.join(f'{cause.action}: {cause.name}' for cause in causes) or 'running'


def facts_of(cause: Cause, look: Look | None, now_ns: int) -> Mapping[str, object]:
    """List what is known of a cause, for the state.

    Args:
        cause: A cause that holds.
        look: The frame that completed it, where one did.
        now_ns: The time now, on the clock of ``cause.since_ns``.

    Returns:
        Facts by name, each behind the cause and its source.

    """
    prefix = f'{cause.name}@{cause.source}' if cause.source else cause.name
    facts: dict[str, object] = {
        'action': cause.action,
        'reason': cause.reason,
        'held_s': (now_ns - cause.since_ns) / 1e9,
        'latched': cause.latched,
    }
    if look is not None:
        found, i = look.detections, cause.box
        facts['stamp_ns'] = cause.stamp_ns
        facts['frames'] = cause.frames
        facts['class_id'] = found.class_id[i]
        facts['score'] = float(found.score[i])
        facts['xyxy'] = [round(float(v), 1) for v in found.xyxy[i]]
        facts['capture_to_command_ms'] = look.capture_to_command_ms
    return {f'{prefix}.{key}': value for key, value in facts.items()}
