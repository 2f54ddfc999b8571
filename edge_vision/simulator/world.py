"""The conveyor line: its parts, its belt, its rejector and the truth about them. No pictures, no clock.

Lengths are in m. The view is `VIEW_WIDTH_M` wide and the belt moves towards its right edge; ``x`` is
measured from the left edge. Times are seconds since the line was switched on and come in as arguments.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

VIEW_WIDTH_M = 0.40
GATE_X = 0.80  # share of the view's width, as ZONE_X
ZONE_X = (0.45, 0.75)
ZONE_MARGIN_M = 0.02
DEFECT_CLASSES = ('scratch', 'dent', 'stain')
PART_PITCH_M = 0.26
PART_JITTER_M = 0.035
FIRST_PART_M = 0.10
NEAR_M = 0.08  # from this far outside the view a part belongs to the scene
AHEAD_M = 0.45

BRAKING_M_S2 = 3.0
ACCELERATION_M_S2 = 1.0
DRIVE_DELAY_S = 0.020
PICK_TIME_S = 0.5
RECORDS_KEPT = 200
STEP_S = 0.1


@dataclass(frozen=True, slots=True)
class Defect:
    """One flaw on a part.

    Attributes:
        class_id: One of `DEFECT_CLASSES`.
        x_m: Centre along the part's length, from the part's centre, in m.
        y_m: Centre across the part, from the part's centre, in m.
        size_m: Longest extent in m.
        angle: Direction on the part in radians.
        seed: Decides its shape.

    """

    class_id: str
    x_m: float
    y_m: float
    size_m: float
    angle: float
    seed: int


@dataclass(frozen=True, slots=True)
class Part:
    """One metal plate on the belt.

    Attributes:
        part_id: Running number from 0.
        belt_m: Where its centre lies on the belt; it enters the view when the belt has moved that far.
        y_m: Offset of its centre from the middle of the belt in m.
        length_m: Extent along its own x axis in m.
        width_m: Extent along its own y axis in m.
        angle: Rotation in the picture in radians, clockwise.
        seed: Decides its surface.
        defects: Its flaws; empty for a good part.

    """

    part_id: int
    belt_m: float
    y_m: float
    length_m: float
    width_m: float
    angle: float
    seed: int
    defects: tuple[Defect, ...]

    @property
    def half_extent_m(self) -> float:
        """Half of what it takes up along the belt, in m."""
        return (self.length_m * abs(math.cos(self.angle)) + self.width_m * abs(math.sin(self.angle))) / 2

    @property
    def half_diagonal_m(self) -> float:
        """Half of its diagonal in m."""
        return math.hypot(self.length_m, self.width_m) / 2

    def defect_offset_m(self, defect: Defect) -> float:
        """How far a flaw is ahead of the part's centre along the belt, in m."""
        return defect.x_m * math.cos(self.angle) - defect.y_m * math.sin(self.angle)


@dataclass(frozen=True, slots=True)
class Scene:
    """What the camera sees at one instant.

    Attributes:
        belt_m: How far the belt has moved since the start, in m.
        speed_m_s: Speed of the belt.
        parts: Parts in or near the view; the centre of one is at ``belt_m - part.belt_m`` from the left edge.

    """

    belt_m: float
    speed_m_s: float
    parts: tuple[Part, ...]


def make_defects(rng: np.random.Generator, count: int) -> tuple[Defect, ...]:
    """Draw flaws that do not overlap and lie well inside a part.

    Args:
        rng: Source of the variation.
        count: One, somewhere near the centre, or two, side by side.

    """
    slots = [rng.uniform(-0.012, 0.012)] if count == 1 else [-0.019, 0.019][:count]
    return tuple(
        Defect(
            class_id=str(rng.choice(DEFECT_CLASSES)),
            x_m=float(x),
            y_m=float(rng.uniform(-0.010, 0.010)),
            size_m=float(rng.uniform(0.019, 0.027)),
            angle=float(rng.choice((-1.0, 1.0)) * rng.uniform(0.45, 1.1)),
            seed=int(rng.integers(2**31)),
        )
        for x in slots
    )


