import math

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


def held(corners, anchor, *box):
    return bool(zones.ZoneSet([corners], [anchor]).hold(np.array([box]))[0, 0])


def inside(flat, x, y):
    return held(zones.polygon('points', flat), 'center', x, y, x, y)


def touched(flat, *box):
    return held(zones.polygon('points', flat), 'any', *box)


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
        (SQUARE, 0.75001, 0.25, False),
        (SQUARE, 0.25, 0.24999, False),
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
    expected = held(corners, 'center', x, y, x, y)
    assert held(corners[::-1], 'center', x, y, x, y) == expected
    assert held(np.roll(corners, 3, axis=0), 'center', x, y, x, y) == expected


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
    ('anchor', 'box', 'expected'),
    [
        ('center', (0.3, 0.3, 0.4, 0.9), True),
        ('bottom_center', (0.3, 0.3, 0.4, 0.9), False),
        ('any', (0.3, 0.3, 0.4, 0.9), True),
        ('center', (0.3, 0.0, 0.4, 0.4), False),
        ('bottom_center', (0.3, 0.0, 0.4, 0.4), True),
        ('any', (0.3, 0.0, 0.4, 0.4), True),
        ('any', (0.3, 0.0, 0.4, 0.2), False),
    ],
)
def test_anchor_of_the_box_is_what_must_be_in_the_zone(anchor, box, expected):
    assert held(zones.polygon('points', SQUARE), anchor, *box) is expected


def test_every_zone_is_held_against_every_box():
    polygons = [zones.polygon('points', flat) for flat in (CONCAVE, LOWER_HALF, SQUARE)]
    boxes = np.array([[0.45, 0.1, 0.55, 0.3], [0.0, 0.0, 0.1, 0.1], [0.3, 0.55, 0.4, 0.6], [0.45, 0.3, 0.55, 0.4]])
    assert zones.ZoneSet(polygons, ['center', 'any', 'bottom_center']).hold(boxes).tolist() == [
        [False, True, True, False],
        [False, False, True, False],
        [True, False, True, True],
    ]


def test_no_box_is_in_no_zone():
    assert zones.ZoneSet([zones.polygon('points', SQUARE)], ['any']).hold(np.empty((0, 4))).shape == (1, 0)


def test_number_of_boxes_makes_no_difference():
    polygons = [zones.polygon('points', flat) for flat in (CONCAVE, LOWER_HALF, SQUARE)]
    zone_set = zones.ZoneSet(polygons, zones.ANCHORS)
    corners = np.random.default_rng(1).random((zones.AT_ONCE // 10, 2, 2))
    boxes = np.sort(corners, axis=1).reshape(-1, 4)
    one_by_one = np.concatenate([zone_set.hold(box[None]) for box in boxes], axis=1)
    assert np.array_equal(zone_set.hold(boxes), one_by_one)


@pytest.mark.parametrize(
    ('flat', 'sentence'),
    [
        ([], 'gate.points has 0 numbers, expected x, y for at least three corners'),
        ([0.0, 0.0, 1.0, 1.0], 'gate.points has 4 numbers'),
        ([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5], 'gate.points has 7 numbers'),
        ([0.0, 0.0, 640.0, 0.0, 640.0, 480.0], 'gate.points holds 640.0, expected numbers from 0 to 1'),
        ([0.0, -0.1, 1.0, 0.0, 1.0, 1.0], 'gate.points holds -0.1, expected numbers from 0 to 1'),
        ([0.0, 0.0, 1.0, 0.0, math.nan, 1.0], 'gate.points holds nan, expected numbers from 0 to 1'),
        ([0.0, 0.0, 1.0, 0.0, 1.0, math.inf], 'gate.points holds inf, expected numbers from 0 to 1'),
        ([0.5] * 202, 'gate.points has 101 corners, expected at most 100'),
    ],
    ids=['none', 'two corners', 'odd', 'pixels', 'negative', 'not a number', 'infinite', 'too many'],
)
def test_numbers_that_are_no_polygon_are_refused(flat, sentence):
    with pytest.raises(ConfigurationError) as refused:
        zones.polygon('gate.points', flat)
    assert str(refused.value).startswith(sentence)


NOT_SIMPLE = {
    'bow tie': [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0],
    'pentagram': [0.5, 0.0, 0.8, 1.0, 0.0, 0.4, 1.0, 0.4, 0.2, 1.0],
    'on a line': [0.0, 0.0, 0.5, 0.5, 1.0, 1.0],
    'next to a line': [0.0, 0.0, 1.0, 0.0, 0.5, 1e-7],
    'one point': [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    'there and back': [0.1, 0.1, 0.9, 0.1, 0.1, 0.1],
    'corner twice': [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0],
    'first corner again': [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0],
    'spike': [0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.5, 1.0],
    'spike beyond its start': [0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    'spike back to a corner': [0.1, 0.1, 0.9, 0.1, 0.5, 0.5, 0.9, 0.1, 0.1, 0.9],
    'slanted spike, inexact': [0.0, 0.0, 0.9, 0.3, 0.3, 0.1, 0.1, 0.8],
    'edge on edge': [0.0, 0.0, 1.0, 0.0, 1.0, 0.5, 0.8, 0.0, 0.2, 0.0, 0.1, 0.5],
    'corner on edge': [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0],
    'corner on corner': [0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5],
}
GAP = [(0.07, 0.0), (0.57, 0.0), (0.57, 0.2), (0.73, 0.2), (0.73, 0.0), (0.83, 0.0), (0.83, 0.9), (0.07, 0.9)]
ROUND = [(0.5 + 0.5 * math.cos(i * math.pi / 50), 0.5 + 0.5 * math.sin(i * math.pi / 50)) for i in range(100)]
SIMPLE = {
    'square': SQUARE,
    'to the border': LOWER_HALF,
    'concave': CONCAVE,
    'triangle': [0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
    'thin': [0.0, 0.0, 1.0, 0.0, 0.5, 1e-5],
    'straight corner': [0.0, 0.0, 0.3, 0.1, 0.9, 0.3, 0.1, 0.8],
    'narrow slit': [0.0, 0.0, 0.5, 0.0, 0.5, 0.8, 0.50001, 0.8, 0.50001, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
    'a hundred corners': np.ravel(ROUND).tolist(),
    'two edges on one slanted line': np.ravel([(x, x * 0.08 + y) for x, y in GAP]).tolist(),
}


def every_beginning(flat):
    corners = np.array(flat).reshape(-1, 2)
    return [np.roll(way, n, axis=0) for n in range(len(corners)) for way in (corners, corners[::-1])]


@pytest.mark.parametrize('flat', NOT_SIMPLE.values(), ids=NOT_SIMPLE)
def test_polygon_that_is_not_simple_is_refused(flat):
    for corners in every_beginning(flat):
        with pytest.raises(ConfigurationError, match='crosses or touches itself, expected a simple polygon'):
            zones.polygon('gate.points', corners.ravel())


@pytest.mark.parametrize('flat', SIMPLE.values(), ids=SIMPLE)
def test_simple_polygon_is_taken_as_it_is(flat):
    for corners in every_beginning(flat):
        assert np.array_equal(zones.polygon('points', corners.ravel()), corners)


def test_an_edge_that_is_level_but_for_a_hair_is_crossed_only_where_it_is():
    points = [0.1, 0.33, 0.4, 0.32999999, 0.4, 0.2, 0.95, 0.2, 0.95, 0.9, 0.1, 0.9]
    box = np.array([[0.426, 0.32999998331] * 2])
    assert zones.ZoneSet([zones.polygon('points', points)], ['center']).hold(box)[0, 0]
