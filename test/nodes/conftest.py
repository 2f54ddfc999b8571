import time

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from edge_vision.nodes.spin import make_executor

DEADLINE = 30.0  # s, far more than anything takes; a busy machine must not fail a test


@pytest.fixture
def ros(ros_environment):  # noqa: ARG001  it is the environment that counts
    """Give an executor in a fresh rclpy; the nodes that tests make are spun by it."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = make_executor()
    yield executor
    executor.shutdown()
    rclpy.try_shutdown()


@pytest.fixture
def make_node(ros):
    """Make nodes that are spun by `spin_until` and destroyed, the newest first, when the test is over."""
    nodes = []

    def make(node=Node, *args, parameters=None, **kwargs):
        given = [Parameter(name, value=value) for name, value in (parameters or {}).items()]
        made = node(*args, parameter_overrides=given, **kwargs)
        nodes.append(made)
        ros.add_node(made)
        return made

    yield make
    for made in reversed(nodes):
        ros.remove_node(made)
        made.destroy_node()


@pytest.fixture
def spin_until(ros):
    """Spin the nodes of this test until a condition holds."""

    def spin(condition, timeout=DEADLINE):
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, 'this never came true'
            ros.spin_once(timeout_sec=0.02)
        return value

    return spin


@pytest.fixture
def call(spin_until):
    """Call a service and spin until its answer is there."""

    def answer(client, request):
        spin_until(client.service_is_ready)
        future = client.call_async(request)
        spin_until(future.done)
        return future.result()

    return answer
