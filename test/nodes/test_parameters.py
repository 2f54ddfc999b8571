import pytest
from rclpy.parameter import Parameter

from edge_vision.errors import ConfigurationError
from edge_vision.nodes.decision_node import DecisionNode
from edge_vision.nodes.parameters import declare, declare_and_follow
from edge_vision.params import CLASSES, CameraParams, DecisionParams, DetectorParams, specs
from edge_vision.rules import RuleParams


@pytest.fixture
def detector(make_node):
    """Give a node with the detector's parameters that notes what it is set to."""
    node = make_node(node_name='detector')
    node.applied = []
    declare_and_follow(node, DetectorParams, node.applied.append)
    return node


def refused(node, **values):
    results = node.set_parameters([Parameter(name, value=value) for name, value in values.items()])
    assert not all(result.successful for result in results)
    return ' '.join(result.reason for result in results)


@pytest.mark.parametrize('cls', [*CLASSES.values(), RuleParams])
def test_every_parameter_is_declared_with_default_description_and_bounds(make_node, cls):
    node = make_node(node_name='node')
    assert declare(node, cls) == cls()
    for spec in specs(cls):
        described = node.describe_parameter(spec.name)
        assert described.description == spec.description
        assert described.read_only == spec.read_only
        ranges = [*described.floating_point_range, *described.integer_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([spec.bounds] if spec.bounds else [])


def test_values_given_at_start_are_read(make_node):
    given = {'confidence_threshold': 0.5, 'classes': ['dent'], 'threads': 2}
    node = make_node(node_name='detector', parameters=given)
    assert declare(node, DetectorParams) == DetectorParams(confidence_threshold=0.5, classes=('dent',), threads=2)


def test_whole_number_given_for_a_number_is_taken(make_node):
    node = make_node(node_name='detector', parameters={'confidence_threshold': 1})
    assert declare(node, DetectorParams).confidence_threshold == 1.0


def test_list_without_items_is_taken(make_node):
    node = make_node(node_name='detector')
    node._parameter_overrides['classes'] = Parameter('classes')  # what [] of a file or command line becomes
    assert declare(node, DetectorParams).classes == ()


def test_parameters_of_the_other_nodes_are_let_pass(make_node):
    node = make_node(node_name='camera', parameters={'confidence_threshold': 0.5, 'rules': ['a']})
    assert declare_and_follow(node, CameraParams) == CameraParams()


def test_unknown_parameter_stops_the_node_with_the_nearest_name(make_node):
    node = make_node(node_name='camera', parameters={'frame_rate': 10.0})
    with pytest.raises(ConfigurationError, match=r"frame_rate is not .* did you mean 'framerate'"):
        declare_and_follow(node, CameraParams)


def test_unusable_value_stops_the_node(make_node):
    node = make_node(node_name='detector', parameters={'nms_threshold': 2.0})
    with pytest.raises(ConfigurationError, match=r'nms_threshold is 2\.0, expected a number from 0\.0 to 1\.0'):
        declare_and_follow(node, DetectorParams)


def test_later_set_is_applied(detector):
    (result,) = detector.set_parameters([Parameter('confidence_threshold', value=0.5)])
    assert result.successful
    assert detector.applied[-1] == DetectorParams(confidence_threshold=0.5)


def test_unusable_set_is_refused_with_the_reason(detector):
    assert 'classes holds' in refused(detector, classes=[1, 2])
    assert refused(detector, confidence_threshold=2.0)
    assert detector.get_parameter('confidence_threshold').value == 0.25
    assert not detector.applied


def test_set_of_several_is_refused_whole(detector):
    values = [Parameter('confidence_threshold', value=0.5), Parameter('nms_threshold', value='much')]
    assert not detector.set_parameters_atomically(values).successful
    assert detector.get_parameter('confidence_threshold').value == 0.25
    assert not detector.applied


def test_read_only_parameter_cannot_be_set(detector):
    assert 'read-only' in refused(detector, backend='openvino')
    assert detector.get_parameter('backend').value == 'auto'


def test_clock_cannot_be_exchanged_while_it_runs(detector):
    assert refused(detector, use_sim_time=True) == 'use_sim_time can only be set at start'
    together = [Parameter('confidence_threshold', value=0.5), Parameter('use_sim_time', value=True)]
    assert not detector.set_parameters_atomically(together).successful
    assert not detector.applied
    assert not detector.get_clock().ros_time_is_active
    assert detector.set_parameters([Parameter('use_sim_time', value=False)])[0].successful


@pytest.fixture
def decision(make_node):
    return make_node(DecisionNode, parameters={'rules': ['gate'], 'gate.classes': ['dent']})


def test_rules_described_at_start_are_declared(decision):
    assert decision.get_parameter('gate.classes').value == ['dent']
    assert decision.describe_parameter('gate.min_score').floating_point_range[0].to_value == 1.0


def test_rule_can_be_changed_while_it_runs(decision):
    (result,) = decision.set_parameters([Parameter('gate.min_score', value=0.9)])
    assert result.successful
    assert decision._rules[0].params == RuleParams(classes=('dent',), min_score=0.9)


def test_rule_can_be_added_while_it_runs(decision):
    described = [Parameter('cell.classes', value=['person']), Parameter('cell.min_score', value=1)]
    assert all(result.successful for result in decision.set_parameters(described))
    (result,) = decision.set_parameters([Parameter('rules', value=['gate', 'cell'])])
    assert result.successful
    (result,) = decision.set_parameters([Parameter('cell.min_score', value=0.5)])
    assert result.successful
    assert [rule.name for rule in decision._rules] == ['gate', 'cell']
    assert decision._rules[1].params == RuleParams(classes=('person',), min_score=0.5)


@pytest.mark.parametrize(
    ('values', 'reason'),
    [
        ({'gate.action_type': 'halt'}, "gate.action_type is 'halt', expected one of"),
        ({'gate.points': [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]}, 'gate.points crosses or touches itself'),
        ({'gate.clases': ['dent']}, "gate.clases is not a parameter of this node, did you mean 'gate.classes'"),
        ({'sorce_timeout': 0.5}, "sorce_timeout is not a parameter of this node, did you mean 'source_timeout'"),
        ({'rules': ['gate', 'gate']}, "rules holds 'gate' twice"),
        ({'rules': ['source_timeout']}, "rules holds 'source_timeout'"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_whole(decision, values, reason):
    before = decision._rules
    assert reason in refused(decision, **values)
    assert decision._rules is before
    assert not decision.has_parameter('gate.clases')


def test_every_rule_can_be_taken_out_while_it_runs(decision):
    (result,) = decision.set_parameters([Parameter('rules', Parameter.Type.STRING_ARRAY, [])])
    assert result.successful
    assert decision._rules == ()
    assert decision.get_parameter('rules').value == list(DecisionParams().rules)