def make_part(seed: int, index: int, *, defect_rate: float) -> Part:
    """Draw part number ``index`` of the line ``seed``; the same arguments give the same part at any time.

    Args:
        seed: Seed of the line.
        index: Running number from 0.
        defect_rate: Share of defective parts, 0..1.

    """
    rng = np.random.default_rng((seed, index))
    jitter, y, length, width, angle = rng.uniform(-1, 1, 5)
    defective, double = rng.uniform(0, 1, 2) < (defect_rate, 0.2)
    return Part(
        part_id=index,
        belt_m=FIRST_PART_M + index * PART_PITCH_M + PART_JITTER_M * float(jitter),
        y_m=0.045 * float(y),
        length_m=0.082 + 0.004 * float(length),
        width_m=0.055 + 0.003 * float(width),
        angle=math.radians(10.0) * float(angle),
        seed=int(rng.integers(2**31)),
        defects=make_defects(rng, 1 + int(double)) if defective else (),
    )


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What became of a part.

    Attributes:
        part_id: Its number.
        defects: Classes of its flaws.
        outcome: ``passed`` (good, reached the gate), ``stopped`` (defective, taken out before the gate),
            ``missed`` (defective, reached the gate) or ``rejected`` (good, taken out).
        time_s: When that was settled.
        leading_edge_m: Where its leading edge was then.
        gate_margin_mm: How far that was from the gate; 0 for what reached it.

    """

    part_id: int
    defects: tuple[str, ...]
    outcome: str
    time_s: float
    leading_edge_m: float
    gate_margin_mm: float


@dataclass(slots=True)
class StopRecord:
    """A withdrawal of the permission to run.

    Attributes:
        cause: ``defect``, ``late`` or ``nothing``, as `World` defines them.
        command_s: When it arrived.
        stamp_ns: Stamp that came with the command, in ns since the epoch.
        standstill_s: When the belt stood; None if it was released before, or still moves.
        distance_m: Way of the belt from the command to standstill.
        part_id: The part that the rejector took out; None if it took none.

    """

    cause: str
    command_s: float
    stamp_ns: int
    standstill_s: float | None = None
    distance_m: float | None = None
    part_id: int | None = None


class World:
    """The line in motion: obeys the permission to run, takes parts out, and counts.

    The belt starts at rest and without permission. A command takes `DRIVE_DELAY_S` to reach the drive, which
    then brakes or accelerates evenly. Once the belt has stood for `PICK_TIME_S`, the rejector takes out the
    defective part that has a flaw in the zone (widened by `ZONE_MARGIN_M`); without such a part it takes, once
    per stop, the part in the zone that is nearest to the gate. It looks again every `PICK_TIME_S`.

    Every withdrawal of a permission that had been given is a stop, and its cause is judged when it arrives:
    ``defect`` if a flaw is in the widened zone; else ``late`` if a defective part has reached the gate and is
    still in view with no stop since; else ``nothing``. False stops are those for nothing. Being without
    permission at the start is no stop.

    Args:
        seed: Decides every part.
        defect_rate: Share of defective parts, 0..1.
        speed_m_s: Speed of the running belt.

    """

    def __init__(self, *, seed: int = 1, defect_rate: float = 0.4, speed_m_s: float = 0.40) -> None:
        self._seed = seed
        self._defect_rate = defect_rate
        self._speed_m_s = speed_m_s
        self._now_s = 0.0
        self._belt_m = 0.0
        self._belt_speed = 0.0
        self._permitted = False  # as commanded; the drive follows later
        self._driving = False
        self._commands: deque[tuple[float, bool]] = deque()
        self._look_s = math.inf
        self._parts: list[Part] = []
        self._made = 0
        self._settled: set[int] = set()
        self._unanswered: set[int] = set()
        self._records: deque[PartRecord] = deque(maxlen=RECORDS_KEPT)
        self._stops: deque[StopRecord] = deque(maxlen=RECORDS_KEPT)
        self._outcomes: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._stop_belt_m = 0.0
        self._supply()

    @property
    def now_s(self) -> float:
        """How far the world has advanced."""
        return self._now_s

    @property
    def scene(self) -> Scene:
        """What the camera sees now."""
        near = tuple(part for part in self._parts if self._belt_m - part.belt_m > -NEAR_M)
        return Scene(self._belt_m, self._belt_speed, near)

    @property
    def approaching(self) -> tuple[Part, ...]:
        """Parts in view and the next ones to come, so that they can be drawn ahead."""
        return tuple(self._parts)

    def advance(self, now_s: float) -> None:
        """Let the line run until ``now_s``; an instant that has passed already changes nothing."""
        while (event_s := self._next_event()) <= now_s:
            self._roll(event_s)
            self._handle_event()
        self._roll(now_s)

    def set_run(self, run: bool, at_s: float, stamp_ns: int = 0) -> None:
        """Give or withdraw the permission to run.

        Args:
            run: Whether the belt may run.
            at_s: When the command arrives; taken as now if the world has advanced beyond it, but the drive
                still reacts `DRIVE_DELAY_S` after ``at_s`` if it can.
            stamp_ns: Stamp of the command, for the record.

        """
        self.advance(at_s)
        if run == self._permitted:
            return
        self._permitted = run
        self._commands.append((max(at_s + DRIVE_DELAY_S, self._now_s), run))
        if not run:
            stop = StopRecord(self._stop_cause(), at_s, stamp_ns)
            self._stops.append(stop)
            self._causes[stop.cause] += 1
            self._stop_belt_m = self._belt_m - self._belt_speed * max(0.0, self._now_s - at_s)
            self._unanswered.clear()

    def truth(self) -> dict[str, Any]:
        """Give counts of everything and the newest `RECORDS_KEPT` records of each kind, ready for JSON."""
        outcomes, causes = self._outcomes, self._causes
        return {
            'parts_total': sum(outcomes.values()),
            'defects_total': outcomes['stopped'] + outcomes['missed'],
            'defects_stopped': outcomes['stopped'],
            'defects_missed': outcomes['missed'],
            'parts_rejected': outcomes['rejected'],
            'stops_total': sum(causes.values()),
            'false_stops': causes['nothing'],
            'late_stops': causes['late'],
            'stops_without_defect': causes['nothing'] + causes['late'],
            'parts': [asdict(record) for record in self._records],
            'stops': [asdict(stop) for stop in self._stops],
        }

    def _next_event(self) -> float:
        """When the drive, the standstill or the rejector changes something next."""
        command_s = self._commands[0][0] if self._commands else math.inf
        return min(command_s, self._standstill_s(), self._look_s)

    def _standstill_s(self) -> float:
        """When the braking belt will stand."""
        if self._driving or self._belt_speed == 0.0:
            return math.inf
        return self._now_s + self._belt_speed / BRAKING_M_S2

    def _handle_event(self) -> None:
        """Do what is due now."""
        if self._commands and self._commands[0][0] <= self._now_s:
            self._driving = self._commands.popleft()[1]
            self._look_s = math.inf
        if not self._driving and self._belt_speed < 1e-9 and self._look_s == math.inf:
            self._stand()
        elif self._look_s <= self._now_s:
            self._pick()
            self._look_s += PICK_TIME_S

    def _stand(self) -> None:
        """Note the standstill and start the rejector's wait."""
        self._belt_speed = 0.0
        self._look_s = self._now_s + PICK_TIME_S
        stop = self._stops[-1]
        stop.standstill_s = self._now_s
        stop.distance_m = self._belt_m - self._stop_belt_m

    def _roll(self, until_s: float) -> None:
        """Move the belt up to an instant no event lies before, in steps in which no part goes by unseen."""
        while self._now_s < until_s:
            self._move(min(until_s, self._now_s + STEP_S))
            self._pass_gate()
            self._supply()

    def _move(self, until_s: float) -> None:
        """Move the belt with even acceleration."""
        duration = until_s - self._now_s
        if self._driving:
            ramp = min(duration, (self._speed_m_s - self._belt_speed) / ACCELERATION_M_S2)
            self._belt_m += self._belt_speed * ramp + ACCELERATION_M_S2 * ramp**2 / 2
            self._belt_speed += ACCELERATION_M_S2 * ramp
            self._belt_m += self._belt_speed * (duration - ramp)
        elif self._belt_speed > 0.0:
            self._belt_m += self._belt_speed * duration - BRAKING_M_S2 * duration**2 / 2
            self._belt_speed = max(0.0, self._belt_speed - BRAKING_M_S2 * duration)
        self._now_s = until_s

    def _supply(self) -> None:
        """Lay new parts onto the belt and forget those that have left the view."""
        while FIRST_PART_M + (self._made - 1) * PART_PITCH_M < self._belt_m + AHEAD_M:
            self._parts.append(make_part(self._seed, self._made, defect_rate=self._defect_rate))
            self._made += 1
        self._parts = [part for part in self._parts if self._belt_m - part.belt_m < VIEW_WIDTH_M + NEAR_M]
        self._unanswered &= {part.part_id for part in self._parts}

    def _pass_gate(self) -> None:
        """Settle the parts whose leading edge has reached the gate."""
        for part in self._parts:
            if self._leading_edge(part) >= GATE_X * VIEW_WIDTH_M and part.part_id not in self._settled:
                self._settle(part, 'missed' if part.defects else 'passed')
                if part.defects:
                    self._unanswered.add(part.part_id)

    def _settle(self, part: Part, outcome: str) -> None:
        """Write down what became of a part."""
        edge = self._leading_edge(part)
        margin_mm = max(0.0, GATE_X * VIEW_WIDTH_M - edge) * 1000
        defects = tuple(defect.class_id for defect in part.defects)
        self._settled.add(part.part_id)
        self._outcomes[outcome] += 1
        self._records.append(PartRecord(part.part_id, defects, outcome, self._now_s, edge, margin_mm))

    def _leading_edge(self, part: Part) -> float:
        return self._belt_m - part.belt_m + part.half_extent_m

    def _stop_cause(self) -> str:
        """Judge a stop that arrives now."""
        if any(self._defective_in_zone()):
            return 'defect'
        return 'late' if self._unanswered else 'nothing'

    def _defective_in_zone(self) -> Iterator[Part]:
        """Parts with a flaw whose centre is in the widened zone."""
        low, high = ZONE_X[0] * VIEW_WIDTH_M - ZONE_MARGIN_M, ZONE_X[1] * VIEW_WIDTH_M + ZONE_MARGIN_M
        for part in self._parts:
            centre = self._belt_m - part.belt_m
            if any(low <= centre + part.defect_offset_m(defect) <= high for defect in part.defects):
                yield part

    def _pick(self) -> None:
        """Take out a part, if one is there to be taken."""
        part = next(self._defective_in_zone(), None)
        stop = self._stops[-1]
        if part is None and stop.part_id is None:
            low, high = (share * VIEW_WIDTH_M for share in ZONE_X)
            part = next((p for p in self._parts if low <= self._belt_m - p.belt_m <= high), None)
        if part is None:
            return
        stop.part_id = part.part_id
        self._parts.remove(part)
        if part.part_id not in self._settled:
            self._settle(part, 'stopped' if part.defects else 'rejected')
