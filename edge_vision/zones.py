"""Where a detection is: polygons, and which boxes lie in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError

Points = NDArray[np.float64]
EDGE = 1e-6  # points this near to an edge, in shares of the image, are on it


def polygon(name: str, flat: Sequence[float]) -> Points:
    """Make a polygon of x, y, x, y and so on.

    Args:
        name: The parameter the numbers come from, for the error.
        flat: At least three points, normalised to the image: 0, 0 is its top left, 1, 1 its bottom right.

    Returns:
        Corners, shape (n, 2).

    Raises:
        ConfigurationError: Too few or odd numbers, outside 0..1, without area, or crossing itself.

    """
    if len(flat) < 6 or len(flat) % 2:
        raise ConfigurationError(f'{name} has {len(flat)} numbers, expected x, y for at least three corners')
    corners = np.array(flat, dtype=np.float64).reshape(-1, 2)
    if corners.min() < 0.0 or corners.max() > 1.0:
        outside = corners[(corners < 0.0) | (corners > 1.0)][0]
        raise ConfigurationError(f'{name} holds {outside}, expected numbers from 0 to 1 (shares of width and height)')
    if crosses_itself(corners):
        raise ConfigurationError(f'{name} crosses or touches itself, expected a simple polygon, corners in order')
    return corners


def crosses_itself(corners: Points) -> bool:
    """Tell whether two edges that are not neighbours meet, or a corner has no angle left."""
    n = len(corners)
    ends = np.roll(corners, -1, axis=0)
    if np.any(np.all(corners == ends, axis=1)):
        return True
    area = float(np.sum(corners[:, 0] * ends[:, 1] - ends[:, 0] * corners[:, 1]))
    if area == 0.0:
        return True
    pairs = [(i, j) for i in range(n) for j in range(i + 2, n) if (j + 1) % n != i]
    if not pairs:
        return False
    i, j = np.array(pairs).T
    return bool(np.any(segments_meet(corners[i], ends[i], corners[j], ends[j])))


def segments_meet(a: Points, b: Points, c: Points, d: Points) -> NDArray[np.bool_]:
    """Tell for each row whether segment a-b touches segment c-d; arrays of points, shape (..., 2)."""

    def side(p: Points, q: Points, r: Points) -> Points:
        ahead, aside = q - p, r - p
        return np.asarray(np.sign(ahead[..., 0] * aside[..., 1] - ahead[..., 1] * aside[..., 0]))

    overlap = np.all((np.minimum(a, b) <= np.maximum(c, d)) & (np.minimum(c, d) <= np.maximum(a, b)), axis=-1)
    return np.asarray(overlap & (side(a, b, c) * side(a, b, d) <= 0) & (side(c, d, a) * side(c, d, b) <= 0))


def contains(corners: Points, points: Points) -> NDArray[np.bool_]:
    """Tell which points lie inside a simple polygon or on its edge, by the even-odd rule.

    The edge counts: feet cut off by the lower border of the image stand in a zone that ends there.

    Args:
        corners: Polygon, shape (n, 2).
        points: Points in the same unit, shape (m, 2).

    Returns:
        Shape (m,).

    """
    x, y = points[:, 0:1], points[:, 1:2]
    x1, y1 = corners[:, 0], corners[:, 1]
    x2, y2 = np.roll(x1, -1), np.roll(y1, -1)
    spans = (y1 > y) != (y2 > y)
    rise = np.where(y2 == y1, 1.0, y2 - y1)
    left_of_edge = x < (x2 - x1) * (y - y1) / rise + x1
    inside = np.count_nonzero(spans & left_of_edge, axis=1) % 2 == 1
    off_line = np.abs((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1))
    near = off_line <= EDGE * np.maximum(np.hypot(x2 - x1, y2 - y1), EDGE)
    beside = (
        (x >= np.minimum(x1, x2) - EDGE)
        & (x <= np.maximum(x1, x2) + EDGE)
        & (y >= np.minimum(y1, y2) - EDGE)
        & (y <= np.maximum(y1, y2) + EDGE)
    )
    return np.asarray(inside | (near & beside).any(axis=1))


def touches(corners: Points, boxes: Points) -> NDArray[np.bool_]:
    """Tell which boxes share a point with a polygon.

    Args:
        corners: Polygon, shape (n, 2).
        boxes: Left, top, right, bottom in the same unit, shape (m, 4).

    Returns:
        Shape (m,).

    """
    m = len(boxes)
    box_corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(m, 4, 2)
    inside = contains(corners, box_corners.reshape(-1, 2)).reshape(m, 4).any(axis=1)
    x, y = corners[:, 0], corners[:, 1]
    holds_corner = ((x >= boxes[:, 0:1]) & (x <= boxes[:, 2:3]) & (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:4])).any(
        axis=1
    )
    ends = np.roll(corners, -1, axis=0)
    edges = segments_meet(
        box_corners[:, :, None, :], np.roll(box_corners, -1, axis=1)[:, :, None, :], corners, ends
    ).any(axis=(1, 2))
    return np.asarray(inside | holds_corner | edges)
