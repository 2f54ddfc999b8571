"""Which box is the object of a frame before: ids that stay with an object.

In the manner of ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box",
ECCV 2022): confident boxes are given to tracks first, the weak ones to the tracks left over. Lengths are in sizes of
the object itself, so that one set of figures fits a scratch and a lorry. Where it is in doubt, an object gets a new
id: one object with two ids costs a second event, two objects with one id lose one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .detections import Detections
from .errors import ConfigurationError

Floats = NDArray[np.float64]
Link = tuple[int, int]
Box = Sequence[float]  # centre x, centre y, width, height in pixels

BOX_VARIANCE = 0.05**2  # of a box's place and size, in sizes²
ACCELERATION_VARIANCE = 20.0**2  # in (sizes/s²)²; what brakes harder is found by where it was last seen
FIRST_SPEED_VARIANCE = 20.0**2  # of what was seen once, in (sizes/s)²
LEAP = 2.0  # how far what was seen once may have gone, in sizes
RECENT = 0.25  # s for which what was last seen is still looked for there; one frame at least
SAME_PLACE = 0.5  # how near a box must be to continue a track of another class, in sizes
DOUBT = 0.5  # what being unseen for `max_age` adds to a squared distance
KNOT = 12  # most boxes and tracks that are untangled together
MOST_LINKS = 16  # per box, on average; the nearest ones
MOST_UNSEEN = 100
FEW = 16  # pairs from which on numpy compares them faster
PIXEL = 1.0  # least size that lengths are measured in
CENTRE_SIZE = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]])

_numbers = itertools.count(1)  # for all trackers: no two objects of a process share an id


class _Track:
    """One object: a Kalman filter with constant velocity of centre and size.

    Its variances are in sizes of the object and therefore the same for all four lengths. Plain numbers, because
    numpy's calls would take longer than the sums.
    """

    __slots__ = (
        'class_id',
        'frames',
        'name',
        'place',
        'place_variance',
        'seen_at',
        'shared_variance',
        'speed',
        'speed_variance',
        'unseen',
        'young',
    )

    def __init__(self, name: str, class_id: str, box: Box) -> None:
        self.name = name
        self.class_id = class_id
        self.young = True  # seen once, so its speed is unknown
        self.frames = 0  # since its first one
        self.unseen = 0.0  # s since its last box
        self.place = self.seen_at = box
        self.speed: Box = (0.0, 0.0, 0.0, 0.0)  # px/s
        self.place_variance = BOX_VARIANCE
        self.shared_variance = 0.0
        self.speed_variance = FIRST_SPEED_VARIANCE

    def covers(self, other: _Track) -> bool:
        """Tell whether the centre of something smaller lies on it."""
        x, y, width, height = self.place
        u, v, other_width, other_height = other.place
        smaller = other_width < width and other_height < height
        return smaller and abs(u - x) < width / 2 and abs(v - y) < height / 2

    def predict(self, passed: float) -> None:
        """Move on by so many s."""
        self.frames += 1
        self.unseen += passed
        x, y, width, height = self.place
        dx, dy, dwidth, dheight = self.speed
        self.place = (x + passed * dx, y + passed * dy, width + passed * dwidth, height + passed * dheight)
        push = ACCELERATION_VARIANCE * passed * passed
        self.place_variance += passed * (2 * self.shared_variance + passed * (self.speed_variance + push / 4))
        self.shared_variance += passed * (self.speed_variance + push / 2)
        self.speed_variance += push

    def correct(self, class_id: str, box: Box) -> None:
        """Take in the box that continues it."""
        x, y, width, height = self.place
        off_x, off_y, off_width, off_height = box[0] - x, box[1] - y, box[2] - width, box[3] - height
        dx, dy, dwidth, dheight = self.speed
        total = self.place_variance + BOX_VARIANCE
        gain, turn = self.place_variance / total, self.shared_variance / total
        self.place = self.seen_at = (
            x + gain * off_x,
            y + gain * off_y,
            width + gain * off_width,
            height + gain * off_height,
        )
        self.speed = (dx + turn * off_x, dy + turn * off_y, dwidth + turn * off_width, dheight + turn * off_height)
        self.speed_variance -= turn * self.shared_variance
        self.shared_variance -= gain * self.shared_variance
        self.place_variance -= gain * self.place_variance
        self.class_id = class_id
        self.young = False
        self.unseen = 0.0


class _Choice(NamedTuple):
    """Which tracks may have which boxes.

    Attributes:
        reach: How far apart they may be, in sizes.
        confident: Confident boxes only.
        any_class: Boxes of other classes too.
        standing: Looks where tracks were last seen, not where they should be by now; the recent ones only.
        young: Tracks seen once only.

    """

    reach: float
    confident: bool = False
    any_class: bool = False
    standing: bool = False
    young: bool = False

    def suits(self, track: _Track) -> bool:
        """Tell whether it is for this track."""
        recent = track.unseen <= RECENT or track.frames == 1
        return (recent or not self.standing) and (track.young or not self.young)


class Tracker:
    """Gives boxes the ids of objects, frame by frame of one camera. Used by one thread at a time.

    A track is looked for where it should be by now if it moves on evenly. Boxes of its class come first; a box of
    another class continues it only in its very place and if nothing of its own class is near, because what flickers
    between two classes there is one object that the network is unsure of. Two boxes of different classes at one place
    in one frame are two objects.

    What is left over then is looked for where it was last seen, because a belt may stop within a frame. What was seen
    once has no speed yet: it is expected to move with what it lies on, as a flaw does with its part, and may be up to
    twice its size away from where it was.

    Stamps that step back, or ahead by more than ``max_age``, end all tracks. A box with numbers that are not finite
    has no id.

    Args:
        confident: Score from which a box may begin a track, and is given to tracks before others, 0..1.
        max_age: How long a track lives unseen, in s.
        reach: How far from its expected place a box may continue a track, in sizes of the object; a difference in
            size counts like a distance, and so does the time unseen.

    Raises:
        ConfigurationError: A value is out of bounds.

    """

    def __init__(self, *, confident: float = 0.5, max_age: float = 1.0, reach: float = 1.0) -> None:
        for name, value, most in (('confident', confident, 1.0), ('max_age', max_age, 60.0), ('reach', reach, 3.0)):
            if not 0.0 < value <= most:
                raise ConfigurationError(f'{name} of the tracker is {value!r}, expected more than 0, at most {most}')
        self._confident = confident
        self._max_age = max_age
        self._reach = reach
        self._stamp_ns = 0
        self._tracks: list[_Track] = []
        self._choices = (
            _Choice(reach, confident=True),
            _Choice(reach),
            _Choice(min(SAME_PLACE, reach), any_class=True),
            _Choice(LEAP, confident=True, standing=True, young=True),
            _Choice(reach, confident=True, standing=True),
        )

    def update(self, detections: Detections) -> Detections:
        """Find out which objects the boxes of the next frame are.

        Args:
            detections: All boxes of the frame, weak ones too; empty if there are none, but never left out.

        Returns:
            The same with ``track_id``: a decimal number, counting up; '' for a weak box that continues no track.

        """
        passed = (detections.stamp_ns - self._stamp_ns) / 1e9
        self._stamp_ns = detections.stamp_ns
        self._pass_time(passed)
        if not len(detections):
            return detections
        with np.errstate(invalid='ignore'):
            places = (detections.xyxy @ CENTRE_SIZE).tolist()
            confident = (detections.score >= self._confident).tolist()
            pairs = self._match(places, detections.class_id, confident)
        ids = [''] * len(places)
        for row, col in pairs:
            track = self._tracks[row]
            track.correct(detections.class_id[col], places[col])
            ids[col] = track.name
        if len(pairs) < len(ids):
            new = [col for col, sure in enumerate(confident) if sure and not ids[col]]
            self._begin(new, places, detections.class_id, ids)
        return replace(detections, track_id=tuple(ids))

    def _pass_time(self, passed: float) -> None:
        """End the tracks that are over and move the others on by so many s."""
        if passed < 0.0:
            self._tracks.clear()
            return
        tracks = [track for track in self._tracks if track.unseen + passed <= self._max_age]
        for track in tracks:
            track.predict(passed)
        self._tracks = tracks

    def _match(self, places: list[Box], class_id: Sequence[str], confident: Sequence[bool]) -> list[Link]:
        """Decide which tracks the boxes continue; returns numbers of tracks and of boxes."""
        pairs: list[Link] = []
        rows, cols = list(range(len(self._tracks))), list(range(len(places)))
        for choice in self._choices:
            some_rows = [row for row in rows if choice.suits(self._tracks[row])]
            some_cols = [col for col in cols if confident[col]] if choice.confident else cols
            found = self._choose(choice, some_rows, some_cols, places, class_id)
            if found:
                pairs += found
                taken_rows, taken_cols = {row for row, _ in found}, {col for _, col in found}
                rows = [row for row in rows if row not in taken_rows]
                cols = [col for col in cols if col not in taken_cols]
            if not rows or not cols:
                break
        return pairs

    def _choose(
        self, choice: _Choice, rows: list[int], cols: list[int], places: Sequence[Box], class_id: Sequence[str]
    ) -> list[Link]:
        """Pair some tracks with some boxes."""
        if not rows or not cols:
            return []
        tracks = [self._tracks[row] for row in rows]
        where = [track.seen_at if choice.standing else track.place for track in tracks]
        limit = choice.reach**2
        doubt = [DOUBT * track.unseen / self._max_age for track in tracks]
        links = sorted(
            (cost + doubt[i], rows[i], cols[j])
            for cost, i, j in near_pairs(where, [places[col] for col in cols], limit)
            if cost + doubt[i] <= limit and (choice.any_class or tracks[i].class_id == class_id[cols[j]])
        )
        return pair({(row, col): cost for cost, row, col in links}, limit)

    def _begin(self, new: list[int], places: Sequence[Box], class_id: Sequence[str], ids: list[str]) -> None:
        """Begin tracks; their numbers follow place and class, not the order of the boxes."""
        for col in sorted(new, key=lambda col: (places[col], class_id[col])):
            if math.isfinite(sum(places[col])):
                ids[col] = str(next(_numbers))
                track = _Track(ids[col], class_id[col], places[col])
                track.speed = self._speed_around(track)
                self._tracks.append(track)
        if len(self._tracks) > len(ids) + MOST_UNSEEN:
            self._tracks.sort(key=lambda track: track.unseen)
            del self._tracks[len(ids) + MOST_UNSEEN :]

    def _speed_around(self, new: _Track) -> Box:
        """Guess the speed of what is new: what lies on something else moves with it, as a flaw does with its part."""
        around = [track for track in self._tracks if track.frames and track.covers(new)]
        if not around:
            return new.speed
        dx, dy, dwidth, dheight = min(around, key=lambda track: track.place[2] * track.place[3]).speed
        return dx + math.copysign(dwidth / 2, dx), dy + math.copysign(dheight / 2, dy), 0.0, 0.0


def near_pairs(expected: Sequence[Box], boxes: Sequence[Box], limit: float) -> Iterable[tuple[float, int, int]]:
    """Find out which boxes are near each other, in place and size, measured in sizes of the larger one.

    Args:
        expected: Where the tracks should be.
        boxes: Where something is.
        limit: Highest squared distance.

    Returns:
        Squared distance, number of the track, number of the box; at most `MOST_LINKS` per box, on average.

    """
    if len(expected) * len(boxes) <= FEW:
        pairs = itertools.product(enumerate(expected), enumerate(boxes))
        found = ((squared_distance(track, box), row, col) for (row, track), (col, box) in pairs)
        return [(cost, row, col) for cost, row, col in found if cost <= limit]
    cost = squared_distances(np.array(expected), np.array(boxes))
    rows, cols = np.nonzero(cost <= limit)
    most = MOST_LINKS * len(boxes)
    if len(rows) > most:
        nearest = cost[rows, cols].argpartition(most)[:most]
        rows, cols = rows[nearest], cols[nearest]
    return zip(cost[rows, cols].tolist(), rows.tolist(), cols.tolist(), strict=True)


def squared_distance(track: Box, box: Box) -> float:
    """Compare one track with one box."""
    x, y, width, height = track
    u, v, box_width, box_height = box
    size_x, size_y = max(width, box_width, PIXEL), max(height, box_height, PIXEL)
    off_x, off_y = (u - x) / size_x, (v - y) / size_y
    more_x, more_y = (box_width - width) / size_x, (box_height - height) / size_y
    return off_x * off_x + off_y * off_y + more_x * more_x + more_y * more_y


def squared_distances(expected: Floats, boxes: Floats) -> Floats:
    """Compare T tracks, shape (T, 4), with N boxes, shape (N, 4); returns shape (T, N)."""
    track, box = expected.T[:, :, None], boxes.T[:, None, :]
    size = np.maximum(np.maximum(track[2:], PIXEL), box[2:])
    off = (box - track).reshape(2, *size.shape) / size
    off *= off
    return np.asarray(off.sum(axis=(0, 1)))


def pair(costs: Mapping[Link, float], limit: float) -> list[Link]:
    """Pair rows with columns so that the sum of what they cost less than ``limit`` is highest.

    That is exact among up to `KNOT` rows and columns that hang together; a larger knot is cut at its dearest links,
    which serve only what is left over then.

    Args:
        costs: Of the pairs that are allowed, the cheapest first.
        limit: What it costs to leave a row or column alone; no link costs more.

    """
    best: dict[int, int] = {}
    for row, col in costs:
        best.setdefault(col, row)
    if len(set(best.values())) == len(best):  # each column has what is cheapest for it
        return [(row, col) for col, row in best.items()]
    pairs = [link for rows, cols in knots(costs) for link in _untangle(rows, cols, costs, limit)]
    taken_rows, taken_cols = {row for row, _ in pairs}, {col for _, col in pairs}
    for row, col in costs:
        if row not in taken_rows and col not in taken_cols:
            pairs.append((row, col))
            taken_rows.add(row)
            taken_cols.add(col)
    return pairs


def knots(links: Iterable[Link]) -> list[tuple[list[int], list[int]]]:
    """Group rows and columns that hang together, `KNOT` at most; earlier links hold before later ones."""
    groups: dict[int, list[int]] = {}  # columns as ~column
    for row, col in links:
        one, other = groups.setdefault(row, [row]), groups.setdefault(~col, [~col])
        if one is not other and len(one) + len(other) <= KNOT:
            one += other
            groups.update(dict.fromkeys(other, one))
    distinct = {id(group): group for group in groups.values()}.values()
    return [([x for x in group if x >= 0], [~x for x in group if x < 0]) for group in distinct]


def _untangle(rows: list[int], cols: list[int], costs: Mapping[Link, float], limit: float) -> list[Link]:
    """Pair the members of a knot at the least cost, a missing link costing ``limit``."""
    if len(rows) == 1 or len(cols) == 1:
        links = [(row, col) for row in rows for col in cols if (row, col) in costs]
        return [min(links, key=costs.__getitem__)] if links else []
    table = [[costs.get((row, col), limit) for col in cols] for row in rows]
    pairs = ((rows[i], cols[j]) for i, j in assign(table))
    return [link for link in pairs if link in costs]


def assign(cost: Sequence[Sequence[float]]) -> list[Link]:
    """Pair all rows or all columns, whichever are fewer, at the least total cost, by shortest augmenting paths.

    Args:
        cost: Of each row with each column; finite.

    """
    if len(cost) > len(cost[0]):
        return [(row, col) for col, row in assign(list(zip(*cost, strict=True)))]
    width = len(cost[0])
    owners = [-1] * (width + 1)  # the last column is where the row to be placed waits
    row_prices, col_prices = [0.0] * len(cost), [0.0] * (width + 1)
    for row in range(len(cost)):
        owners[width] = row
        _place(cost, owners, row_prices, col_prices)
    return [(owner, col) for col, owner in enumerate(owners[:width]) if owner >= 0]


def _place(
    cost: Sequence[Sequence[float]], owners: list[int], row_prices: list[float], col_prices: list[float]
) -> None:
    """Find a column for the waiting row, moving others on along the cheapest path; prices keep all slacks positive."""
    width = len(owners) - 1
    col, done = width, []
    ahead = list(range(width))
    slack, before = [np.inf] * width, [width] * width
    while owners[col] >= 0:
        done.append(col)
        row = owners[col]
        for c in ahead:
            left = cost[row][c] - row_prices[row] - col_prices[c]
            if left < slack[c]:
                slack[c], before[c] = left, col
        col = min(ahead, key=slack.__getitem__)
        step = slack[col]
        ahead.remove(col)
        for c in done:
            row_prices[owners[c]] += step
            col_prices[c] -= step
        for c in ahead:
            slack[c] -= step
    while col != width:
        owners[col] = owners[before[col]]
        col = before[col]
