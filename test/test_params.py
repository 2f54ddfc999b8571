import array
import dataclasses

import pytest

from edge_vision.errors import ConfigurationError
from edge_vision.params import (
    BridgeParams,
    CameraParams,
    DecisionParams,
    DetectorParams,
    from_values,
    meant_for,
    specs,
    unknown_name,
)
from edge_vision.rules import RuleParams

CLASSES = [CameraParams, DetectorParams, DecisionParams, BridgeParams, RuleParams]
every_class = pytest.mark.parametrize('cls', CLASSES, ids=lambda cls: cls.__name__)


def spec(cls, name):
    return next(s for s in specs(cls) if s.name == name)


@every_class
def test_defaults_pass_their_own_check(cls):
    assert from_values(cls, {s.name: s.default for s in specs(cls)}) == cls()


@every_class
def test_every_parameter_is_described_in_one_line(cls):
    for s in specs(cls):
        assert s.description
        assert '\n' not in s.description


@every_class
def test_names_of_a_class_are_unique(cls):
    names = [s.name for s in specs(cls)]
    assert len(set(names)) == len(names)


def test_specs_carry_ros_names_behind_the_prefix():
    names = [s.name for s in specs(BridgeParams, 'bridge.')]
    assert 'bridge.broker.host' in names
    assert spec(BridgeParams, 'broker.host').field == 'broker_host'


@pytest.mark.parametrize(
    ('cls', 'name', 'value', 'sentence'),
    [
        (DetectorParams, 'backend', 'tensorflow', "backend is 'tensorflow', expected one of ['auto', "),
        (DetectorParams, 'confidence_threshold', 1.5, 'confidence_threshold is 1.5, expected a number from 0.0 to 1.0'),
        (DetectorParams, 'confidence_threshold', -0.1, 'expected a number from 0.0 to 1.0'),
        (DetectorParams, 'confidence_threshold', '0.5', "confidence_threshold is '0.5', expected a number"),
        (DetectorParams, 'confidence_threshold', float('nan'), 'expected a finite number'),
        (DetectorParams, 'confidence_threshold', float('inf'), 'expected a finite number'),
        (DetectorParams, 'confidence_threshold', True, 'confidence_threshold is True, expected a number'),
        (DetectorParams, 'confidence_threshold', None, 'confidence_threshold is None, expected a number'),
        (DetectorParams, 'threads', 1.0, 'threads is 1.0, expected a whole number'),
        (DetectorParams, 'threads', True, 'threads is True, expected a whole number'),
        (DetectorParams, 'threads', -1, 'threads is -1, expected a number from 0 to 256'),
        (DetectorParams, 'model_file_path', 3, 'model_file_path is 3, expected a string'),
        (DetectorParams, 'classes', 'dent', "classes is 'dent', expected a list of strings"),
        (DetectorParams, 'classes', ['dent', 3], 'classes holds 3, expected a list of strings'),
        (DetectorParams, 'classes', 3, 'classes is 3, expected a list of strings'),
        (CameraParams, 'loop', 'true', "loop is 'true', expected a true or false"),
        (CameraParams, 'loop', 1, 'loop is 1, expected a true or false'),
        (BridgeParams, 'broker.port', 0, 'broker.port is 0, expected a number from 1 to 65535'),
        (RuleParams, 'action_type', 'halt', "action_type is 'halt', expected one of ['stop', 'slowdown', 'alarm', "),
        (RuleParams, 'points', [0.0, '1'], "points holds '1', expected a list of numbers"),
        (RuleParams, 'points', [0.0, float('nan')], 'points holds nan, expected a list of numbers'),
        (RuleParams, 'points', [False], 'points holds False, expected a list of numbers'),
    ],
)
def test_unusable_value_is_refused_in_one_sentence(cls, name, value, sentence):
    with pytest.raises(ConfigurationError) as refused:
        from_values(cls, {name: value})
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(name)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('value', [0.0, 1.0, 0, 1])
def test_bounds_are_allowed_themselves(value):
    assert from_values(DetectorParams, {'confidence_threshold': value}).confidence_threshold == value


def test_whole_number_is_taken_where_a_number_is_meant():
    params = from_values(DecisionParams, {'source_timeout': 1})
    assert params.source_timeout == 1.0
    assert type(params.source_timeout) is float


@pytest.mark.parametrize('points', [[0, 0, 1, 0, 1, 1.0], array.array('d', [0, 0, 1, 0, 1, 1])])
def test_list_becomes_a_tuple_of_the_type_meant(points):
    taken = from_values(RuleParams, {'points': points}).points
    assert taken == (0.0, 0.0, 1.0, 0.0, 1.0, 1.0)
    assert {type(number) for number in taken} == {float}


def test_values_are_read_behind_the_prefix_and_others_are_left_alone():
    values = {'gate.min_score': 0.9, 'min_score': 0.1, 'other.min_score': 0.2}
    assert from_values(RuleParams, values, 'gate.') == RuleParams(min_score=0.9)


def test_prefix_is_part_of_the_sentence():
    with pytest.raises(ConfigurationError, match=r"^gate\.anchor is 'top', expected one of"):
        from_values(RuleParams, {'gate.anchor': 'top'}, 'gate.')


def test_unknown_name_comes_with_the_nearest_known_one():
    known = [s.name for s in specs(DetectorParams)]
    error = unknown_name('confidence_treshold', known)
    assert str(error) == ("confidence_treshold is not a parameter of this node, did you mean 'confidence_threshold'?")
    assert 'did you mean' not in str(unknown_name('xyz', known))


def test_decision_without_anything_to_look_at_is_refused():
    with pytest.raises(ConfigurationError, match='detections_topics is empty, expected at least one topic'):
        from_values(DecisionParams, {'detections_topics': []})


@pytest.mark.parametrize(
    'topics', [['detections_left', 'detections_right'], ['line/a/left', 'line/a/right'], ['detections', '/detections']]
)
def test_cameras_that_could_not_be_told_apart_are_refused(topics):
    with pytest.raises(ConfigurationError, match='expected one namespace per camera, such as left/detections'):
        from_values(DecisionParams, {'detections_topics': topics})


def test_cameras_in_namespaces_of_their_own_are_taken():
    topics = ('detections', 'left/detections', '/line/right/seen')
    assert from_values(DecisionParams, {'detections_topics': topics}).detections_topics == topics


@pytest.mark.parametrize('half', [{'image_width': 640}, {'image_height': 480}])
def test_half_an_image_size_is_refused(half):
    with pytest.raises(ConfigurationError, match='expected both or neither'):
        from_values(DecisionParams, half)


def test_heartbeat_that_would_leave_no_time_for_anything_else_is_refused():
    with pytest.raises(ConfigurationError, match=r'heartbeat_rate is 101\.0, expected a number from 1\.0 to 100\.0'):
        from_values(DecisionParams, {'heartbeat_rate': 101.0})


def test_names_are_sorted_by_who_reads_them():
    names = ['rules', 'gate.classes', 'threads', 'use_sim_time', 'qos_overrides./stop.depth', 'image_width', 'typo']
    assert meant_for(DecisionParams, names) == ['rules', 'gate.classes', 'typo']
    assert meant_for(DetectorParams, names) == ['gate.classes', 'threads', 'typo']


def test_parameters_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetectorParams().threads = 2
