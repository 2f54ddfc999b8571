import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_vision.demo import command, line
from edge_vision.demo.processes import Child, ChildFailed, end
from edge_vision.errors import ConfigurationError, EdgeVisionError
from models import fixed_boxes

FIELDS = {
    'duration_s', 'frames_captured', 'frames_processed', 'fps', 'inference_ms', 'reaction_ms', 'stop_reaction_ms',
    'overhead_ms', 'parts_total', 'defects_total', 'defects_stopped', 'defects_missed', 'false_stops',
    'events_flagged', 'events_delivered', 'events_duplicated', 'bytes_captured', 'bytes_sent', 'backend', 'model',
    'mode',
}  # fmt: skip


def demo(*arguments, timeout=150):
    words = [sys.executable, '-m', 'edge_vision', 'demo', *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def model(tmp_path):
    """A model that always sees a dent in the middle of the picture."""
    path = tmp_path / 'dent.onnx'
    fixed_boxes(path, [(52.0, 32.0, 10.0, 10.0, 0.0, 0.9, 0.0, 0.0)], labels=('part', 'dent', 'scratch', 'stain'))
    return path


@pytest.mark.parametrize('mode', ['composed', 'separate'])
def test_a_dent_stops_the_line_and_its_event_arrives_once(tmp_path, model, mode):
    report_file = tmp_path / 'report.json'
    ran = demo(
        '--mode', mode, '--model', model, '--duration', 3, '--framerate', 15, '--cloud-delay', 'none',
        '--output', tmp_path / 'out', '--report', report_file,
    )  # fmt: skip
    assert 'Traceback' not in ran.stderr, ran.stderr
    report = json.loads(report_file.read_text())
    assert report.keys() >= FIELDS
    assert report['mode'] == mode
    assert report['frames_processed'] > 0
    assert report['events_delivered'] == report['events_flagged'] >= 1
    assert report['events_duplicated'] == 0
    assert 0 < report['bytes_sent'] < report['bytes_captured']
    assert (tmp_path / 'out' / 'stops.png').stat().st_size > 1000
    assert (tmp_path / 'out' / 'annotated.mp4').stat().st_size > 1000


def test_the_domain_is_one_that_nobody_has_left_memory_of(tmp_path):
    for domain in set(command.DOMAINS) - {42}:
        (tmp_path / f'fastdds_port{7410 + 250 * domain}').touch()
    (tmp_path / 'fastdds_port7000').touch()
    (tmp_path / 'fastdds_port17911_el').touch()
    assert command.unused_domain(tmp_path) == 42
    (tmp_path / 'fastdds_port17911').touch()
    assert command.unused_domain(tmp_path) in command.DOMAINS


def broken(tmp_path, name, text='garbage'):
    path = tmp_path / name
    path.write_text(text)
    return path


def rules(text):
    return f'decision:\n  ros__parameters:\n    rules: ["a"]\n{text}'


BAD = {
    'missing model': lambda t, m: (['--model', t / 'no.onnx'], 'no.onnx'),
    'not a model': lambda t, m: (['--model', broken(t, 'bad.onnx')], 'bad.onnx'),
    'missing video': lambda t, m: (['--model', m, '--source', t / 'no.mp4'], 'does not exist'),
    'unreadable video': lambda t, m: (['--model', m, '--source', broken(t, 'bad.mp4')], 'no readable picture'),
    'unknown value': lambda t, m: (
        ['--model', m, '--params-file', broken(t, 'a.yaml', rules('    a.action_type: "halt"\n'))],
        "action_type is 'halt', expected one of",
    ),
    'unknown name': lambda t, m: (
        ['--model', m, '--params-file', broken(t, 'a.yaml', rules('    a.min_scoer: 0.4\n'))],
        "did you mean 'a.min_score'?",
    ),
    'broken yaml': lambda t, m: (['--model', m, '--params-file', broken(t, 'a.yaml', 'a: [')], 'is not YAML'),
    'missing params file': lambda t, m: (['--model', m, '--params-file', t / 'no.yaml'], 'no.yaml'),
    'unwritable output': lambda t, m: (['--model', m, '--output', broken(t, 'file') / 'x'], 'cannot be written'),
    'unwritable report': lambda t, m: (['--model', m, '--report', t / 'no' / 'r.json'], 'cannot be written'),
    'no such broker': lambda t, m: (['--model', m, '--broker', '127.0.0.1:1'], 'cannot be reached'),
    'precision that the backend lacks': lambda t, m: (
        ['--model', m, '--backend', 'onnxruntime', '--precision', 'fp16'],
        "precision is 'fp16'",
    ),
    'bad delay': lambda t, m: (['--model', m, '--cloud-delay', 'soon'], "'soon'"),
}


def assert_one_line(ran, reason):
    assert ran.returncode != 0
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert ran.stderr.startswith('edge_vision: error: ')
    assert reason in ran.stderr


@pytest.mark.parametrize('case', BAD)
def test_bad_input_ends_with_one_line_that_says_why(tmp_path, model, case):
    arguments, reason = BAD[case](tmp_path, model)
    assert_one_line(demo('--output', tmp_path / 'out', '--duration', 1, *arguments), reason)


def test_a_port_in_use_ends_with_one_line_that_says_so(tmp_path, model):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        ran = demo('--output', tmp_path / 'out', '--model', model, '--broker-port', port)
    assert_one_line(ran, 'in use')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('200', (0.2, 0.2)), ('50-500', (0.05, 0.5)), ('none', None), ('0', None)],
)
def test_a_round_trip_is_a_number_a_range_or_none(text, expected):
    assert command.read_round_trip(text) == expected


