"""What to do about what was seen, and about seeing nothing: pure, no clock, no I/O.

A `Decision` is fed observations and the time, and answers with an `Outcome`. Every reason to
act is a `Cause` with a life of its own; the most restrictive of those that hold is commanded.
Silence is danger: a source starts as unseen, and falls back to it when its newest image is older
than ``source_timeout``, when its pictures stop changing or show nothing; only fresh frames in a row lift that.
Commands follow from causes, which know nothing of tracks: a tracker that errs tells an event too many or
too few, and stops all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from .causes import BLIND, BLINDED, BUILT_IN, FROZEN, NO_FRESH_IMAGE, OPERATOR_STOP, STARTING
from .detections import Detections
from .params import DecisionParams
from .rules import Action, Rule, RuleBook, camera_of
from .watch import Watch

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
        name: The rule, or ``starting``, ``no_fresh_image``, ``frozen``, ``blinded``, ``operator_stop``.
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
class Sighting:
    """One object that a rule is about, for as long as there is an event about it.

    Attributes:
        cause: The cause that it belongs to.
        box: Its index in the frame it was told with.
        track_id: Its track; '' where there is none.
        class_id: Its label in that frame.
        frames: Consecutive frames it matched until then.

    """

    cause: Cause
    box: int
    track_id: str
    class_id: str
    frames: int


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Answer to one observation or tick.

    Attributes:
        command: What is commanded from now on.
        started: Causes that began.
        ended: Causes that ended.
        appeared: Objects to tell of that are there, the first of a cause with the cause.
        left: Objects told of that are gone, the last of a cause with the cause.
        flagged: Indices of the observed detections that a rule in force matched.
        fresh: Whether the observation counted as a fresh look at the scene.

    """

    command: Command
    started: tuple[Cause, ...] = ()
    ended: tuple[Cause, ...] = ()
    appeared: tuple[Sighting, ...] = ()
    left: tuple[Sighting, ...] = ()
    flagged: NDArray[np.intp] = dataclasses.field(default_factory=lambda: NO_BOXES)
    fresh: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.started or self.ended or self.appeared or self.left)


@dataclasses.dataclass(slots=True)
class _Quality:
    """A quality that pictures must have: when one last had it, and how many in a row have."""

    good_ns: int | None = None
    good: int = 0

    def look(self, captured_ns: int, *, good: bool) -> None:
        """Note one picture; the first one starts the clock."""
        if good or self.good_ns is None:
            self.good_ns = captured_ns
        self.good = self.good + 1 if good else 0

    def missing_ns(self, newest_ns: int) -> int:
        """Return for how long pictures have been without it."""
        return 0 if self.good_ns is None else newest_ns - self.good_ns


@dataclasses.dataclass(slots=True)
class _Source:
    captured_ns: int | None = None
    stamp_ns: int | None = None
    fresh: int = 0
    changing: _Quality = dataclasses.field(default_factory=_Quality)
    showing: _Quality = dataclasses.field(default_factory=_Quality)
    has_pictures: bool = False
    watches: dict[str, Watch] = dataclasses.field(default_factory=dict)

    def begin_again(self) -> None:
        """Let every run of good frames start anew."""
        self.fresh = self.changing.good = self.showing.good = 0
        for watch in self.watches.values():
            watch.clear = 0

    def go_silent(self) -> None:
        """Begin again, and leave the pictures before the silence out of account."""
        self.begin_again()
        self.changing, self.showing, self.has_pictures = _Quality(), _Quality(), False


@dataclasses.dataclass(slots=True)
class _Change:
    """What one call brings about."""

    started: list[Cause] = dataclasses.field(default_factory=list)
    ended: list[Cause] = dataclasses.field(default_factory=list)
    appeared: list[Sighting] = dataclasses.field(default_factory=list)
    left: list[Sighting] = dataclasses.field(default_factory=list)


