import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vision.causes import BUILT_IN
from edge_vision.detections import Detections
from edge_vision.errors import ConfigurationError
from edge_vision.rules import Rule, RuleBook, RuleParams, camera_of, check_names, rules_from_values

BOTTOM = (0.0, 0.9, 1.0, 0.9, 1.0, 1.0, 0.0, 1.0)
RIGHT = (0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0)


def detections(*found, image_size=(640, 480)):
    labels, scores, boxes = zip(*found, strict=True) if found else ((), (), ())
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(1, 'camera', xyxy, np.array(scores, np.float32), labels, image_size=image_size)


def matches(params, *found, **kwargs):
    (row,) = RuleBook([Rule('gate', RuleParams(**params))]).match(detections(*found, **kwargs))
    return np.flatnonzero(row).tolist()


def test_rule_without_conditions_is_about_everything_above_its_score():
    found = [('dent', 0.9, (0, 0, 10, 10)), ('scratch', 0.4, (0, 0, 10, 10)), ('person', 0.5, (600, 400, 640, 480))]
    assert matches({}, *found) == [0, 2]


def test_score_equal_to_the_least_counts():
    assert matches({'min_score': 0.25}, ('dent', 0.25, (0, 0, 9, 9)), ('dent', 0.2499, (0, 0, 9, 9))) == [0]


def test_only_labels_named_count():
    found = [('dent', 0.9, (0, 0, 9, 9)), ('person', 0.9, (0, 0, 9, 9)), ('scratch', 0.9, (0, 0, 9, 9))]
    assert matches({'classes': ('scratch', 'dent')}, *found) == [0, 2]
    assert matches({'classes': ('Dent',)}, *found) == []


@pytest.mark.parametrize(
    ('anchor', 'box', 'expected'),
    [
        ('center', (300, 300, 400, 480), []),
        ('bottom_center', (300, 300, 400, 480), [0]),
        ('bottom_center', (300, 300, 400, 500), [0]),
        ('any', (300, 300, 400, 480), [0]),
        ('any', (300, 300, 400, 432), [0]),
        ('any', (300, 300, 400, 420), []),
        ('center', (300, 440, 400, 480), [0]),
    ],
    ids=['middle', 'feet', 'feet cut off', 'part', 'edge on edge', 'above', 'middle in'],
)
def test_anchor_says_which_point_must_be_in_the_zone(anchor, box, expected):
    assert matches({'points': BOTTOM, 'anchor': anchor}, ('person', 0.9, box)) == expected


def test_zone_is_normalised_to_the_image():
    box = ('dent', 0.9, (400, 100, 420, 120))
    assert matches({'points': RIGHT}, box, image_size=(640, 480)) == [0]
    assert matches({'points': RIGHT}, box, image_size=(1920, 1080)) == []


def test_zone_is_the_whole_image_while_its_size_is_unknown():
    assert matches({'points': RIGHT}, ('dent', 0.9, (0, 0, 10, 10)), image_size=None) == [0]


def test_indices_are_those_of_all_detections():
    found = [('person', 0.9, (500, 0, 600, 99)), ('dent', 0.9, (0, 0, 9, 9)), ('dent', 0.9, (500, 0, 600, 99))]
    assert matches({'classes': ('dent',), 'points': RIGHT}, *found) == [2]


def test_nothing_seen_matches_nothing():
    assert matches({'points': RIGHT}) == []
    assert matches({}) == []


@pytest.mark.parametrize(
    ('limits', 'expected'),
    [
        ({}, [0, 1, 2, 3]),
        ({'min_area': 0.25}, [1, 2]),
        ({'min_area': 0.26}, [2]),
        ({'max_area': 0.25}, [0, 1, 3]),
        ({'max_area': 0.24}, [0, 3]),
        ({'max_area': 0.0}, [3]),
        ({'min_area': 0.25, 'max_area': 0.25}, [1]),
    ],
)
def test_area_that_counts_is_a_share_of_the_image(limits, expected):
    boxes = [(0, 0, 10, 10), (0, 0, 320, 240), (0, 0, 640, 480), (10, 10, 10, 10)]
    assert matches(limits, *(('dent', 0.9, box) for box in boxes)) == expected


def test_only_the_part_of_a_box_inside_the_image_has_an_area():
    assert matches({'max_area': 0.25}, ('dent', 0.9, (-1000, -1000, 320, 240))) == [0]
    assert matches({'min_area': 0.01}, ('dent', 0.9, (640, 0, 1280, 480))) == []


def test_area_is_not_limited_while_the_image_size_is_unknown():
    assert matches({'max_area': 0.1}, ('dent', 0.9, (0, 0, 640, 480)), image_size=None) == [0]
    assert matches({'min_area': 0.1}, ('dent', 0.9, (0, 0, 1, 1)), image_size=None) == [0]


def test_box_without_an_area_that_can_be_told_is_within_the_limits():
    found = [('dent', 0.9, (math.nan, 0, 10, 10)), ('dent', 0.9, (20, 20, 10, 25))]
    assert matches({}, *found) == [0, 1]


