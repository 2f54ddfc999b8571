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
from typing import NamedTuple, cast

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
        latch: It is to be latched once nothing else holds it, whatever becomes of its rule.

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
    latch: bool = False

    @property
    def key(self) -> tuple[str, str, Action]:
        """What makes two causes the same: name, source and action."""
        return self.name, self.source, self.action


class Sighting(NamedTuple):
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


class Outcome(NamedTuple):
    """Answer to one observation or tick.

    Attributes:
        command: What is commanded from now on.
        started: Causes that began.
        ended: Causes that ended.
        appeared: Objects to tell of that are there, the first of a cause with the cause.
        left: Objects told of that are gone, the last of a cause with the cause.
        relatched: Whether a latch engaged, or let itself be held by something again.
        flagged: Indices of the observed detections that a rule in force matched.
        fresh: Whether the observation counted as a fresh look at the scene.

    """

    command: Command
    started: tuple[Cause, ...] = ()
    ended: tuple[Cause, ...] = ()
    appeared: tuple[Sighting, ...] = ()
    left: tuple[Sighting, ...] = ()
    relatched: bool = False
    flagged: NDArray[np.intp] = NO_BOXES
    fresh: bool = False

    @property
    def changed(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.started or self.ended or self.appeared or self.left or self.relatched)


@dataclasses.dataclass(slots=True)
class _Quality:
    """A quality that pictures must have: when one last had it, and how many have had it since it was missed."""

    good_ns: int | None = None
    good: int = 0

    def look(self, captured_ns: int, *, good: bool) -> None:
        """Note one picture; the first one starts the clock."""
        if good or self.good_ns is None:
            self.good_ns = captured_ns
        self.good += good

    def missing_ns(self, newest_ns: int) -> int:
        """Return for how long pictures have been without it."""
        return 0 if self.good_ns is None else newest_ns - self.good_ns


@dataclasses.dataclass(slots=True)
class _Source:
    captured_ns: int | None = None
    stamp_ns: int | None = None
    fresh: int = 0
    expects_pictures: bool = False
    told_ns: int | None = None  # capture time of the newest picture that something is known of
    changing: _Quality = dataclasses.field(default_factory=_Quality)
    showing: _Quality = dataclasses.field(default_factory=_Quality)
    watches: dict[str, Watch] = dataclasses.field(default_factory=dict)
    track_id: tuple[str, ...] = ()  # of a frame's detections
    tracks: set[str] = dataclasses.field(default_factory=set)  # the same

    def begin_again(self) -> None:
        """Let every run of good frames start anew."""
        self.fresh = self.changing.good = self.showing.good = 0
        for watch in self.watches.values():
            watch.clear = 0

    def go_silent(self) -> None:
        """Begin again, and leave the pictures before the silence out of account."""
        self.begin_again()
        self.changing, self.showing = _Quality(), _Quality()


class _Applied(NamedTuple):
    """A rule on one source: the key of its cause, and what it has seen there."""

    rule: Rule
    key: tuple[str, str, Action]
    watch: Watch


class _Noticed(NamedTuple):
    """What a rule matched in a frame, for what there is to tell of it.

    Attributes:
        applied: The rule on its source.
        matched: Indices of the detections that match.
        there: Those that count; all, unless they have to stay for a time first.
        cause: The cause that they hold; None where there is none.
        began: Whether it began with them.
        looked: Whether comings and goings have been noted already.

    """

    applied: _Applied
    matched: list[int]
    there: list[int]
    cause: Cause | None
    began: bool
    looked: bool


@dataclasses.dataclass(slots=True)
class _Step:
    """One call, and what it brings about.

    Attributes:
        now_ns: The time.
        source: The source it is about; '' where it is about none.
        detections: What was seen; None where nothing was looked at.
        counts: Whether that counts as a look at the scene; None when it says nothing either way.
        noticed: What is still to be told.

    """

    now_ns: int
    source: str = ''
    detections: Detections | None = None
    counts: bool | None = False
    started: list[Cause] = dataclasses.field(default_factory=list)
    ended: list[Cause] = dataclasses.field(default_factory=list)
    appeared: list[Sighting] = dataclasses.field(default_factory=list)
    left: list[Sighting] = dataclasses.field(default_factory=list)
    relatched: bool = False
    noticed: list[_Noticed] = dataclasses.field(default_factory=list)

    @property
    def seen(self) -> Detections:
        """The detections of a step that is about a frame."""
        assert self.detections is not None  # noqa: S101
        return self.detections


