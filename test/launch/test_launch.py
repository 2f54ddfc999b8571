# ruff: noqa: E402  most of it can only be imported where there is launch
"""The launch file starts a working pipeline in both ways and keeps it running, and it ends when told to.

These tests have a run of their own, as launch takes over the logging that others check: scripts/test, or
``python -m pytest -p launch_pytest test/launch``.
"""

import os
import signal
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec('launch_pytest') is None:
    pytest.skip('launch_pytest is not installed; a ROS 2 distro has it', allow_module_level=True)
if 'launch_pytest.plugin' not in sys.modules:
    pytest.skip('launch tests are run apart, with -p launch_pytest', allow_module_level=True)
LAUNCH = tuple(map(int, version('launch_pytest').split('.')))
if LAUNCH < (3, 9) and not hasattr(pytest.fixture(print), '_pytestfixturefunction'):  # gone since pytest 8.4
    pytest.skip(f'launch_pytest {LAUNCH} needs a pytest before 8.4, as its distro has', allow_module_level=True)

import launch_pytest
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource
from mqtt_broker import free_port
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from edge_vision.nodes import qos
from edge_vision.nodes.convert import ns_from_stamp
from models import fixed_boxes

LAUNCH_FILE = Path(__file__).resolve().parents[2] / 'launch' / 'edge_vision.launch.py'
EXECUTABLES = {'true': ['pipeline'], 'false': ['bridge_node', 'camera_node', 'decision_node', 'detector_node']}
DEADLINE = 60.0  # s, about ten times what a start takes
NODES = {'camera', 'detector', 'decision', 'bridge'}
FRAMES_TO_RELEASE = 60  # so that the stop at the start holds until the observer is sure to have found the decision
PARAMETERS = f"""
/**/decision:
  ros__parameters:
    release_consecutive_frames: {FRAMES_TO_RELEASE}
    source_timeout: 5.0
"""


class Processes:
    """Keeps book of the processes that are started and of how they end."""

    def __init__(self):
        self.started = {}
        self.exit_codes = {}
        self.actions = [
            RegisterEventHandler(OnProcessStart(on_start=self._on_start)),
            RegisterEventHandler(OnProcessExit(on_exit=self._on_exit)),
        ]

    def of(self, executable):
        """List the processes of an executable in the order of their start."""
        return [pid for pid, name in self.started.items() if name == executable]

    def _on_start(self, event, _context):
        self.started[event.pid] = Path(event.cmd[0]).name

    def _on_exit(self, event, _context):
        self.exit_codes[event.pid] = event.returncode


class Observer:
    """Collects from outside what the pipeline publishes."""

    def __init__(self, node, executor):
        self.stops, self.captured, self.decided = [], set(), []
        self.node, self._executor = node, executor
        node.create_subscription(Bool, 'stop', lambda msg: self.stops.append(msg.data), qos.LATCHED)
        node.create_subscription(CameraInfo, 'camera_info', lambda msg: self.captured.add(stamp_ns(msg)), qos.EACH)
        node.create_subscription(Detection2DArray, 'flagged', lambda msg: self.decided.append(stamp_ns(msg)), qos.EACH)

    def wait(self, condition):
        """Collect until a condition holds."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, 'this never came true'
            self._executor.spin_once(timeout_sec=0.02)


def stamp_ns(msg):
    return ns_from_stamp(msg.header.stamp)


@pytest.fixture
def observer(ros_environment):  # noqa: ARG001  it is the environment that counts
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = rclpy.create_node('observer', namespace='/line1')
    executor.add_node(node)
    yield Observer(node, executor)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.fixture
def processes():
    return Processes()


@pytest.fixture
def start(observer, processes, tmp_path):  # noqa: ARG001  it observes before anything starts
    """Describe a launch of the simulated line."""
    params_file = tmp_path / 'params.yaml'
    params_file.write_text(PARAMETERS)
    arguments = {
        'params_file': str(params_file),
        'namespace': '/line1',
        'video_device': 'sim://conveyor',
        'model_file_path': str(fixed_boxes(tmp_path / 'model.onnx', [(48, 32, 20, 10, 0.9, 0.1)])),
        'broker_port': str(free_port()),
        'spool_directory': str(tmp_path / 'spool'),
    }

    def describe(**more):
        launch_arguments = list({**arguments, **more}.items())
        source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
        return LaunchDescription(
            [*processes.actions, IncludeLaunchDescription(source, launch_arguments=launch_arguments)]
        )

    return describe


@launch_pytest.fixture(params=['true', 'false'], ids=['composed', 'separate'])
def either(request, start):
    return start(composed=request.param, respawn='false')


@launch_pytest.fixture
def separate(start):
    return start(composed='false')


@pytest.mark.launch(fixture=either)
def test_frames_flow_from_camera_to_decision_until_sigterm(request, observer, processes):
    observer.wait(lambda: len(observer.decided) > FRAMES_TO_RELEASE and False in observer.stops)
    assert observer.stops[0] is True
    assert sorted(processes.started.values()) == EXECUTABLES[request.node.callspec.params['either']]
    observer.wait(lambda: set(observer.node.get_node_names()) >= NODES)
    observer.wait(lambda: observer.captured.issuperset(observer.decided[-20:]))

    for pid in processes.started:
        os.kill(pid, signal.SIGTERM)
    observer.wait(lambda: len(processes.exit_codes) == len(processes.started))
    assert set(processes.exit_codes.values()) == {0}
    observer.wait(lambda: observer.stops[-1])


@pytest.mark.launch(fixture=separate)
def test_killed_decision_comes_back_and_says_stop(observer, processes):
    observer.wait(lambda: False in observer.stops)
    before = len(observer.stops)
    os.kill(processes.of('decision_node')[0], signal.SIGKILL)
    observer.wait(lambda: len(processes.of('decision_node')) == 2)
    observer.wait(lambda: True in observer.stops[before:])