def test_rules_in_force_are_applied_in_their_order():
    found = [('dent', 0.9, (0, 0, 9, 9)), ('person', 0.7, (500, 0, 600, 99)), ('dent', 0.6, (500, 0, 600, 99))]
    book = RuleBook(
        [
            Rule('sure', RuleParams(min_score=0.65)),
            Rule('off', RuleParams(enabled=False)),
            Rule('right', RuleParams(points=RIGHT)),
            Rule('dent', RuleParams(classes=('dent', 'dent', 'scratch'))),
            Rule('dent_right', RuleParams(classes=('dent',), points=RIGHT, anchor='any')),
        ]
    )
    assert [rule.name for rule in book.rules] == ['sure', 'right', 'dent', 'dent_right']
    assert book.match(detections(*found)).astype(int).tolist() == [[1, 1, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize('image_size', [(640, 480), None])
@pytest.mark.parametrize('rules', [(), (Rule('off', RuleParams(enabled=False)),)], ids=['none', 'none enabled'])
def test_no_rules_match_nothing(rules, image_size):
    found = detections(('dent', 0.9, (0, 0, 9, 9)), ('dent', 0.9, (0, 0, 9, 9)), image_size=image_size)
    assert RuleBook(rules).match(found).shape == (0, 2)
    assert RuleBook(rules).match(detections(image_size=image_size)).shape == (0, 0)


U = (0.0, 0.0, 0.4, 0.0, 0.4, 0.8, 0.6, 0.8, 0.6, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0)
LABELS = ['dent', 'scratch', 'person', '']
UNSURE = 1e-5  # what is nearer than this to an edge or a limit may be told either way


@st.composite
def zones_around_a_point(draw):
    x, y, radii = draw(
        st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.lists(st.floats(0.02, 0.3), min_size=3, max_size=9))
    )
    turn = 2 * math.pi / len(radii)
    return tuple(
        float(v) for i, r in enumerate(radii) for v in (x + r * math.cos(i * turn), y + r * math.sin(i * turn))
    )


@st.composite
def any_rule(draw):
    low, high = draw(st.sampled_from([(0.0, 1.0), (0.01, 0.2), (0.1, 1.0), (0.0, 0.05)]))
    return Rule(
        'rule',
        RuleParams(
            classes=tuple(draw(st.lists(st.sampled_from(LABELS[:3]), max_size=2))),
            min_score=draw(st.sampled_from([0.0, 0.3, 0.5])),
            min_area=low,
            max_area=high,
            points=draw(st.sampled_from([(), BOTTOM, RIGHT, U]) | zones_around_a_point()),
            anchor=draw(st.sampled_from(['center', 'bottom_center', 'any'])),
        ),
    )


@st.composite
def any_box(draw):
    xs = sorted(draw(st.tuples(*[st.integers(-64, 704) | st.floats(-64, 704, width=32)] * 2)))
    ys = sorted(draw(st.tuples(*[st.integers(-48, 528) | st.floats(-48, 528, width=32)] * 2)))
    score = draw(st.floats(0, 1, width=32) | st.sampled_from([0.3, 0.5]))
    return draw(st.sampled_from(LABELS)), score, (xs[0], ys[0], xs[1], ys[1])


def surrounds(corners, x, y):
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def cuts(start, end, low, high):
    """Shorten an edge by the sides of a box and tell whether anything of it is left."""
    first, last = 0.0, 1.0
    for p, q, least, greatest in zip(start, end, low, high, strict=True):
        if p == q:
            if not least <= p <= greatest:
                return False
        else:
            enter, leave = sorted([(least - p) / (q - p), (greatest - p) / (q - p)])
            first, last = max(first, enter), min(last, leave)
    return first <= last


def is_in(corners, anchor, left, top, right, bottom):
    """Tell whether a box is in a zone, None where it is not sure."""
    x, y = (left + right) / 2, bottom if anchor == 'bottom_center' else (top + bottom) / 2
    low, high = ((left, top), (right, bottom)) if anchor == 'any' else ((x, y), (x, y))
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    if surrounds(corners, x, y) or any(cuts(*edge, low, high) for edge in edges):
        return True
    wider = [v - UNSURE for v in low], [v + UNSURE for v in high]
    return None if any(cuts(*edge, *wider) for edge in edges) else False


def is_meant(params, image_size, label, score, box):
    """Tell whether a rule is about a detection, None where it is not sure."""
    if (params.classes and label not in params.classes) or np.float32(score) < np.float32(params.min_score):
        return False
    if image_size is None:
        return True
    left, top, right, bottom = (
        min(max(float(np.float32(v)) / size, 0.0), 1.0) for v, size in zip(box, image_size * 2, strict=True)
    )
    area = (right - left) * (bottom - top)
    if not params.min_area - UNSURE <= area <= params.max_area + UNSURE:
        return False
    if any(abs(area - limit) <= UNSURE for limit in (params.min_area, params.max_area) if 0 < limit < 1):
        return None
    corners = list(zip(params.points[::2], params.points[1::2], strict=True))
    return not corners or is_in(corners, params.anchor, left, top, right, bottom)


@given(st.lists(any_rule(), max_size=4), st.lists(any_box(), max_size=4), st.sampled_from([(640, 480), None]))
def test_all_at_once_is_the_same_as_one_by_one(rules, found, image_size):
    told = RuleBook(rules).match(detections(*found, image_size=image_size))
    expected = [[is_meant(rule.params, image_size, *one) for one in found] for rule in rules]
    sure = [
        [e if e is None else bool(t) for t, e in zip(*row, strict=True)] for row in zip(told, expected, strict=True)
    ]
    assert sure == expected


def test_rules_are_built_in_the_order_named():
    values = {'rules': ['b', 'a'], 'a.min_score': 0.9, 'b.classes': ['dent'], 'source_timeout': 0.3}
    assert rules_from_values(values) == (Rule('b', RuleParams(classes=('dent',))), Rule('a', RuleParams(min_score=0.9)))


def test_no_rules_named_are_no_rules():
    assert rules_from_values({'a.min_score': 0.9}) == ()


@pytest.mark.parametrize(
    ('values', 'sentence'),
    [
        ({'rules': ['a', 'a']}, "rules holds 'a' twice, expected every rule once"),
        ({'rules': ['']}, "rules holds '', expected letters"),
        ({'rules': ['a.b']}, "rules holds 'a.b', expected letters"),
        ({'rules': ['a b']}, "rules holds 'a b', expected letters"),
        ({'rules': ['source_timeout']}, "rules holds 'source_timeout', expected letters"),
        ({'rules': 'a'}, "rules is 'a', expected a list of strings"),
        ({'rules': ['a'], 'a.min_score': 2.0}, 'a.min_score is 2.0, expected a number from 0.0 to 1.0'),
        (
            {'rules': ['a'], 'a.min_area': 0.5, 'a.max_area': 0.1},
            'a.min_area is 0.5, expected at most a.max_area, 0.1',
        ),
        ({'rules': ['a'], 'a.max_area': 1.5}, 'a.max_area is 1.5, expected a number from 0.0 to 1.0'),
        ({'rules': ['a'], 'a.min_detections': 0}, 'a.min_detections is 0, expected a number from 1 to 10000'),
        ({'rules': ['a'], 'a.dwell_time': -1.0}, 'a.dwell_time is -1.0, expected a number from 0.0 to 86400.0'),
        ({'rules': ['a'], 'a.cooldown': 1e6}, 'a.cooldown is 1000000.0, expected a number from 0.0 to 86400.0'),
        ({'rules': ['a'], 'a.points': [0.1, 0.2]}, 'a.points has 2 numbers'),
        ({'rules': ['a'], 'a.points': [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]}, 'a.points crosses'),
    ],
)
def test_unusable_rules_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(ConfigurationError) as refused:
        rules_from_values(values)
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ('topic', 'camera'),
    [
        ('detections', ''),
        ('/detections', ''),
        ('left/detections', 'left'),
        ('/left/detections', 'left'),
        ('/line1/left/detections', 'line1/left'),
    ],
)
def test_camera_is_what_stands_left_of_detections(topic, camera):
    assert camera_of(topic) == camera


