"""How well a recorded run was answered, judged against what the line knew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from recording import RULE, Recording, spans

from edge_vision.simulator.world import ZONE_MARGIN_M


class Change(NamedTuple):
    """A stop began or ended.

    Attributes:
        at_ns: When its consumer knew.
        stop: Whether it began.
        picture: The picture that caused it; for one that only time caused, the one captured last.
        causes: What began or ended with it.

    """

    at_ns: int
    stop: bool
    picture: int
    causes: tuple[str, ...]


class Figures(NamedTuple):
    """How flaws in the zone were answered; a stay is a run of pictures with one in it.

    Attributes:
        stays: How many there were.
        missed: Stays without a stop.
        false_stops: Stops by the rule while no flaw was in or near the zone.
        blind_stops: Stops for lack of vision.
        to_stop_ms: From the capture of each stay's first picture to the stop; 0 where it held already.
        hold: Share of the time from the stop to the end of the stay for which it held, per stay.
        to_resume_ms: From the capture of the first picture after each stay to the release, where one came
            before the next stay.

    """

    stays: int
    missed: int
    false_stops: int
    blind_stops: int
    to_stop_ms: tuple[float, ...]
    hold: tuple[float, ...]
    to_resume_ms: tuple[float, ...]

    def row(self) -> str:
        """Lay them out under `HEAD`."""
        return (
            f'{spread(self.to_stop_ms)}{100 * min(self.hold, default=0.0):9.2f}  {spread(self.to_resume_ms)}'
            f'{self.false_stops:12d} {self.blind_stops:8d}{self.stays - self.missed:8d} of {self.stays}'
        )


def spread(times_ms: Sequence[float]) -> str:
    """Write the median and the longest of some times."""
    return f'{median(times_ms):8.1f}{max(times_ms):8.1f}' if times_ms else f'{"-":>8}{"-":>8}'


HEAD = (
    'time to stop, ms   hold, %  time to resume, ms    stops,   stops,  entries',
    '     p50     max    least       p50     max       false    blind  answered',
)


def measure(recording: Recording, captured_ns: Sequence[int], changes: Sequence[Change]) -> Figures:
    """Judge the changes of the command.

    Args:
        recording: What was played.
        captured_ns: When each picture was captured, on the clock of the changes.
        changes: In their order; before the first one stop is commanded.

    """
    near = recording.flawed(ZONE_MARGIN_M)
    stays = spans(recording.flawed())
    stops = [(stay, stopped_ns(recording, stay, captured_ns, changes)) for stay in stays]
    stopped = [(stay, at_ns) for stay, at_ns in stops if at_ns is not None]
    begun = [change for change in changes if change.stop]
    return Figures(
        stays=len(stays),
        missed=len(stays) - len(stopped),
        false_stops=sum(RULE in change.causes and not near[change.picture] for change in begun),
        blind_stops=sum(RULE not in change.causes for change in begun),
        to_stop_ms=tuple((at_ns - captured_ns[stay.start]) / 1e6 for stay, at_ns in stopped),
        hold=tuple(share_stopped(at_ns, captured_ns[stay.stop], changes) for stay, at_ns in stopped),
        to_resume_ms=tuple(times_to_resume_ms(stays, captured_ns, changes)),
    )


def stopped_ns(recording: Recording, stay: range, captured_ns: Sequence[int], changes: Sequence[Change]) -> int | None:
    """Tell when the stop for a stay was there; None if there was none.

    Who loses sight of the zone just before a flaw enters it has ``source_timeout`` to stop.
    """
    entered_ns = captured_ns[stay.start]
    before = [change for change in changes if change.picture < stay.start]
    if not before or before[-1].stop:
        return entered_ns
    blind = math.ceil(recording.parameters['source_timeout'] * recording.rate_hz) + 1
    allowed = range(stay.start, max(stay.stop, stay.start + blind))
    begun = (change.at_ns for change in changes if change.stop and change.picture in allowed)
    return next((max(at_ns, entered_ns) for at_ns in begun), None)


def times_to_resume_ms(stays: list[range], captured_ns: Sequence[int], changes: Sequence[Change]) -> Iterator[float]:
    """List the times from the end of a stay to a release, where one came before the next stay."""
    for stay, following in pairwise([*stays, None]):
        clear_ns = captured_ns[stay.stop]
        next_ns = captured_ns[following.start] if following else math.inf
        released = [c.at_ns for c in changes if not c.stop and clear_ns < c.at_ns < next_ns]
        yield from ((at_ns - clear_ns) / 1e6 for at_ns in released[:1])


def share_stopped(from_ns: int, to_ns: int, changes: Sequence[Change]) -> float:
    """Tell for which share of a time the stop held; 1 if that time is none."""
    if to_ns <= from_ns:
        return 1.0
    moving = sum(max(0, min(end, to_ns) - max(start, from_ns)) for start, end in moving_spans(changes))
    return float(1 - moving / (to_ns - from_ns))


def moving_spans(changes: Sequence[Change]) -> Iterator[tuple[float, float]]:
    """List the times between a release and the next stop."""
    for change, following in pairwise([*changes, None]):
        if change is not None and not change.stop:
            yield change.at_ns, following.at_ns if following else math.inf
