import numpy as np
import pytest

from edge_vision.detections import Detections
from edge_vision.errors import ConfigurationError
from edge_vision.rules import Rule, RuleParams, check_names, rules_from_values

BOTTOM = (0.0, 0.9, 1.0, 0.9, 1.0, 1.0, 0.0, 1.0)
RIGHT = (0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0)


def detections(*found, image_size=(640, 480)):
    labels, scores, boxes = zip(*found, strict=True) if found else ((), (), ())
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(1, 'camera', xyxy, np.array(scores, np.float32), labels, image_size=image_size)


def matches(params, *found, **kwargs):
    return Rule('gate', RuleParams(**params)).matches(detections(*found, **kwargs)).tolist()


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
        ({'rules': ['a'], 'a.points': [0.1, 0.2]}, 'a.points has 2 numbers'),
        ({'rules': ['a'], 'a.points': [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]}, 'a.points crosses'),
    ],
)
def test_unusable_rules_are_refused_in_one_sentence(values, sentence):
    with pytest.raises(ConfigurationError) as refused:
        rules_from_values(values)
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