@pytest.mark.parametrize('text', ['', '-5', '500-50', '1e9', 'nan', '50-'])
def test_a_round_trip_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigurationError, match='expected milliseconds'):
        command.read_round_trip(text)


def test_rules_are_read_from_any_node_pattern(tmp_path):
    path = tmp_path / 'p.yaml'
    path.write_text('/**/decision:\n  ros__parameters:\n    rules: ["a"]\n    a:\n      min_score: 0.7\n')
    (rule,) = command.read_rules(Path(path))
    assert (rule.name, rule.params.min_score) == ('a', 0.7)


@pytest.fixture
def child(tmp_path):
    """Start a child process that ends at once, or runs until it is told to end."""
    children = []

    def start(*arguments):
        children.append(Child('detector', arguments, tmp_path / 'detector.log', {}))
        return children[-1]

    yield start
    end(children)


def test_a_wait_for_the_model_is_told_of_and_goes_on_until_something_is_decided(tmp_path, child, monkeypatch, capsys):
    monkeypatch.setattr(line, 'PATIENCE', 0.0)
    server = child('http.server', '0', '--bind', '127.0.0.1')
    latest = {}
    decided = threading.Timer(0.5, latest.update, [{'fps': 30.0}])
    decided.start()
    line.wait_for_decision(latest, [server], tmp_path)
    decided.join()
    told = capsys.readouterr().out
    assert told.count('\n') == 1
    assert 'TensorRT engine takes minutes' in told
    assert str(tmp_path) in told


def test_a_child_that_dies_ends_the_wait(tmp_path, child):
    with pytest.raises(ChildFailed, match='detector ended with exit code'):
        line.wait_for_decision({}, [child('json.tool', str(tmp_path / 'none.json'))], tmp_path)


def test_the_wait_ends_in_the_end(tmp_path, child, monkeypatch):
    monkeypatch.setattr(line, 'START_TIMEOUT', 0.0)
    with pytest.raises(EdgeVisionError, match='no frame was decided'):
        line.wait_for_decision({}, [child('http.server', '0', '--bind', '127.0.0.1')], tmp_path)
