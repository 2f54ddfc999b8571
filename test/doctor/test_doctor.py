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
