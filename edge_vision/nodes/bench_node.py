"""The two processes of ``edge_vision bench``: one publishes as the camera does, one receives as the detector does.

Each prints its figures as a JSON list, in ns, when it ends; the first ends when its standard input is closed::

    python -m edge_vision.nodes.bench_node receive --ros-args -r image_raw:=TOPIC
    python -m edge_vision.nodes.bench_node publish WIDTH HEIGHT FRAMERATE DURATION --ros-args -r image_raw:=TOPIC
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image

from ..frames import Frame
from . import qos, spin
from .convert import frame_from_msg, image_to_msg
from .memory import keep_freed_memory

MEETING = 10.0  # s that the two processes have to find each other
LAST_WORDS = Duration(seconds=2)  # that the last picture has to arrive


class Receiver(Node):
    """Notes how old each picture is when it is there as a frame."""

    def __init__(self) -> None:
        super().__init__('bench_receiver')
        self.latency_ns: dict[int, int] = {}
        self.create_subscription(
            Image, 'image_raw', self._on_image, qos.NEWEST, qos_overriding_options=qos.overridable()
        )
        self._end = spin.Worker('bench-end', end_with_parent)

    def _on_image(self, msg: Image) -> None:
        stamp_ns = frame_from_msg(msg).stamp_ns
        self.latency_ns.setdefault(stamp_ns, time.monotonic_ns() - stamp_ns)


def end_with_parent() -> None:
    """End this process when its standard input is closed, as it is when its parent dies."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def receive() -> int:
    """Receive until told to end."""
    nodes: list[Receiver] = []

    def make_nodes() -> list[Receiver]:
        nodes.append(Receiver())
        return nodes

    code = spin.run(make_nodes, [sys.argv[0], *sys.argv[2:]])
    if not code:
        print(f'\n{json.dumps(list(nodes[0].latency_ns.values()))}')
    return code


def publish(width: int, height: int, framerate: float, duration: float) -> int:
    """Publish pictures of noise to the receiver."""
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('bench_publisher')
    image_pub = node.create_publisher(Image, 'image_raw', qos.NEWEST, qos_overriding_options=qos.overridable())
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    give_up = time.monotonic() + MEETING
    while not image_pub.get_subscription_count():
        if time.monotonic() > give_up:
            sys.stderr.write(f'bench: no subscriber found within {MEETING:.0f} s\n')
            return 1
        time.sleep(0.01)
    time.sleep(0.5)  # the subscriber may know of this publisher a little later
    took_ns = []
    for stamp_ns in ticks(framerate, duration):
        image_pub.publish(image_to_msg(Frame(image, stamp_ns, 'bench_optical_frame')))
        took_ns.append(time.monotonic_ns() - stamp_ns)
    image_pub.wait_for_all_acked(LAST_WORDS)
    time.sleep(0.2)  # a best-effort subscriber does not say when it has it
    print(f'\n{json.dumps(took_ns)}')
    node.destroy_node()
    rclpy.shutdown()
    return 0


def ticks(framerate: float, duration: float) -> Iterator[int]:
    """Give the steady time in ns whenever a picture is due."""
    start = time.monotonic()
    for i in range(round(framerate * duration)):
        time.sleep(max(0.0, start + i / framerate - time.monotonic()))
        yield time.monotonic_ns()


def main() -> int:
    """Run the role that the command line names."""
    keep_freed_memory()
    role, *numbers = remove_ros_args(sys.argv)[1:]
    if role == 'receive':
        return receive()
    width, height, framerate, duration = numbers
    return publish(int(width), int(height), float(framerate), float(duration))


if __name__ == '__main__':
    sys.exit(main())