class Decision:
    """Applies rules to observations of one or more sources.

    Times are integers in ns on one clock of the caller's that does not jump; should it go back all the same, as a
    simulated one can, everything counts as unseen.

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
        self._untold: _Step | None = None
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
        self._applied = {topic: self._rules_of(topic, source) for topic, source in self._sources.items()}

    def _rules_of(self, topic: str, source: _Source) -> tuple[list[int], list[_Applied]]:
        """List the rules that apply to a source, and their rows in the book; what they have seen of it goes on."""
        camera, rules = camera_of(topic), self._book.rules
        rows = [row for row, rule in enumerate(rules) if not rule.params.cameras or camera in rule.params.cameras]
        source.watches = {rules[row].name: source.watches.get(rules[row].name) or Watch() for row in rows}
        for watch in source.watches.values():
            watch.settled = False
        return rows, [
            _Applied(rule, (rule.name, topic, _action(rule)), source.watches[rule.name])
            for rule in (rules[row] for row in rows)
        ]

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Everything that holds, oldest first."""
        return tuple(self._causes.values())

    @property
    def kept(self) -> tuple[Cause, ...]:
        """What only a person may let go of: the operator's stop, and what is or will be latched."""
        return tuple(c for c in self._causes.values() if c.latched or c.latch or c.name == OPERATOR_STOP)

    @property
    def command(self) -> Command:
        """What is commanded now."""
        return self._command

    def expect_pictures(self, source: str) -> None:
        """From now on a frame of a source counts only with what is known of its picture."""
        self._sources[source].expects_pictures = True

    def observe(self, source: str, detections: Detections, captured_ns: int | None, now_ns: int) -> Outcome:
        """Decide on one frame's detections; what there is to tell of them is left to `complete`.

        A frame that is late, from the future, not newer than the last one, or whose picture shows nothing can
        trigger a rule but never helps to release anything. One whose picture is the same as the one before, or
        unknown where it should be known, says nothing new: it neither helps nor makes a count begin again.

        Args:
            source: The detections topic.
            detections: What was seen, possibly nothing.
            captured_ns: When the frame was captured, on the clock of ``now_ns``; None where nobody can tell, which is
                not fresh.
            now_ns: The time now.

        """
        state = self._sources[source]
        step = self._begin(now_ns, source, detections)
        self._find_overdue(step)
        fresh = self._look_if_fresh(state, captured_ns, step)
        if step.counts:
            state.fresh += 1
        elif step.counts is False:
            state.begin_again()
        self._judge_pictures(state, step)
        if state.fresh >= self._params.release_consecutive_frames:
            step.ended += self._blind_to(source)
        rows, applied = self._applied[source]
        matches = self._book.match(detections)
        if len(rows) < len(matches):
            matches = matches[rows]
        rule_of, box_of = matches.nonzero()
        boxes, end = box_of.tolist(), 0
        for rule, count in zip(applied, np.bincount(rule_of, minlength=len(rows)).tolist(), strict=True):
            start, end = end, end + count
            self._apply(rule, boxes[start:end], step)
        self._settle(step)
        self._untold = step
        flagged = matches.any(axis=0).nonzero()[0]
        return self._outcome(step)._replace(appeared=(), left=(), flagged=flagged, fresh=fresh)

    def complete(self, outcome: Outcome) -> Outcome:
        """Add to the outcome of `observe` which objects there are to tell of; commands do not depend on it.

        Whoever commands a machine does that first. What nobody asks for comes with the next outcome of another call
        than `tick`, `reject` and `operator_stop`: beside those three, and no others, it may run in another thread.
        """
        step, self._untold = self._untold, None
        if step is None:
            return outcome
        self._follow_up(step)
        return outcome._replace(appeared=tuple(step.appeared), left=tuple(step.left))

    def reject(self, source: str, now_ns: int) -> Outcome:
        """Note that something unusable came from a source: no fresh look, and every clear run starts again."""
        self._sources[source].begin_again()
        return self.tick(now_ns)

    def tick(self, now_ns: int, stood_ns: int = 0) -> Outcome:
        """Look at the time only: what has not been seen for too long stops.

        Args:
            now_ns: The time now.
            stood_ns: For how long, in real time, it has been that already; a clock that stands makes nothing older.

        """
        step = _Step(now_ns)
        self._find_overdue(step, stood_ns)
        return self._conclude(step)

    def operator_stop(self, hold: bool, now_ns: int) -> Outcome:
        """Begin or end the operator's stop."""
        cause = Cause(OPERATOR_STOP, '', 'stop', now_ns, 'the operator stopped it')
        if hold and cause.key not in self._causes:
            return self._conclude(_Step(now_ns, started=[cause]))
        if not hold and cause.key in self._causes:
            return self._conclude(_Step(now_ns, ended=[self._causes[cause.key]]))
        return Outcome(self._command)

    def reset(self, now_ns: int, stood_ns: int = 0) -> tuple[Outcome, str]:
        """Let go of everything that only its latch holds, unless something else holds a stop.

        While a person stands in one zone, the stop of another one is not let go of: the machine would start
        by itself when the person leaves.

        Args:
            now_ns: The time now.
            stood_ns: As for `tick`.

        Returns:
            The outcome, and why it was refused; '' where it was not.

        """
        step = self._begin(now_ns)
        self._find_overdue(step, stood_ns)
        refusal = self._refusal()
        if not refusal:
            step.ended += [cause for cause in self._causes.values() if cause.latched]
        return self._finish(step), refusal

    def _refusal(self) -> str:
        stops = [cause for cause in self._causes.values() if cause.action == 'stop']
        if holding := [cause for cause in stops if not cause.latched]:
            return 'still held by ' + '; '.join(f'{cause.name}: {cause.reason}' for cause in holding)
        needed = self._params.release_consecutive_frames
        unseen = [source for source, state in self._sources.items() if state.fresh < needed]
        return f'not the last {needed} images of {", ".join(unseen)} were fresh looks' if stops and unseen else ''

    def configure(self, params: DecisionParams, rules: Sequence[Rule]) -> Outcome:
        """Take other parameters and rules; causes of rules that are gone end, all others go on.

        A cause whose rule has got another action goes on with that. A latched one is ended by `reset` only,
        whatever becomes of its rule.
        """
        step = self._begin(0)
        self._take(params, rules)
        for key, cause in list(self._causes.items()):
            if cause.name in BUILT_IN or cause.latched:
                continue
            rule = self._rule_of(cause)
            if rule is not None and _action(rule) == cause.action:
                self._causes[key] = dataclasses.replace(cause, latch=cause.latch or rule.params.latch)
            elif cause.latch:
                self._causes[key] = dataclasses.replace(cause, latched=True)
            else:
                step.ended.append(cause)
            if rule is not None and _action(rule) != cause.action:
                self._go_on(cause, rule, step)
        step.relatched = True
        outcome = self._finish(step)
        self._command = self._arbitrate()  # a slowdown may have got another ratio
        return outcome._replace(command=self._command)

    def _go_on(self, cause: Cause, rule: Rule, step: _Step) -> None:
        """Let a cause go on with the other action of its rule; a latch that holds there already stays one."""
        other = dataclasses.replace(cause, action=_action(rule), latch=rule.params.latch)
        latched = self._causes.get(other.key)
        if latched is None:
            step.started.append(other)
        else:
            self._causes[other.key] = dataclasses.replace(latched, latched=False, latch=True)

    def _rule_of(self, cause: Cause) -> Rule | None:
        """Find the rule in force that can hold a cause, whatever its action."""
        _, applied = self._applied.get(cause.source, ([], []))
        return next((a.rule for a in applied if a.rule.name == cause.name), None)

    def _look_if_fresh(self, state: _Source, captured_ns: int | None, step: _Step) -> bool:
        """Take a frame for a look at the scene if it is a fresh one, and tell whether it is."""
        if captured_ns is None or not self._is_timely(captured_ns, step.now_ns):
            return False
        stamp_ns = step.seen.stamp_ns
        if state.captured_ns is not None and (captured_ns <= state.captured_ns or stamp_ns == state.stamp_ns):
            return False
        state.captured_ns, state.stamp_ns = captured_ns, stamp_ns
        step.counts = self._look_at_picture(state, step.seen, captured_ns)
        return True

    def _is_timely(self, captured_ns: int, now_ns: int) -> bool:
        return 0 <= now_ns - captured_ns <= self._timeout_ns

    def _look_at_picture(self, state: _Source, detections: Detections, captured_ns: int) -> bool | None:
        """Note what the picture of a fresh frame was like, and tell whether it counts as a look at the scene."""
        picture = detections.picture
        if picture is None:
            return None if state.expects_pictures else True
        state.expects_pictures, state.told_ns = True, captured_ns
        changed = picture.changed or not self._params.frozen_timeout
        shows = picture.contrast >= self._params.min_contrast or not self._params.blinded_timeout
        state.changing.look(captured_ns, good=changed)
        state.showing.look(captured_ns, good=shows)
        if not shows:
            return False
        return True if changed else None

    def _judge_pictures(self, state: _Source, step: _Step) -> None:
        """Begin and end the stops for pictures that do not change or show nothing."""
        for name, quality, timeout in (
            (FROZEN, state.changing, self._params.frozen_timeout),
            (BLINDED, state.showing, self._params.blinded_timeout),
        ):
            missing_ns = quality.missing_ns(state.captured_ns or 0)
            held = self._causes.get((name, step.source, 'stop'))
            if held is None and timeout and missing_ns > timeout * 1e9:
                fault = 'have not changed' if name == FROZEN else 'have shown nothing'
                fault = fault if state.told_ns == state.captured_ns else 'are unknown or ' + fault
                reason = f'the pictures of {step.source} {fault} for {missing_ns / 1e9:.3f} s, allowed are {timeout} s'
                cause = Cause(name, step.source, 'stop', step.now_ns, reason, stamp_ns=state.stamp_ns or 0)
                step.started.append(cause)
                quality.good = 0
            elif held is not None and quality.good >= self._params.release_consecutive_frames:
                step.ended.append(held)

    def _find_overdue(self, step: _Step, stood_ns: int = 0) -> None:
        """Begin the stop of every source whose newest image is too old, or of an age that nobody can tell any more."""
        stands = stood_ns > self._timeout_ns
        for source, state in self._sources.items():
            if state.captured_ns is None or (not stands and self._is_timely(state.captured_ns, step.now_ns)):
                continue
            state.go_silent()
            age = (step.now_ns - state.captured_ns) / 1e9
            if not self._blind_to(source):
                reason = f'the newest image of {source} is {age:.3f} s old'
                if stands:
                    reason += f' on a simulated clock that has stood for {stood_ns / 1e9:.3f} s'
                reason += f', allowed are {self._params.source_timeout} s'
                cause = Cause(NO_FRESH_IMAGE, source, 'stop', step.now_ns, reason, stamp_ns=state.stamp_ns or 0)
                self._causes[cause.key] = cause
                step.started.append(cause)
            if age < 0:  # time went back: what comes from now on is new
                state.captured_ns = state.stamp_ns = None

    def _blind_to(self, source: str) -> list[Cause]:
        held = (self._causes.get((name, source, 'stop')) for name in BLIND)
        return [cause for cause in held if cause is not None]

    def _apply(self, applied: _Applied, matched: list[int], step: _Step) -> None:
        """Count one frame for or against a rule and note what begins and ends by it."""
        rule, key, watch = applied
        cause = self._causes.get(key)
        if not matched and cause is None and not watch.seen and not watch.objects:
            return
        there, held, began, looked = matched, None, False, False
        if cause is None and rule.params.dwell_time:
            self._look(applied, self._tracks(matched, step), step)
            there, looked = self._stayed(rule, watch, matched, step), True
        if there and len(there) >= rule.params.min_detections:
            watch.seen, watch.clear = watch.seen + 1, 0
            held = self._hold(rule, cause, there, watch.seen, step)
            began = cause is None
        elif step.counts:
            watch.seen, watch.clear = 0, watch.clear + 1
            if cause is not None and not cause.latched and watch.clear >= rule.params.release_consecutive_frames:
                self._release(cause, step)
        step.noticed.append(_Noticed(applied, matched, there, held, began, looked))

    def _hold(self, rule: Rule, cause: Cause | None, there: list[int], seen: int, step: _Step) -> Cause | None:
        """Begin the cause of a rule that has been seen often enough, or keep it."""
        if cause is None:
            if seen < rule.params.trigger_consecutive_frames:
                return None
            cause = _triggered(rule, there, seen, step)
            step.started.append(cause)
        elif cause.latched:
            cause = self._causes[cause.key] = dataclasses.replace(cause, latched=False, latch=True)
            step.relatched = True
        return cause

    def _release(self, cause: Cause, step: _Step) -> None:
        if cause.latch:
            self._causes[cause.key] = dataclasses.replace(cause, latched=True)
            step.relatched = True
        else:
            step.ended.append(cause)

    def _begin(self, now_ns: int, source: str = '', detections: Detections | None = None) -> _Step:
        """Begin a step; what nobody has asked for since the last frame comes with it."""
        step, before = _Step(now_ns, source, detections), self._untold
        if before is not None:
            self._untold = None
            self._follow_up(before)
            step.appeared, step.left = before.appeared, before.left
        return step

    def _follow_up(self, step: _Step) -> None:
        """Note the objects there is to tell of: those that came and went, and the last of the causes that ended."""
        for noticed in step.noticed:
            tracks = self._tracks(noticed.matched, step)
            if not noticed.looked:
                self._look(noticed.applied, tracks, step)
            if noticed.cause is not None:
                self._tell(noticed, noticed.cause, tracks, step)
        for cause in step.ended:
            step.left += self._told.pop(cause.key, {}).values()

    def _tracks(self, matched: list[int], step: _Step) -> set[str]:
        """Collect the tracks of detections; those of all detections of a frame once."""
        found, source = step.seen, self._sources[step.source]
        if len(matched) < len(found):
            return set(map(found.track_id.__getitem__, matched))
        if found.track_id != source.track_id:
            source.track_id, source.tracks = found.track_id, set(found.track_id)
        return source.tracks

    def _stayed(self, rule: Rule, watch: Watch, matched: list[int], step: _Step) -> list[int]:
        """Keep the detections of objects that have matched for as long as the rule asks for."""
        dwell_ns, ids = round(rule.params.dwell_time * 1e9), step.seen.track_id
        return [i for i in matched if watch.stayed(ids[i], dwell_ns, step.now_ns)]

    def _look(self, applied: _Applied, tracks: set[str], step: _Step) -> None:
        """Note which objects come and go."""
        patience = applied.rule.params.release_consecutive_frames if step.counts else None
        gone = applied.watch.look(tracks, step.now_ns, patience)
        if gone:
            self._let_go(applied.key, gone, step)

    def _tell(self, noticed: _Noticed, cause: Cause, tracks: set[str], step: _Step) -> None:
        """Note the objects there is no event about yet, the best first."""
        rule, key, watch = noticed.applied
        if watch.settled and not noticed.began:
            return
        told = self._told.setdefault(key, {})
        watch.settled = tracks <= told.keys()
        if watch.settled:
            return
        found = step.seen
        untold = [i for i in noticed.there if found.track_id[i] not in told]
        if len(untold) > 1:
            untold.sort(key=lambda i: -float(found.score[i]))
        for i in untold:
            track = found.track_id[i]
            first = noticed.began and not told and i == cause.box
            if track in told or not watch.may_tell(track, rule.params, step.now_ns, first=first):
                continue
            watch.told_ns = step.now_ns
            frames = max(watch.frames(track), cause.frames if first else 0)
            told[track] = Sighting(cause, i, track, found.class_id[i], frames)
            step.appeared.append(told[track])
        self._let_go(key, [track for track in told if track not in watch.objects], step)

    def _let_go(self, key: tuple[str, str, Action], tracks: list[str], step: _Step) -> None:
        """Note the objects that are gone; the last one of a cause goes with the cause."""
        told = self._told.get(key, {})
        for track in tracks:
            if track in told and len(told) > 1:
                step.left.append(told.pop(track))

    def _finish(self, step: _Step) -> Outcome:
        """End a step that is about no frame, but may end causes of rules."""
        self._settle(step)
        self._follow_up(step)
        return self._outcome(step)

    def _conclude(self, step: _Step) -> Outcome:
        """End a step that no object is told of by."""
        self._settle(step)
        return self._outcome(step)

    def _settle(self, step: _Step) -> None:
        """Let causes begin and end, and command what follows from those that hold."""
        for cause in step.started:
            self._causes[cause.key] = cause
        for cause in step.ended:
            del self._causes[cause.key]
        if step.started or step.ended:
            self._command = self._arbitrate()

    def _outcome(self, step: _Step) -> Outcome:
        return Outcome(
            self._command,
            tuple(step.started),
            tuple(step.ended),
            tuple(step.appeared),
            tuple(step.left),
            step.relatched,
        )

    def _arbitrate(self) -> Command:
        held = self._causes.values()
        stop = any(cause.action == 'stop' for cause in held)
        slow = [self._ratio(cause) for cause in held if cause.action == 'slowdown']
        alarm = any(cause.action == 'alarm' for cause in held)
        return Command(stop, alarm, 0.0 if stop else min(slow, default=1.0))

    def _ratio(self, cause: Cause) -> float:
        return next((r.params.slowdown_ratio for r in self._book.rules if r.name == cause.name), 0.0)


def _triggered(rule: Rule, there: list[int], frames: int, step: _Step) -> Cause:
    found = step.seen
    best = max(there, key=lambda i: float(found.score[i]))
    return Cause(
        rule.name,
        step.source,
        _action(rule),
        step.now_ns,
        sentence(found, best, rule.name, frames),
        stamp_ns=found.stamp_ns,
        box=best,
        frames=frames,
        latch=rule.params.latch,
    )


def sentence(found: Detections, i: int, rule: str, frames: int) -> str:
    """Say for people what a rule is about: its detection number ``i``, and in how many frames in a row."""
    return f'{found.class_id[i]} {found.score[i]:.2f} in {rule}, {frames} frames in a row'


def _action(rule: Rule) -> Action:
    return cast('Action', rule.params.action_type)  # checked by one_of
