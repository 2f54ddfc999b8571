"""The example of a drive, when the decision dies and the wall clock is wrong at the same time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from machine import Spinning
from rclpy.node import Node
from std_msgs.msg import Bool
from wall_clock import WallClock

from edge_vision.nodes import qos

CONVEYOR = Path(__file__).resolve().parents[2] / 'examples' / 'conveyor.py'
DEADLINE = 30.0  # s
HOUR = 3600.0  # s
ROUNDS = 5  # not each step comes while the drive waits


class Permission(Node):
    """Says that the conveyor may run, for as long as that is given."""

    def __init__(self):
        super().__init__('decision')
        self._pub = self.create_publisher(Bool, 'conveyor/run', qos.heartbeat(20.0))
        self.given = True

    def ask(self):
        if self.given:
            self._pub.publish(Bool(data=True))


@pytest.fixture
def conveyor(by_udp, clock_library, tmp_path):  # noqa: ARG001  it is the environment that counts
    """Start the example under a clock of its own, and collect what it says."""
    if clock_library is None:
        pytest.skip('there is no C compiler to build the clock with (apt install gcc, or name one by CC)')
    clock = WallClock(clock_library, tmp_path / 'offset')
    process = subprocess.Popen(
        [sys.executable, CONVEYOR], stderr=subprocess.PIPE, text=True, env=os.environ | clock.environment
    )
    process.clock, process.said = clock, []
    reader = threading.Thread(target=lambda: process.said.extend(iter(process.stderr.readline, '')), daemon=True)
    reader.start()
    yield process
    process.kill()
    process.wait()
    reader.join()


def says(conveyor, words):
    deadline = time.monotonic() + DEADLINE
    while not conveyor.said or words not in conveyor.said[-1]:
        assert time.monotonic() < deadline, conveyor.said
        time.sleep(0.01)


@pytest.mark.parametrize('step', [HOUR, -HOUR], ids=['forward', 'back'])
def test_drive_stands_when_nobody_tells_it_to_run_whatever_its_wall_clock_does(conveyor, step):
    spinning = Spinning(Permission)
    try:
        for _ in range(ROUNDS):
            conveyor.clock.set(0)
            spinning.node.given = True
            says(conveyor, 'conveyor runs')
            spinning.node.given = False
            time.sleep(0.05)  # whatever was under way would wake it up after the step
            conveyor.clock.set(step)
            says(conveyor, 'conveyor stands: nothing heard for 0.2 s')
    finally:
        spinning.close()