def test_rule_may_be_for_cameras_that_there_are():
    topics = ['left/detections', '/line1/right/detections']
    values = {'rules': ['a'], 'detections_topics': topics, 'a.cameras': ['line1/right', 'left']}
    assert rules_from_values(values)[0].params.cameras == ('line1/right', 'left')


@pytest.mark.parametrize(
    ('topics', 'cameras', 'sentence'),
    [
        (
            {'detections_topics': ['right/detections', 'left/detections']},
            ['left', 'lft'],
            "a.cameras holds 'lft', expected names out of ['left', 'right']: what stands left of /detections",
        ),
        ({}, ['left'], "a.cameras holds 'left', expected names out of []: what stands left of /detections"),
        ({}, [''], "a.cameras holds '', expected names out of []"),
    ],
    ids=['misspelt', 'one camera without a name', 'empty name'],
)
def test_rule_for_a_camera_that_there_is_not_is_refused(topics, cameras, sentence):
    with pytest.raises(ConfigurationError) as refused:
        rules_from_values({'rules': ['a'], 'a.cameras': cameras, **topics})
    assert str(refused.value).startswith(sentence)


def test_rule_described_but_not_in_force_is_named():
    assert check_names(['rules', 'b.classes', 'a.classes', 'c.latch'], ['a']) == ['b', 'c']


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('source_timout', "'source_timeout'"),
        ('gate.clases', "'gate.classes'"),
        ('gate.min_scor', "'gate.min_score'"),
        ('no-name.classes', "'gate.classes'"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_known_one(name, hint):
    with pytest.raises(ConfigurationError, match=f'{name} is not a parameter of this node, did you mean {hint}'):
        check_names([name], ['gate'])


@pytest.mark.parametrize('name', BUILT_IN)
def test_rule_cannot_be_called_like_what_holds_without_a_rule(name):
    with pytest.raises(ConfigurationError, match=f'rules holds {name!r}, expected .* built-in cause'):
        rules_from_values({'rules': [name]})
