"""What to do about what was seen, and about seeing nothing: pure, no clock, no I/O.

A `Decision` is fed observations and the time, and answers with an `Outcome`. Every reason to
act is a `Cause` with a life of its own; the most restrictive of those that hold is commanded.
Silence is danger: a source starts as unseen, and falls back to it when its newest image is older
than ``source_timeout``; only fresh frames in a row lift that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .params import DecisionParams
from .rules import Action, Rule

STARTING = 'starting'
NO_FRESH_IMAGE = 'no_fresh_image'
OPERATOR_STOP = 'operator_stop'
BUILT_IN = (STARTING, NO_FRESH_IMAGE, OPERATOR_STOP)
NO_BOXES: NDArray[np.intp] = np.empty(0, dtype=np.intp)


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What the machine may do.

    Attributes:
        stop: It must not move.
        alarm: Somebody must be told.
        speed_ratio: Share of the commanded speed that is let through, 0 while ``stop``.

    """

    stop: bool
    alarm: bool
    speed_ratio: float


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """One reason to act.

    Attributes:
        name: The rule, or ``starting``, ``no_fresh_image``, ``operator_stop``.
        source: The camera's detections topic; '' for the operator.
        action: What it asks for.
        since_ns: When it began, on the caller's clock.
        reason: A sentence for people.
        stamp_ns: Capture time of the frame that completed it; 0 where no frame did.
        box: Index of the best detection of that frame; -1 where there is none.
        frames: Consecutive frames that completed it.
        latched: Nothing holds it any more but its latch.

    """

    name: str
    source: str
    action: Action
    since_ns: int
    reason: str
    stamp_ns: int = 0
    box: int = -1
    frames: int = 0
    latched: bool = False

    @property
    def key(self) -> tuple[str, str, Action]:
        """What makes two causes the same: name, source and action."""
        return self.name, self.source, self.action


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Answer to one observation or tick.

    Attributes:
        command: What is commanded from now on.
        started: Causes that began.
        ended: Causes that ended.
        flagged: Indices of the observed detections that a rule in force matched.
        fresh: Whether the observation counted as a fresh look at the scene.

    """

    command: Command
    started: tuple[Cause, ...] = ()
    ended: tuple[Cause, ...] = ()
    flagged: NDArray[np.intp] = dataclasses.field(default_factory=lambda: NO_BOXES)
    fresh: bool = False

    @property
    def changed(self) -> bool:
        """Whether any cause began or ended."""
        return bool(self.started or self.ended)


@dataclasses.dataclass(slots=True)
class _Streak:
    """Consecutive frames for and against one rule on one source."""

    seen: int = 0
    clear: int = 0


@dataclasses.dataclass(slots=True)
class _Source:
    captured_ns: int | None = None
    stamp_ns: int | None = None
    fresh: int = 0
    streaks: dict[str, _Streak] = dataclasses.field(default_factory=dict)


class Decision:
    """Applies rules to observations of one or more sources.

    Times are integers in ns on one clock of the caller's that never jumps.

    Args:
        params: Time-outs and the sources (``detections_topics``).
        rules: The rules in force.
        now_ns: The time now.

    """

    def __init__(self, params: DecisionParams, rules: Sequence[Rule], now_ns: int) -> None:
        self._params = params
        self._rules = tuple(rule for rule in rules if rule.params.enabled)
        self._sources = {topic: _Source() for topic in params.detections_topics}
        self._causes: dict[tuple[str, str, Action], Cause] = {}
        for topic in self._sources:
            reason = f'no {params.release_consecutive_frames} fresh images in a row yet on {topic}'
            cause = Cause(STARTING, topic, 'stop', now_ns, reason)
            self._causes[cause.key] = cause
        self._command = self._arbitrate()

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Everything that holds, oldest first."""
        return tuple(self._causes.values())

    @property
    def command(self) -> Command:
        """What is commanded now."""
        return self._command

    def observe(self, source: str, detections: Detections, captured_ns: int, now_ns: int) -> Outcome:
        """Decide on one frame's detections.

        A frame that is late, from the future, or not newer than the last one can trigger a rule but never
        helps to release anything.

        Args:
            source: The detections topic.
            detections: What was seen, possibly nothing.
            captured_ns: When the frame was captured, on the clock of ``now_ns``.
            now_ns: The time now.

        """
        state = self._sources[source]
        overdue = self._overdue(now_ns)
        fresh = self._is_fresh(state, detections.stamp_ns, captured_ns, now_ns)
        if fresh:
            state.captured_ns, state.stamp_ns = captured_ns, detections.stamp_ns
            state.fresh += 1
        else:
            state.fresh = 0
        started: list[Cause] = []
        ended = self._see_again(source, state)
        matched = [
            self._apply(rule, source, state, detections, now_ns, started, ended, fresh=fresh) for rule in self._rules
        ]
        flagged = np.unique(np.concatenate(matched)) if matched else NO_BOXES
        return self._finish(overdue + started, ended, flagged=flagged, fresh=fresh)

    def reject(self, source: str, now_ns: int) -> Outcome:
        """Note that something unusable came from a source: no fresh look, and every clear run starts again."""
        state = self._sources[source]
        state.fresh = 0
        for streak in state.streaks.values():
            streak.clear = 0
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> Outcome:
        """Look at the time only: what has not been seen for too long stops."""
        return self._finish(self._overdue(now_ns), [])

    def operator_stop(self, hold: bool, now_ns: int) -> Outcome:
        """Begin or end the operator's stop."""
        cause = Cause(OPERATOR_STOP, '', 'stop', now_ns, 'the operator stopped it')
        if hold and cause.key not in self._causes:
            return self._finish([cause], [])
        if not hold and cause.key in self._causes:
            return self._finish([], [self._causes[cause.key]])
        return Outcome(self._command)

    def reset(self) -> Outcome:
        """Let go of causes that only their latch holds."""
        return self._finish([], [cause for cause in self._causes.values() if cause.latched])

    def configure(self, params: DecisionParams, rules: Sequence[Rule]) -> Outcome:
        """Take other parameters and rules; causes of rules that are gone end, all others go on.

        A latched cause is ended by `reset` only, whatever becomes of its rule.
        """
        latching = {rule.name for rule in self._rules if rule.params.latch}
        self._params = params
        self._rules = tuple(rule for rule in rules if rule.params.enabled)
        actions = {rule.name: rule.params.action_type for rule in self._rules}
        ended = []
        for key, cause in list(self._causes.items()):
            if cause.name in BUILT_IN or cause.latched or actions.get(cause.name) == cause.action:
                continue
            if cause.name in latching:
                self._causes[key] = dataclasses.replace(cause, latched=True)
            else:
                ended.append(cause)
            for state in self._sources.values():
                state.streaks.pop(cause.name, None)
        return self._finish([], ended)

    def _is_fresh(self, state: _Source, stamp_ns: int, captured_ns: int, now_ns: int) -> bool:
        age_ns = now_ns - captured_ns
        newer = state.captured_ns is None or (captured_ns > state.captured_ns and stamp_ns != state.stamp_ns)
        return newer and 0 <= age_ns <= self._timeout_ns

    @property
    def _timeout_ns(self) -> int:
        return round(self._params.source_timeout * 1e9)

    def _see_again(self, source: str, state: _Source) -> list[Cause]:
        return self._blind(source) if state.fresh >= self._params.release_consecutive_frames else []

    def _overdue(self, now_ns: int) -> list[Cause]:
        """Begin the stop of every source whose newest image has become too old."""
        started = []
        for source, state in self._sources.items():
            if state.captured_ns is None or now_ns - state.captured_ns <= self._timeout_ns:
                continue
            state.fresh = 0
            for streak in state.streaks.values():
                streak.clear = 0
            if not self._blind(source):
                age = (now_ns - state.captured_ns) / 1e9
                reason = f'the newest image of {source} is {age:.3f} s old, allowed are {self._params.source_timeout} s'
                cause = Cause(NO_FRESH_IMAGE, source, 'stop', now_ns, reason, stamp_ns=state.stamp_ns or 0)
                self._causes[cause.key] = cause
                started.append(cause)
        return started

    def _blind(self, source: str) -> list[Cause]:
        """List what holds because nothing fresh was seen on a source."""
        names = (STARTING, NO_FRESH_IMAGE)
        return [cause for cause in self._causes.values() if cause.source == source and cause.name in names]

    def _apply(
        self,
        rule: Rule,
        source: str,
        state: _Source,
        detections: Detections,
        now_ns: int,
        started: list[Cause],
        ended: list[Cause],
        *,
        fresh: bool,
    ) -> NDArray[np.intp]:
        """Count one frame for or against a rule and note what begins and ends by it."""
        found = rule.matches(detections)
        streak = state.streaks.setdefault(rule.name, _Streak())
        held = self._causes.get((rule.name, source, _action(rule)))
        if len(found):
            streak.seen, streak.clear = streak.seen + 1, 0
            if held is None and streak.seen >= rule.params.trigger_consecutive_frames:
                started.append(_triggered(rule, source, detections, found, streak.seen, now_ns))
            elif held is not None and held.latched:
                self._causes[held.key] = dataclasses.replace(held, latched=False)
            return found
        if not fresh:
            streak.clear = 0
            return found
        streak.seen, streak.clear = 0, streak.clear + 1
        if held is not None and not held.latched and streak.clear >= rule.params.release_consecutive_frames:
            if rule.params.latch:
                self._causes[held.key] = dataclasses.replace(held, latched=True)
            else:
                ended.append(held)
        return found

    def _finish(
        self,
        started: list[Cause],
        ended: list[Cause],
        *,
        flagged: NDArray[np.intp] = NO_BOXES,
        fresh: bool = False,
    ) -> Outcome:
        for cause in started:
            self._causes[cause.key] = cause
        for cause in ended:
            del self._causes[cause.key]
        self._command = self._arbitrate()
        return Outcome(self._command, tuple(started), tuple(ended), flagged, fresh)

    def _arbitrate(self) -> Command:
        held = self._causes.values()
        stop = any(cause.action == 'stop' for cause in held)
        slow = [self._ratio(cause) for cause in held if cause.action == 'slowdown']
        alarm = any(cause.action == 'alarm' for cause in held)
        return Command(stop, alarm, 0.0 if stop else min(slow, default=1.0))

    def _ratio(self, cause: Cause) -> float:
        return next((r.params.slowdown_ratio for r in self._rules if r.name == cause.name), 0.0)


def _triggered(
    rule: Rule, source: str, detections: Detections, found: NDArray[np.intp], frames: int, now_ns: int
) -> Cause:
    best = int(found[np.argmax(detections.score[found])])
    reason = f'{detections.class_id[best]} {detections.score[best]:.2f} in {rule.name}, {frames} frames in a row'
    return Cause(rule.name, source, _action(rule), now_ns, reason, detections.stamp_ns, best, frames)


def _action(rule: Rule) -> Action:
    return cast('Action', rule.params.action_type)  # checked by one_of
