import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager

import pytest
from rcl_interfaces.srv import ListParameters
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from edge_vision.nodes import qos
from edge_vision.nodes.convert import header
from edge_vision.nodes.spin import Worker

DEADLINE = 60.0


@contextmanager
def process(*command):
    started = subprocess.Popen(
        [sys.executable, *map(str, command)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.fixture
def robot(make_node):
    """Give a node that shows a clear scene 20 times a second and notes what it is told."""
    node = make_node(node_name='robot')
    node.stops = []
    node.create_subscription(Bool, 'stop', lambda msg: node.stops.append(msg.data), qos.LATCHED)
    detections_pub = node.create_publisher(Detection2DArray, 'detections', 10)
    node.create_timer(0.05, lambda: detections_pub.publish(Detection2DArray(header=header(time.time_ns(), 'camera'))))
    return node


def test_decision_told_to_end_says_stop_and_ends_well(robot, spin_until):
    with process('-m', 'edge_vision', 'decision_node', '--ros-args', '-p', 'source_timeout:=20.0') as decision:
        spin_until(lambda: robot.stops[-1:] == [False], DEADLINE)
        decision.send_signal(signal.SIGTERM)
        spin_until(lambda: decision.poll() is not None)
        assert decision.returncode == 0, decision.stderr.read()
        spin_until(lambda: robot.stops[-1])


def test_robot_that_comes_later_is_told_that_it_is_stopped(make_node, spin_until):
    with process('-m', 'edge_vision', 'decision_node', '--ros-args', '-p', 'heartbeat_rate:=1.0') as decision:
        late = make_node(node_name='late')
        stops = []
        late.create_subscription(Bool, 'stop', lambda msg: stops.append(msg.data), qos.LATCHED)
        spin_until(lambda: stops, DEADLINE)
        assert stops == [True]
        is_up(late, 'decision', spin_until)
        decision.send_signal(signal.SIGINT)
        assert decision.wait(DEADLINE) == 0


def is_up(asking, name, spin_until):
    """Wait until a node answers."""
    client = asking.create_client(ListParameters, f'{name}/list_parameters')
    assert client.wait_for_service(DEADLINE)
    answer = client.call_async(ListParameters.Request())
    spin_until(answer.done, DEADLINE)


SLOW = """
    import sys, time
    from edge_vision.nodes.spin import run

    def make_nodes():
        print('making', file=sys.stderr, flush=True)
        time.sleep(600.0)

    sys.exit(run(make_nodes, []))
"""


@pytest.mark.usefixtures('ros_environment')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_process_that_is_still_building_an_engine_ends_at_once_when_told_to(tmp_path, number):
    script = tmp_path / 'slow.py'
    script.write_text(textwrap.dedent(SLOW))
    with process(script) as slow:
        assert slow.stderr.readline() == 'making\n'
        slow.send_signal(number)
        assert slow.wait(DEADLINE) == -number


CRASH = """
    import sys
    from rclpy.node import Node
    from edge_vision.nodes.spin import Worker, run

    class Crashing(Node):
        def __init__(self):
            super().__init__('crashing')
            {crash}

        def destroy_node(self):
            print('destroyed', file=sys.stderr)
            super().destroy_node()

    sys.exit(run(lambda: [Crashing()], ['crashing']))
"""


@pytest.mark.usefixtures('ros_environment')
def test_process_whose_worker_crashes_ends_and_says_why(tmp_path):
    script = tmp_path / 'crashing.py'
    script.write_text(textwrap.dedent(CRASH).format(crash="self._worker = Worker('worker', lambda: 1 / 0)"))
    with process(script) as crashing:
        stderr = crashing.communicate(timeout=DEADLINE)[1]
    assert crashing.returncode == 1
    assert 'worker crashed' in stderr
    assert 'ZeroDivisionError' in stderr
    assert 'destroyed' in stderr


@pytest.mark.usefixtures('ros_environment')
def test_process_whose_callback_crashes_destroys_its_nodes_all_the_same(tmp_path):
    script = tmp_path / 'crashing.py'
    script.write_text(textwrap.dedent(CRASH).format(crash='self.create_timer(0.01, lambda: 1 / 0)'))
    with process(script) as crashing:
        stderr = crashing.communicate(timeout=DEADLINE)[1]
    assert crashing.returncode == 1
    assert 'ZeroDivisionError' in stderr
    assert 'destroyed' in stderr


def test_worker_is_named_and_can_be_joined():
    names = []
    worker = Worker('camera-capture', lambda: names.append(threading.current_thread().name))
    assert worker.join(DEADLINE)
    assert names == ['camera-capture']
