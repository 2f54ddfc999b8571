"""The whole command, on this machine as it is."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import edge_vision

DEADLINE = 120.0
CHECKOUT = Path(edge_vision.__file__).resolve().parents[1]


def doctor(*arguments, python=sys.executable, **environment):
    return subprocess.run(
        [python, '-m', 'edge_vision', 'doctor', *map(str, arguments)],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def findings(result):
    return {finding['name']: finding for finding in json.loads(result.stdout)['findings']}


@pytest.fixture
def line(tmp_path, mosquitto):
    """Give a parameters file of which everything works here."""

    def write(**changes):
        values = {'source': 'sim://conveyor', 'port': mosquitto.port, 'backend': 'auto', **changes}
        path = tmp_path / 'line.yaml'
        path.write_text(
            f'camera: {{ros__parameters: {{video_device: "{values["source"]}"}}}}\n'
            f'detector: {{ros__parameters: {{backend: {values["backend"]}}}}}\n'
            f'bridge: {{ros__parameters: {{broker.port: {values["port"]}, spool.directory: {tmp_path}/spool}}}}\n'
        )
        return path

    return write


def test_a_pipeline_that_can_run_is_ready(ros_environment, line, tmp_path):  # noqa: ARG001
    pytest.importorskip('rclpy')
    path = line()
    result = doctor('--params-file', path, '--json')
    content = json.loads(result.stdout)
    assert (result.returncode, content['ready']) == (0, True), content['verdict']
    assert findings(result)['broker']['status'] == 'ok'
    assert result.stderr == ''
    assert sorted(p.name for p in tmp_path.iterdir()) == ['line.yaml', 'mosquitto']  # nothing was made


@pytest.mark.parametrize(
    ('changes', 'name', 'word'),
    [
        ({'source': '/dev/video_none'}, 'source', 'does not exist'),
        ({'port': 1}, 'broker', 'nothing listens there'),
        ({'backend': 'tensort'}, 'parameters', "backend is 'tensort'"),
    ],
    ids=['camera', 'broker', 'parameter'],
)
def test_what_the_pipeline_lacks_makes_it_fail(line, changes, name, word):
    result = doctor('--params-file', line(**changes), '--json')
    finding = findings(result)[name]
    assert result.returncode == 1
    assert finding['status'] == 'fail'
    assert word in finding['found']
    assert finding['way_out'] or finding['command']


def test_every_problem_says_how_it_is_mended(line):
    result = doctor('--params-file', line(source='/dev/null', port=1), '--json', ROS_DOMAIN_ID='300')
    problems = [f for f in json.loads(result.stdout)['findings'] if f['status'] in ('warn', 'fail')]
    assert len(problems) >= 3
    assert [f for f in problems if not (f['way_out'] or f['command'])] == []


def test_another_model_is_judged_in_place_of_the_configured_one(tmp_path):
    result = doctor('--model', tmp_path / 'none.onnx', '--json')
    assert result.returncode == 1
    assert 'none.onnx' in findings(result)['model']['found']


def test_a_parameters_file_that_is_none_is_refused_in_one_line(tmp_path):
    result = doctor('--params-file', tmp_path / 'none.yaml')
    assert (result.returncode, result.stdout) == (1, '')
    assert result.stderr.startswith('edge_vision: error: --params-file is ')
    assert result.stderr.count('\n') == 1


def test_the_page_is_plain_text_where_it_is_no_terminal(line):
    result = doctor('--params-file', line(), COLUMNS='80', PYTHONIOENCODING='ascii')
    assert '\033' not in result.stdout
    assert result.stdout.isascii()
    for title in ('Configuration', 'Machine', 'ROS', 'Cameras', 'Inference', 'Way to the cloud'):
        assert f'\n{title}\n' in result.stdout


def test_there_is_a_page_where_nothing_is_installed_yet(tmp_path):
    venv.create(tmp_path / 'bare', symlinks=True)
    hidden = {'PYTHONPATH': '', 'AMENT_PREFIX_PATH': '', 'LD_LIBRARY_PATH': '', 'ROS_DISTRO': ''}
    result = doctor('--json', python=tmp_path / 'bare' / 'bin' / 'python', **hidden)
    assert result.stderr == ''
    assert result.returncode == 1
    found = findings(result)
    assert [found[name]['status'] for name in ('ROS 2', 'OpenCV', 'OpenVINO', 'ONNX Runtime')] == ['fail'] * 4
    assert found['processor']['found']
    assert not [name for name, finding in found.items() if 'could not be looked at' in finding['found']]


@pytest.fixture
def given(tmp_path):
    """Write a parameters file of a detector and rules."""

    def write(detector='', decision=''):
        path = tmp_path / 'given.yaml'
        path.write_text(
            f'detector: {{ros__parameters: {{{detector}}}}}\ndecision: {{ros__parameters: {{{decision}}}}}\n'
        )
        return path

    return write


@pytest.mark.parametrize(
    ('detector', 'word', 'way_out'),
    [
        ('backend: openvino, precision: int8', "precision is 'int8'", 'set precision: "fp32"'),
        ('backend: onnxruntime, precision: fp16', "precision is 'fp16'", 'set precision: "fp32"'),
        ('classes: ["scrach"]', "classes holds 'scrach'", "correct the detector's classes"),
        ('providers: ["CPUExecutionProvider", "CPUExecutionProvider"]', "'CPUExecutionProvider' last", 'no providers'),
    ],
)
def test_what_the_runtime_refuses_at_the_start_is_a_failure(given, detector, word, way_out):
    result = doctor('--params-file', given(detector), '--json')
    finding = findings(result)['model']
    assert (result.returncode, finding['status']) == (1, 'fail')
    assert word in finding['found']
    assert way_out in finding['way_out']


def test_a_rule_for_a_class_that_the_model_lacks_is_a_failure(given):
    rules = 'rules: ["defect"], defect.classes: ["scrach", "dent"]'
    result = doctor('--params-file', given(decision=rules), '--json')
    finding = findings(result)['rules']
    assert (result.returncode, finding['status']) == (1, 'fail')
    for word in ('defect.classes', "'scrach'", "'scratch'"):
        assert word in finding['found']
    assert 'dent' not in finding['found']


def test_a_rule_for_a_class_that_the_detector_leaves_out_is_a_failure(given):
    rules = 'rules: ["defect"], defect.classes: ["scratch", "dent"]'
    result = doctor('--params-file', given('classes: ["dent"]', rules), '--json')
    finding = findings(result)['rules']
    assert (result.returncode, finding['status']) == (1, 'fail')
    assert "defect.classes holds 'scratch'" in finding['found']
    assert "'dent', which" not in finding['found']


def test_a_rule_that_asks_for_lower_scores_than_the_detector_reports_is_warned_of(given):
    rules = 'rules: ["defect"], defect.classes: ["dent"], defect.min_score: 0.3'
    finding = findings(doctor('--params-file', given('confidence_threshold: 0.4', rules), '--json'))['rules']
    assert finding['status'] == 'warn'
    assert 'defect.min_score is 0.3, below the confidence_threshold of the detector, 0.4' in finding['found']


def test_a_rule_that_the_model_can_meet_says_nothing_more(given):
    result = doctor('--params-file', given(decision='rules: ["defect"], defect.classes: ["scratch"]'), '--json')
    assert 'rules' not in findings(result)
    assert 'rules defect' in findings(result)['parameters']['found']


@pytest.mark.parametrize('decision', ['', 'rules: ["defect"], defect.enabled: false, defect.classes: ["scrach"]'])
def test_a_pipeline_without_rules_in_force_is_warned_of(given, decision):
    finding = findings(doctor('--params-file', given(decision=decision), '--json'))['rules']
    assert finding['status'] == 'warn'
    assert 'nothing that is seen will stop anything' in finding['found']


@pytest.mark.parametrize(
    ('name', 'content', 'word', 'mended'),
    [
        ('a.xml', '<xml/>', 'no metadata.yaml', 'the whole folder'),
        ('a.onnx', 'no model', 'is damaged', 'export it again'),
        ('a b.pt', '', 'nothing here runs it', "model='{path}' format=onnx"),
        ('a.txt', '', "ends in '.txt'", 'with --model'),
    ],
)
def test_the_way_out_of_a_bad_model_is_about_the_file(tmp_path, name, content, word, mended):
    path = tmp_path / name
    path.write_text(content)
    result = doctor('--model', path, '--json')
    finding = findings(result)['model']
    if finding['details'] and 'tensorrt' in finding['details'][0]:
        pytest.skip('TensorRT reads it here')
    assert (result.returncode, finding['status']) == (1, 'fail')
    assert word in finding['found']
    assert mended.format(path=path) in finding['way_out'] + finding['command']
    assert 'model_file_path' not in finding['way_out']


def test_an_engine_cache_that_is_a_file_is_not_given_away(tmp_path):
    (tmp_path / 'cache').touch()
    result = doctor('--json', EDGE_VISION_ENGINE_CACHE=str(tmp_path / 'cache'))
    finding = findings(result)['engine cache']
    assert 'is no directory' in finding['found']
    assert finding['way_out'] == 'name a directory in EDGE_VISION_ENGINE_CACHE'
    assert finding['command'] == ''
