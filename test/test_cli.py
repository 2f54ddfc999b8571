import subprocess
import sys
from pathlib import Path

import pytest

from edge_vision.cli import COMMANDS, NODES
from models import fixed_boxes

DEADLINE = 60.0


@pytest.fixture
def edge_vision(ros_environment, tmp_path):  # noqa: ARG001  the environment is inherited
    """Run ``edge_vision`` as a user would, in an empty directory."""

    def run(*arguments):
        command = [sys.executable, '-m', 'edge_vision', *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    return run


def refusal(result):
    """Return the one line that says what is wrong."""
    assert result.returncode not in (0, -6, -11), result.stderr
    assert 'Traceback' not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith('edge_vision: error: ')]
    assert result.stderr.endswith(line + '\n')
    return line.removeprefix('edge_vision: error: ')


def test_help_lists_every_command(edge_vision):
    result = edge_vision('--help')
    assert result.returncode == 0
    for name in [*COMMANDS, *NODES]:
        assert name in result.stdout.split()


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_a_command_lists_its_arguments(edge_vision, name):
    result = edge_vision(name, '--help')
    assert result.returncode == 0
    assert f'usage: edge_vision {name} [-h]' in result.stdout
    assert COMMANDS[name].help[1:] in ' '.join(result.stdout.split())


@pytest.mark.parametrize('name', NODES)
def test_help_of_a_node_says_how_to_give_parameters(edge_vision, name):
    result = edge_vision(name, '--help')
    assert result.returncode == 0
    assert '--ros-args' in result.stdout


@pytest.mark.parametrize('arguments', [[], ['nosuch'], ['--frob']], ids=['nothing', 'command', 'option'])
def test_unusable_command_line_is_refused_with_the_usage(edge_vision, arguments):
    result = edge_vision(*arguments)
    assert result.returncode == 2
    assert 'usage: edge_vision' in result.stderr
    assert 'Traceback' not in result.stderr


def test_output_that_nobody_reads_is_no_error(ros_environment):  # noqa: ARG001  it is inherited
    command = [sys.executable, '-m', 'edge_vision', 'doctor', '--json']
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as doctor:
        doctor.stdout.close()
        assert doctor.stderr.read() == ''
        assert doctor.wait(DEADLINE) == 1


def test_full_output_is_said_in_one_line(ros_environment):  # noqa: ARG001  it is inherited
    command = [sys.executable, '-m', 'edge_vision', 'doctor']
    with Path('/dev/full').open('w') as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=False)
    assert refusal(done) == 'output: No space left on device'


def test_detect_refuses_a_missing_model(edge_vision, tmp_path):
    result = edge_vision('detect', 'a.png', '--model', tmp_path / 'none.onnx')
    assert refusal(result).startswith(f"model file '{tmp_path}/none.onnx' does not exist")


def test_detect_refuses_a_model_that_is_none(edge_vision, tmp_path):
    (tmp_path / 'model.onnx').write_text('not a model')
    assert 'model.onnx' in refusal(edge_vision('detect', 'a.png', '--model', 'model.onnx'))


def test_detect_refuses_a_missing_picture(edge_vision, tmp_path):
    model = fixed_boxes(tmp_path / 'model.onnx', [(48, 32, 20, 20, 0.9, 0.0)])
    assert 'none.png' in refusal(edge_vision('detect', tmp_path / 'none.png', '--model', model))


def given(*parameters):
    return [word for parameter in parameters for word in ('-p', parameter)]


@pytest.mark.parametrize(
    ('node', 'arguments', 'sentence'),
    [
        ('decision_node', given('rules:=[a]', 'a.action_type:=halt'), "a.action_type is 'halt', expected one of"),
        ('decision_node', given('source_timeout:=soon'), "source_timeout is 'soon', expected a number"),
        ('decision_node', given('sorce_timeout:=0.2'), "did you mean 'source_timeout'?"),
        ('decision_node', given('a.clases:=[dent]'), 'a.clases is not a parameter of this node'),
        ('decision_node', given('detections_topics:=["a b"]'), 'Invalid topic name'),
        ('decision_node', ['-p', 'rules'], "Couldn't parse parameter override rule: '-p rules'"),
        ('decision_node', ['-r', '__node:=1'], "Couldn't parse remap rule: '-r __node:=1'"),
        ('decision_node', ['--frob'], "unknown arguments after --ros-args: ['--frob']"),
        ('decision_node', ['--params-file', 'none.yaml'], "Couldn't parse params file: '--params-file none.yaml'"),
        ('decision_node', ['--params-file', 'broken.yaml'], "Couldn't parse params file: '--params-file broken.yaml'"),
        ('decision_node', ['--params-file', 'halt.yaml'], "a.action_type is 'halt', expected one of"),
        ('camera_node', given('camera_info_url:=none.yaml'), "camera_info_url is 'none.yaml', which cannot be read"),
        ('camera_node', given('video_device:=sim://nowhere'), "video_device 'sim://nowhere' names no simulator"),
        ('detector_node', given('model_file_path:=none.onnx'), "model file 'none.onnx' does not exist"),
        ('bridge_node', given('spool.directory:=/proc/none'), "cannot open the spool in '/proc/none'"),
        ('pipeline', given('spool.directory:=spool', 'rules:=[1]'), 'rules holds 1, expected a list of strings'),
        ('pipeline', given('spool.directory:=spool', 'model_file_path:=none.onnx'), "model file 'none.onnx' does not"),
    ],
)  # fmt: skip
def test_node_refuses_what_it_cannot_use_in_one_line(edge_vision, tmp_path, node, arguments, sentence):
    (tmp_path / 'broken.yaml').write_text('decision:\n  ros__parameters:\n    rules: [a\n')
    (tmp_path / 'halt.yaml').write_text('decision: {ros__parameters: {rules: [a], a.action_type: halt}}\n')
    result = edge_vision(node, '--ros-args', *arguments)
    assert result.returncode == 1
    assert sentence in refusal(result)


def test_arguments_that_ros_would_not_see_are_refused(edge_vision):
    result = edge_vision('decision_node', 'params.yaml')
    assert result.returncode == 2
    assert refusal(result) == "arguments are ['params.yaml'], expected --ros-args before all of them"
