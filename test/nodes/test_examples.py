import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from std_msgs.msg import Bool

from edge_vision.nodes import qos

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'


@pytest.fixture
def conveyor(ros_environment):  # noqa: ARG001  it is the environment that counts
    """Start the example and collect what it says."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / 'conveyor.py')], stderr=subprocess.PIPE, text=True, env=os.environ
    )
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, '')), daemon=True)
    reader.start()
    process.said = lines
    yield process
    process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    reader.join()


def test_conveyor_runs_while_it_is_told_to_and_stands_when_nobody_tells_it(conveyor, make_node, spin_until):
    node = make_node(node_name='decision')
    publisher = node.create_publisher(Bool, 'conveyor/run', qos.heartbeat(20.0))
    told = {'run': None}
    node.create_timer(0.05, lambda: told['run'] is None or publisher.publish(Bool(data=told['run'])))

    def says(words):
        return lambda: conveyor.said and words in conveyor.said[-1]

    spin_until(says('conveyor stands: nothing heard yet'))
    told['run'] = True
    spin_until(says('conveyor runs'))
    told['run'] = False
    spin_until(says('conveyor stands: told to'))
    told['run'] = True
    spin_until(says('conveyor runs'))
    told['run'] = None
    spin_until(says('conveyor stands: nothing heard for 0.2 s'))