class Decision:
    """Applies rules to observations of one or more sources.

    Times are integers in ns on one clock of the caller's that never jumps.

    Args:
        params: Time-outs and the sources (``detections_topics``).
        rules: The rules in force.
        now_ns: The time now.
        held: Causes that hold from the start, as latches kept over a restart.

    """

    def __init__(self, params: DecisionParams, rules: Sequence[Rule], now_ns: int, held: Iterable[Cause] = ()) -> None:
        self._sources = {topic: _Source() for topic in params.detections_topics}
        self._causes: dict[tuple[str, str, Action], Cause] = {cause.key: cause for cause in held}
        self._told: dict[tuple[str, str, Action], dict[str, Sighting]] = {}
        self._take(params, rules)
        for topic in self._sources:
            reason = f'no {params.release_consecutive_frames} fresh images in a row yet on {topic}'
            cause = Cause(STARTING, topic, 'stop', now_ns, reason)
            self._causes[cause.key] = cause
        self._command = self._arbitrate()

    def _take(self, params: DecisionParams, rules: Sequence[Rule]) -> None:
        self._params = params
        self._book = RuleBook(rules)
        self._timeout_ns = round(params.source_timeout * 1e9)
        self._applied = {topic: self._rules_of(camera_of(topic)) for topic in self._sources}

    def _rules_of(self, camera: str) -> tuple[list[int], list[Rule]]:
        """List the rules that apply to a camera, and their rows in the book."""
        rules = self._book.rules
        rows = [row for row, rule in enumerate(rules) if not rule.params.cameras or camera in rule.params.cameras]
        return rows, [rules[row] for row in rows]

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Everything that holds, oldest first."""
        return tuple(self._causes.values())

    @property
    def kept(self) -> tuple[Cause, ...]:
        """What only a person may let go of: the operator's stop, and what is or will be latched."""
        latching = {rule.name for rule in self._book.rules if rule.params.latch}
        held = self._causes.values()
        return tuple(c for c in held if c.latched or c.name == OPERATOR_STOP or c.name in latching)

    @property
    def command(self) -> Command:
        """What is commanded now."""
        return self._command

    def observe(self, source: str, detections: Detections, captured_ns: int, now_ns: int) -> Outcome:
        """Decide on one frame's detections.

        A frame that is late, from the future, not newer than the last one, or whose picture shows nothing can
        trigger a rule but never helps to release anything. One whose picture is the same as the one before
        says nothing new: it neither helps nor makes a count begin again.

        Args:
            source: The detections topic.
            detections: What was seen, possibly nothing.
            captured_ns: When the frame was captured, on the clock of ``now_ns``.
            now_ns: The time now.

        """
        state = self._sources[source]
        change = _Change()
        self._find_overdue(now_ns, change)
        fresh = self._is_fresh(state, detections.stamp_ns, captured_ns, now_ns)
        if fresh:
            state.captured_ns, state.stamp_ns = captured_ns, detections.stamp_ns
        counts = self._look_at_picture(state, detections, captured_ns) if fresh else False
        if counts:
            state.fresh += 1
        elif counts is False:
            state.begin_again()
        self._judge_pictures(source, state, now_ns, change)
        if state.fresh >= self._params.release_consecutive_frames:
            change.ended += self._held(source, BLIND)
        rows, rules = self._applied[source]
        matches = self._book.match(detections)[rows]
        boxes = np.nonzero(matches)[1].tolist()
        end = 0
        for rule, count in zip(rules, np.count_nonzero(matches, axis=1).tolist(), strict=True):
            start, end = end, end + count
            self._apply(rule, source, state, detections, boxes[start:end], now_ns, change, counts=counts)
        return self._finish(change, flagged=np.flatnonzero(matches.any(axis=0)), fresh=fresh)

    def reject(self, source: str, now_ns: int) -> Outcome:
        """Note that something unusable came from a source: no fresh look, and every clear run starts again."""
        self._sources[source].begin_again()
        return self.tick(now_ns)

    def tick(self, now_ns: int) -> Outcome:
        """Look at the time only: what has not been seen for too long stops."""
        change = _Change()
        self._find_overdue(now_ns, change)
        return self._finish(change)

    def operator_stop(self, hold: bool, now_ns: int) -> Outcome:
        """Begin or end the operator's stop."""
        cause = Cause(OPERATOR_STOP, '', 'stop', now_ns, 'the operator stopped it')
        if hold and cause.key not in self._causes:
            return self._finish(_Change(started=[cause]))
        if not hold and cause.key in self._causes:
            return self._finish(_Change(ended=[self._causes[cause.key]]))
        return Outcome(self._command)

    def reset(self) -> Outcome:
        """Let go of everything that only its latch holds, unless something else holds a stop.

        While a person stands in one zone, the stop of another one is not let go of: the machine would start
        by itself when the person leaves.
        """
        if any(cause.action == 'stop' and not cause.latched for cause in self._causes.values()):
            return Outcome(self._command)
        return self._finish(_Change(ended=[cause for cause in self._causes.values() if cause.latched]))

    def configure(self, params: DecisionParams, rules: Sequence[Rule]) -> Outcome:
        """Take other parameters and rules; causes of rules that are gone end, all others go on.

        A latched cause is ended by `reset` only, whatever becomes of its rule.
        """
        latching = {rule.name for rule in self._book.rules if rule.params.latch}
        self._take(params, rules)
        change = _Change()
        for key, cause in list(self._causes.items()):
            if cause.name in BUILT_IN or cause.latched or self._is_asked_for(cause):
                continue
            if cause.name in latching:
                self._causes[key] = dataclasses.replace(cause, latched=True)
            else:
                change.ended.append(cause)
            for state in self._sources.values():
                state.watches.pop(cause.name, None)
        names = {rule.name for rule in self._book.rules}
        for state in self._sources.values():
            state.watches = {name: watch for name, watch in state.watches.items() if name in names}
        outcome = self._finish(change)
        self._command = self._arbitrate()  # a slowdown may have got another ratio
        return dataclasses.replace(outcome, command=self._command)

    def _is_asked_for(self, cause: Cause) -> bool:
        """Tell whether a rule in force can still hold a cause."""
        _, rules = self._applied.get(cause.source, ([], []))
        return any(rule.name == cause.name and _action(rule) == cause.action for rule in rules)

    def _is_fresh(self, state: _Source, stamp_ns: int, captured_ns: int, now_ns: int) -> bool:
        age_ns = now_ns - captured_ns
        newer = state.captured_ns is None or (captured_ns > state.captured_ns and stamp_ns != state.stamp_ns)
        return newer and 0 <= age_ns <= self._timeout_ns

    def _look_at_picture(self, state: _Source, detections: Detections, captured_ns: int) -> bool | None:
        """Note what the picture of a fresh frame was like.

        Returns:
            Whether the frame counts as a look at the scene; None when it says nothing either way.

        """
        picture = detections.picture
        if picture is None:
            return None if state.has_pictures else True
        state.has_pictures = True
        changed = picture.changed or not self._params.frozen_timeout
        shows = picture.contrast >= self._params.min_contrast or not self._params.blinded_timeout
        state.changing.look(captured_ns, good=changed)
        state.showing.look(captured_ns, good=shows)
        if not shows:
            return False
        return True if changed else None

    def _judge_pictures(self, source: str, state: _Source, now_ns: int, change: _Change) -> None:
        """Begin and end the stops for pictures that do not change or show nothing."""
        for name, quality, timeout in (
            (FROZEN, state.changing, self._params.frozen_timeout),
            (BLINDED, state.showing, self._params.blinded_timeout),
        ):
            missing_ns = quality.missing_ns(state.captured_ns or 0)
            held = self._causes.get((name, source, 'stop'))
            if held is None and timeout and missing_ns > timeout * 1e9:
                what = 'have not changed' if name == FROZEN else 'have shown nothing'
                reason = f'the pictures of {source} {what} for {missing_ns / 1e9:.3f} s, allowed are {timeout} s'
                change.started.append(Cause(name, source, 'stop', now_ns, reason, stamp_ns=state.stamp_ns or 0))
                quality.good = 0
            elif held is not None and (not timeout or quality.good >= self._params.release_consecutive_frames):
                change.ended.append(held)

    def _find_overdue(self, now_ns: int, change: _Change) -> None:
        """Begin the stop of every source whose newest image has become too old."""
        for source, state in self._sources.items():
            if state.captured_ns is None or now_ns - state.captured_ns <= self._timeout_ns:
                continue
            state.go_silent()
            if not self._held(source, BLIND):
                age = (now_ns - state.captured_ns) / 1e9
                reason = f'the newest image of {source} is {age:.3f} s old, allowed are {self._params.source_timeout} s'
                cause = Cause(NO_FRESH_IMAGE, source, 'stop', now_ns, reason, stamp_ns=state.stamp_ns or 0)
                self._causes[cause.key] = cause
                change.started.append(cause)

    def _held(self, source: str, names: Sequence[str]) -> list[Cause]:
        return [cause for cause in self._causes.values() if cause.source == source and cause.name in names]

    def _apply(
        self,
        rule: Rule,
        source: str,
        state: _Source,
        detections: Detections,
        matched: list[int],
        now_ns: int,
        change: _Change,
        *,
        counts: bool | None,
    ) -> None:
        """Count one frame for or against a rule and note what begins and ends by it."""
        watch = state.watches.get(rule.name)
        if watch is None:
            watch = state.watches[rule.name] = Watch()
        key = rule.name, source, _action(rule)
        cause = self._causes.get(key)
        if not matched and cause is None and not watch.seen and not watch.objects:
            return
        tracks = {detections.track_id[i] for i in matched}
        gone = watch.look(tracks, now_ns, rule.params.release_consecutive_frames if counts else None)
        if gone:
            self._let_go(key, gone, change)
        there = matched
        if cause is None and rule.params.dwell_time:
            dwell_ns = round(rule.params.dwell_time * 1e9)
            there = [i for i in matched if watch.stayed(detections.track_id[i], dwell_ns, now_ns)]
        if there and len(there) >= rule.params.min_detections:
            watch.seen, watch.clear = watch.seen + 1, 0
            cause = self._hold(rule, source, cause, detections, there, watch.seen, now_ns, change)
            if cause is not None:
                self._tell(rule, cause, detections, there, tracks, watch, now_ns, change)
        elif counts:
            watch.seen, watch.clear = 0, watch.clear + 1
            if cause is not None and not cause.latched and watch.clear >= rule.params.release_consecutive_frames:
                self._release(rule, cause, change)

    def _hold(
        self,
        rule: Rule,
        source: str,
        cause: Cause | None,
        detections: Detections,
        there: list[int],
        seen: int,
        now_ns: int,
        change: _Change,
    ) -> Cause | None:
        """Begin the cause of a rule that has been seen often enough, or keep it."""
        if cause is None:
            if seen < rule.params.trigger_consecutive_frames:
                return None
            cause = _triggered(rule, source, detections, there, seen, now_ns)
            change.started.append(cause)
        elif cause.latched:
            cause = self._causes[cause.key] = dataclasses.replace(cause, latched=False)
        return cause

    def _release(self, rule: Rule, cause: Cause, change: _Change) -> None:
        if rule.params.latch:
            self._causes[cause.key] = dataclasses.replace(cause, latched=True)
        else:
            change.ended.append(cause)

    def _tell(
        self,
        rule: Rule,
        cause: Cause,
        detections: Detections,
        there: list[int],
        tracks: set[str],
        watch: Watch,
        now_ns: int,
        change: _Change,
    ) -> None:
        """Note the objects there is no event about yet, the best first."""
        told = self._told.setdefault(cause.key, {})
        if tracks <= told.keys():
            return
        for i in sorted(there, key=lambda i: -float(detections.score[i])):
            track = detections.track_id[i]
            first = not told and i == cause.box and cause in change.started
            if track in told or not watch.may_tell(track, rule.params, now_ns, first=first):
                continue
            watch.told_ns = now_ns
            told[track] = Sighting(cause, i, track, detections.class_id[i], watch.frames(track))
            change.appeared.append(told[track])
        self._let_go(cause.key, [track for track in told if track not in watch.objects], change)

    def _let_go(self, key: tuple[str, str, Action], tracks: list[str], change: _Change) -> None:
        """Note the objects that are gone; the last one of a cause goes with the cause."""
        told = self._told.get(key, {})
        for track in tracks:
            if track in told and len(told) > 1:
                change.left.append(told.pop(track))

    def _finish(self, change: _Change, *, flagged: NDArray[np.intp] = NO_BOXES, fresh: bool = False) -> Outcome:
        for cause in change.started:
            self._causes[cause.key] = cause
        for cause in change.ended:
            del self._causes[cause.key]
            change.left += self._told.pop(cause.key, {}).values()
        if change.started or change.ended:
            self._command = self._arbitrate()
        return Outcome(
            self._command,
            tuple(change.started),
            tuple(change.ended),
            tuple(change.appeared),
            tuple(change.left),
            flagged,
            fresh,
        )

    def _arbitrate(self) -> Command:
        held = self._causes.values()
        stop = any(cause.action == 'stop' for cause in held)
        slow = [self._ratio(cause) for cause in held if cause.action == 'slowdown']
        alarm = any(cause.action == 'alarm' for cause in held)
        return Command(stop, alarm, 0.0 if stop else min(slow, default=1.0))

    def _ratio(self, cause: Cause) -> float:
        return next((r.params.slowdown_ratio for r in self._book.rules if r.name == cause.name), 0.0)


def _triggered(rule: Rule, source: str, detections: Detections, there: list[int], frames: int, now_ns: int) -> Cause:
    best = max(there, key=lambda i: float(detections.score[i]))
    reason = f'{detections.class_id[best]} {detections.score[best]:.2f} in {rule.name}, {frames} frames in a row'
    return Cause(rule.name, source, _action(rule), now_ns, reason, detections.stamp_ns, best, frames)


def _action(rule: Rule) -> Action:
    return cast('Action', rule.params.action_type)  # checked by one_of
