"""Tells what was decided and why: as events, and as the facts of the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from .causes import OPERATOR_RESET
from .decision import Cause, Sighting, sentence
from .detections import Detections, InferenceTimes
from .events import BBox, Event, Evidence, event_id
from .frames import Frame
from .rules import RuleParams


class Look(NamedTuple):
    """One frame's detections as they reached the decision, kept for what is told afterwards.

    Attributes:
        source: The detections topic.
        detections: What was found.
        frame: The picture, where this process has it.
        times: What came before the decision; None where nobody told.
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


class Teller(NamedTuple):
    """Makes the events of one camera.

    Attributes:
        camera: Name of the camera.
        device_id: Name of the device.
        now_ns: Time of an event without a frame, in ns since the epoch.

    """

    camera: str
    device_id: str
    now_ns: int

    def begin(self, cause: Cause, look: Look | None) -> Event:
        """Tell that a cause began that no detection is behind."""
        return replace(self._event('new', cause, look), reason=cause.reason, frames=cause.frames)

    def appear(self, sighting: Sighting, look: Look, rule: RuleParams) -> Event:
        """Tell of an object that a rule is about; the evidence is the picture that the rule asks for."""
        found, i = look.detections, sighting.box
        return replace(
            self._of(sighting, 'new', look),
            score=float(found.score[i]),
            bbox=BBox.from_xyxy(*found.xyxy[i].tolist()),
            evidence=Evidence(rule.evidence),
            frames=sighting.frames,
            zone=rule.points,
            reason=sentence(found, i, sighting.cause.name, sighting.frames),
        )

    def leave(self, sighting: Sighting, look: Look | None) -> Event:
        """Tell that an object is gone that was told of."""
        return self._of(sighting, 'end', look)

    def end(self, cause: Cause, look: Look | None) -> Event:
        """Tell that a cause ended that no detection was behind."""
        return self._event('end', cause, look)

    def reset(self, answer: str, by: Sequence[str]) -> Event:
        """Tell that somebody asked to let go of what is latched, and what the answer was."""
        return replace(self.begin(Cause(OPERATOR_RESET, '', 'flag', 0, answer), None), by=tuple(by))

    def _of(self, sighting: Sighting, phase: str, look: Look | None) -> Event:
        event = self._event(phase, sighting.cause, look)
        return replace(event, class_id=sighting.class_id, track_id=sighting.track_id)

    def _event(self, phase: str, cause: Cause, look: Look | None) -> Event:
        stamp_ns = self.now_ns if look is None else look.detections.stamp_ns
        return Event(
            id=event_id(stamp_ns),
            device_id=self.device_id,
            camera=self.camera,
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


def facts_of(cause: Cause, look: Look | None, zone: Sequence[float], now_ns: int) -> Mapping[str, object]:
    """List what is known of a cause, for the state.

    Args:
        cause: A cause that holds.
        look: The frame that completed it, where one did.
        zone: The zone of its rule.
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
    if cause.stamp_ns:
        facts['stamp_ns'] = cause.stamp_ns
    if look is not None and cause.box >= 0:
        facts.update(_sight(cause, look, zone))
    return {f'{prefix}.{key}': value for key, value in facts.items()}


def _sight(cause: Cause, look: Look, zone: Sequence[float]) -> dict[str, object]:
    found, i = look.detections, cause.box
    return {
        'frame_id': found.frame_id,
        'frames': cause.frames,
        'class_id': found.class_id[i],
        'score': float(found.score[i]),
        'track_id': found.track_id[i],
        'xyxy': [round(float(v), 1) for v in found.xyxy[i]],
        'zone': [round(float(v), 4) for v in zone],
        **{f'{stage}_ms': ms for stage, ms in latency_ms(look, look.times).items()},
    }
