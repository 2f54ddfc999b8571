"""Where a detection is: polygons, and which boxes lie in them.

Everything here is normalised to the image: 0, 0 is its top left, 1, 1 its bottom right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError

Points = NDArray[np.float64]
Mask = NDArray[np.bool_]
ANCHORS = ('center', 'bottom_center', 'any')
EDGE = 1e-6  # what is this near to an edge, in shares of the image, is on it
MOST_CORNERS = 100  # the time of a decision grows with them
AT_ONCE = 8192  # edges times boxes whose numbers stay in the cache
RIGHT = np.array([[1.0, 0.0]])
DOWN = np.array([[0.0, 1.0]])


def polygon(name: str, flat: Sequence[float]) -> Points:
    """Make a polygon of x, y, x, y and so on.

    Args:
        name: The parameter the numbers come from, for the error.
        flat: The corners, in order; three to a hundred points.

    Returns:
        Corners, shape (n, 2).

    Raises:
        ConfigurationError: Too few, too many or odd numbers, outside 0..1, without area, or crossing itself.

    """
    if len(flat) < 6 or len(flat) % 2:
        raise ConfigurationError(f'{name} has {len(flat)} numbers, expected x, y for at least three corners')
    if len(flat) > 2 * MOST_CORNERS:
        raise ConfigurationError(f'{name} has {len(flat) // 2} corners, expected at most {MOST_CORNERS}')
    corners = np.array(flat, dtype=np.float64).reshape(-1, 2)
    within = (corners >= 0.0) & (corners <= 1.0)
    if not within.all():
        outside = corners[~within][0]
        raise ConfigurationError(f'{name} holds {outside}, expected numbers from 0 to 1 (shares of width and height)')
    if crosses_itself(corners):
        raise ConfigurationError(f'{name} crosses or touches itself, expected a simple polygon, corners in order')
    return corners


def crosses_itself(corners: Points) -> bool:
    """Tell whether an edge comes within EDGE of a corner that is not its own, or crosses another edge.

    Near a crossing at least one end of the two edges is nearest to it; where that end is further than EDGE from the
    other edge, all four ends are further than that from the other's line. So sides nearer than that need no answer,
    and edges that lie on one line do not cross by rounding.
    """
    n = len(corners)
    along = np.roll(corners, -1, axis=0) - corners
    length = np.maximum(np.hypot(along[:, 0], along[:, 1]), np.finfo(float).tiny)
    unit = along / length[:, None]
    from_start = corners[:, None] - corners  # shape (corner, edge, 2), as all that follows
    forward = (from_start * unit).sum(axis=2)
    aside = from_start[..., 1] * unit[:, 0] - from_start[..., 0] * unit[:, 1]
    gap = np.hypot(forward - np.clip(forward, 0.0, length), aside)
    own = np.eye(n, dtype=bool) | np.roll(np.eye(n, dtype=bool), 1, axis=0)
    if (gap[~own] <= EDGE).any():
        return True
    side = np.sign(aside) * (np.abs(aside) > EDGE / 2)
    parts_ends = side * np.roll(side, -1, axis=0) < 0
    return bool((parts_ends & parts_ends.T).any())


class ZoneSet:
    """Polygons with an anchor each, ready to be held against many boxes in one go.

    The anchor of a box is a point of it or, for ``any``, the box itself: a rectangle with middle p and half extents
    h, which are 0 for a point. It is in a zone if it meets an edge or if its middle is inside.

    - Meeting an edge, with middle m and half extents e, is the separating axis theorem: they meet unless along its
      normal, the x or the y axis a the offset ``|a·(p - m)|`` is greater than the reach ``|a|·h + |a|·e + EDGE``,
      where ``|a|·e`` is 0 along its own normal. The edge counts: feet cut off by the lower border of the image stand
      in a zone that ends there.
    - Being inside is the even-odd rule: a ray from p to the right crosses an odd number of edges. It crosses an edge
      if p is left of it and exactly one of its ends is above p.

    Offsets and reaches are linear in the corners of the box, so all of them are one matrix product for all edges and
    boxes. Whether an end is above p is asked once for the two edges that meet there, so that no rounding can tell them
    different things.

    Args:
        polygons: At least one simple polygon, corners of shape (n, 2).
        anchors: One of ``ANCHORS`` for each.

    """

    def __init__(self, polygons: Sequence[Points], anchors: Sequence[str]) -> None:
        counts = [len(corners) for corners in polygons]
        self._first = np.cumsum([0, *counts[:-1]])
        anchor = np.repeat(np.array(anchors), counts)
        starts = np.concatenate(polygons)
        ends = np.concatenate([np.roll(corners, -1, axis=0) for corners in polygons])
        middle, half = (starts + ends) / 2, np.abs(ends - starts) / 2
        axes = _normals_to_the_left(starts, ends), RIGHT, DOWN
        low, whole = anchor == 'bottom_center', anchor == 'any'
        factors = [_offsets(axis, middle, low) for axis in axes]
        factors.append(_offsets(DOWN, starts, low))
        factors += [_reaches(*pair, whole) for pair in zip(axes, (np.zeros_like(half), half, half), strict=True)]
        self._edges = len(starts)
        self._factors = np.concatenate(factors)
        self._next = np.concatenate(
            [first + np.roll(np.arange(n), -1) for first, n in zip(self._first, counts, strict=True)]
        )

    def hold(self, boxes: Points) -> Mask:
        """Tell which zones hold the anchors of which boxes.

        Args:
            boxes: Left, top, right, bottom, shape (m, 4).

        Returns:
            Shape (zones, m).

        """
        step = max(1, AT_ONCE // self._edges)
        if len(boxes) <= step:
            return self._hold(boxes)
        return np.concatenate([self._hold(boxes[i : i + step]) for i in range(0, len(boxes), step)], axis=1)

    def _hold(self, boxes: Points) -> Mask:
        n, m = self._edges, len(boxes)
        width = -m % 8 + m  # so that eight answers make a word
        corners = np.ones((5, width))  # left, top, right, bottom, 1
        np.minimum(boxes.T[:2], boxes.T[2:], out=corners[:2, :m])
        np.maximum(boxes.T[:2], boxes.T[2:], out=corners[2:4, :m])
        numbers = self._factors @ corners  # offsets along the normals, x, y, of the starts along y; then three reaches
        near = np.abs(numbers[: 3 * n]) <= numbers[4 * n :]
        meets = near[:n] & near[n : 2 * n] & near[2 * n :]
        below = numbers[3 * n : 4 * n] < 0.0
        crosses = (below != below.take(self._next, axis=0)) & (numbers[:n] > 0.0)
        inside = np.bitwise_xor.reduceat(crosses.view(np.uint64), self._first, axis=0)
        held = inside | np.bitwise_or.reduceat(meets.view(np.uint64), self._first, axis=0)
        return held.view(np.bool_)[:, :m]


def _normals_to_the_left(starts: Points, ends: Points) -> Points:
    along = ends - starts
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.hypot(along[:, 0], along[:, 1])[:, None]
    return np.asarray(np.where(normal[:, :1] > 0.0, -normal, normal))


def _offsets(axis: Points, through: Points, low: Mask) -> Points:
    """Make the factors of left, top, right, bottom and 1 in ``axis·(p - through)``, shape (edges, 5)."""
    x, y = np.broadcast_to(axis, through.shape).T
    top = np.where(low, 0.0, y / 2)
    return np.stack([x / 2, top, x / 2, y - top, -(axis * through).sum(axis=1)], axis=1)


def _reaches(axis: Points, extent: Points, whole: Mask) -> Points:
    """Make the factors of left, top, right, bottom and 1 in ``|axis|·h + |axis|·extent + EDGE``, shape (edges, 5)."""
    x, y = np.abs(np.broadcast_to(axis, extent.shape)).T
    half_x, half_y = x * whole / 2, y * whole / 2
    return np.stack([-half_x, -half_y, half_x, half_y, (np.abs(axis) * extent).sum(axis=1) + EDGE], axis=1)
