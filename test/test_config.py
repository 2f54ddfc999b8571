"""The shipped configuration agrees with the parameters that the nodes declare."""

import re
from pathlib import Path

import pytest
import yaml

from edge_vision.params import BridgeParams, CameraParams, DecisionParams, DetectorParams, from_values, specs
from edge_vision.rules import RuleParams, check_names, rules_from_values

CONFIG = Path(__file__).resolve().parent.parent / 'config'
TWIST_MUX = CONFIG / 'twist_mux.yaml'
FILES = sorted(set(CONFIG.glob('*.yaml')) - {TWIST_MUX})
CLASSES = {cls.NODE: cls for cls in (CameraParams, DetectorParams, DecisionParams, BridgeParams)}


def parameters(text, node):
    """Return what a file gives to a node, under the key that holds in every namespace."""
    return yaml.safe_load(text).get(f'/**/{node}', {}).get('ros__parameters', {})


def section(text, node):
    """Return the lines of a node in a file."""
    return re.split(r'^(?=/\*\*/)', text, flags=re.MULTILINE)[1 + list(CLASSES).index(node)].splitlines()


def comment(spec, *, live=True):
    """Describe a parameter as the file of defaults does."""
    choices = f' [{" | ".join(spec.one_of)}]' if spec.one_of else ''
    return f'# {spec.description}{choices}{"" if spec.read_only or not live else " (live)"}'


@pytest.fixture(scope='module')
def defaults():
    return (CONFIG / 'edge_vision.yaml').read_text(encoding='utf-8')


@pytest.mark.parametrize('node', CLASSES)
def test_file_of_defaults_has_every_parameter_at_its_default(defaults, node):
    expected = {s.name: s.default for s in specs(CLASSES[node]) if s.default != ()}
    given = parameters(defaults, node)
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()} == expected
    assert {k: type(v) for k, v in given.items() if not isinstance(v, list)} == {
        k: type(v) for k, v in expected.items() if not isinstance(v, tuple)
    }


@pytest.mark.parametrize('node', CLASSES)
def test_every_parameter_in_the_file_of_defaults_stands_under_its_description(defaults, node):
    lines = [line.strip() for line in section(defaults, node)]
    for spec in specs(CLASSES[node]):
        key = f'# {spec.name}: ' if spec.default == () else f'{spec.name}: '
        assert any(line.startswith(key) and lines[i - 1] == comment(spec) for i, line in enumerate(lines)), spec.name


def test_example_rules_show_every_parameter_and_load_when_uncommented(defaults):
    lines = section(defaults, 'decision')
    values = yaml.safe_load('\n'.join(m[1] for line in lines if (m := re.match(r'    # ([\w.]+: .*)', line))))
    assert check_names(values, values['rules']) == []
    assert [rule.name for rule in rules_from_values(values)] == ['defect_at_gate', 'person_in_cell']
    for spec in specs(RuleParams, 'defect_at_gate.'):
        assert spec.name in values
        assert f'    # {comment(spec, live=False)}' in lines


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_shipped_file_holds_in_every_namespace(path):
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert set(content) <= {f'/**/{node}' for node in CLASSES}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
@pytest.mark.parametrize('node', CLASSES)
def test_nodes_accept_the_shipped_file(path, node):
    values = parameters(path.read_text(encoding='utf-8'), node)
    from_values(CLASSES[node], values)
    if node == 'decision':
        rules = [rule.name for rule in rules_from_values(values)]
        assert check_names(values, rules) == []
    else:
        assert set(values) <= {spec.name for spec in specs(CLASSES[node])}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_ros_can_read_every_list_of_the_shipped_file(path):
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    lists = [v for node in content.values() for v in node['ros__parameters'].values() if isinstance(v, list)]
    assert all(len({type(item) for item in values}) == 1 for values in lists)


def test_lock_of_twist_mux_outranks_every_source_and_outlives_a_lost_heartbeat():
    given = yaml.safe_load(TWIST_MUX.read_text(encoding='utf-8'))['twist_mux']['ros__parameters']
    decision = DecisionParams()
    (lock,) = given['locks'].values()
    assert lock['topic'] in decision.outputs
    assert lock['priority'] > max(topic['priority'] for topic in given['topics'].values())
    assert 2 / decision.heartbeat_rate < lock['timeout'] <= decision.source_timeout
    assert given['use_stamped'] == decision.stamped_cmd_vel
