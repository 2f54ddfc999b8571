import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vision import zones
from edge_vision.errors import ConfigurationError

SQUARE = [0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75]
LOWER_HALF = [0.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0]
#  a U: open at the top between x 0.4 and 0.6, down to y 0.8
CONCAVE = [0.0, 0.0, 0.4, 0.0, 0.4, 0.8, 0.6, 0.8, 0.6, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def inside(flat, x, y):
    return bool(zones.contains(zones.polygon('points', flat), np.array([[x, y]]))[0])


def touched(flat, *box):
    return bool(zones.touches(zones.polygon('points', flat), np.array([box]))[0])


@pytest.mark.parametrize(
    ('flat', 'x', 'y', 'expected'),
    [
        (SQUARE, 0.5, 0.5, True),
        (SQUARE, 0.2, 0.5, False),
        (SQUARE, 0.5, 0.8, False),
        (SQUARE, 0.25, 0.5, True),
        (SQUARE, 0.75, 0.5, True),
        (SQUARE, 0.5, 0.25, True),
        (SQUARE, 0.5, 0.75, True),
        (SQUARE, 0.25, 0.25, True),
        (SQUARE, 0.75, 0.75, True),
        (SQUARE, 0.0, 0.25, False),
        (LOWER_HALF, 0.5, 1.0, True),
        (LOWER_HALF, 0.0, 1.0, True),
        (LOWER_HALF, 1.0, 1.0, True),
        (LOWER_HALF, 1.0, 0.4, False),
        (CONCAVE, 0.2, 0.2, True),
        (CONCAVE, 0.8, 0.2, True),
        (CONCAVE, 0.5, 0.2, False),
        (CONCAVE, 0.5, 0.9, True),
        (CONCAVE, 0.5, 0.8, True),
        (CONCAVE, 0.4, 0.4, True),
        ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.5, 0.5, True),
        ([0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.51, 0.51, False),
    ],
)
def test_point_is_in_a_zone_or_on_its_edge(flat, x, y, expected):
    assert inside(flat, x, y) is expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_direction_and_first_corner_make_no_difference(x, y):
    corners = np.array(CONCAVE).reshape(-1, 2)
    point = np.array([[x, y]])
    expected = zones.contains(corners, point)
    assert np.array_equal(zones.contains(corners[::-1], point), expected)
    assert np.array_equal(zones.contains(np.roll(corners, 3, axis=0), point), expected)


@given(st.floats(0, 1), st.floats(0, 1))
def test_whole_image_as_a_zone_holds_every_point(x, y):
    assert inside([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0], x, y)


@pytest.mark.parametrize(
    ('box', 'expected'),
    [
        ((0.3, 0.3, 0.4, 0.4), True),
        ((0.0, 0.0, 1.0, 1.0), True),
        ((0.0, 0.4, 1.0, 0.6), True),
        ((0.0, 0.0, 0.25, 0.25), True),
        ((0.0, 0.0, 0.24, 0.24), False),
        ((0.8, 0.0, 1.0, 1.0), False),
        ((0.5, 0.5, 0.5, 0.5), True),
    ],
    ids=['inside', 'around', 'across', 'at the corner', 'beside', 'right of', 'without area'],
)
def test_box_touches_a_zone(box, expected):
    assert touched(SQUARE, *box) is expected


def test_box_in_the_opening_of_a_concave_zone_does_not_touch_it():
    assert not touched(CONCAVE, 0.45, 0.1, 0.55, 0.5)
    assert touched(CONCAVE, 0.45, 0.1, 0.55, 0.85)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_box_with_its_centre_in_a_zone_touches_it(numbers):
    left, right = sorted(numbers[:2])
    top, bottom = sorted(numbers[2:])
    if inside(CONCAVE, (left + right) / 2, (top + bottom) / 2):
        assert touched(CONCAVE, left - 1e-6, top - 1e-6, right + 1e-6, bottom + 1e-6)


@pytest.mark.parametrize(
    ('flat', 'sentence'),
    [
        ([], 'gate.points has 0 numbers, expected x, y for at least three corners'),
        ([0.0, 0.0, 1.0, 1.0], 'gate.points has 4 numbers'),
        ([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5], 'gate.points has 7 numbers'),
        ([0.0, 0.0, 640.0, 0.0, 640.0, 480.0], 'gate.points holds 640.0, expected numbers from 0 to 1'),
        ([0.0, -0.1, 1.0, 0.0, 1.0, 1.0], 'gate.points holds -0.1, expected numbers from 0 to 1'),
        ([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0], 'gate.points crosses or touches itself'),
        ([0.0, 0.0, 0.5, 0.5, 1.0, 1.0], 'gate.points crosses or touches itself'),
        ([0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0], 'gate.points crosses or touches itself'),
        ([0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.5, 1.0], 'gate.points crosses or touches itself'),
        ([0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], 'gate.points crosses or touches itself'),
        ([0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5], 'gate.points crosses or touches itself'),
    ],
    ids=['none', 'two corners', 'odd', 'pixels', 'negative', 'bow tie', 'on a line', 'twice', 'spike', 'spike first',
         'corner on corner'],
)  # fmt: skip
def test_polygon_that_is_not_simple_is_refused(flat, sentence):
    with pytest.raises(ConfigurationError) as refused:
        zones.polygon('gate.points', flat)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize('flat', [SQUARE, LOWER_HALF, CONCAVE, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]])
def test_simple_polygon_is_taken_as_it_is(flat):
    assert zones.polygon('points', flat).ravel().tolist() == flat
