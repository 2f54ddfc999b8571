"""Stands in for a decision made in a cloud: detections come back a round trip later."""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Any

from rclpy.node import Node
from vision_msgs.msg import Detection2DArray

REDRAW_PERIOD = 2.0  # s for which the link keeps one round trip time


class CloudLinkNode(Node):
    """Republishes ``detections`` as ``detections_via_cloud`` in order, delayed by a drawn round trip."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('cloud_link', **kwargs)
        self._low = self.declare_parameter('round_trip_min', 0.05).value
        self._high = self.declare_parameter('round_trip_max', 0.5).value
        self._draw = random.Random(self.declare_parameter('seed', 1).value)  # noqa: S311  a simulation
        self._round_trip, self._redraw_at = 0.0, 0.0
        self._under_way: deque[tuple[float, Detection2DArray]] = deque()
        self._pub = self.create_publisher(Detection2DArray, 'detections_via_cloud', 10)
        self.create_subscription(Detection2DArray, 'detections', self._on_detections, 10)
        self.create_timer(0.002, self._deliver)

    def _on_detections(self, msg: Detection2DArray) -> None:
        now = time.monotonic()
        if now >= self._redraw_at:
            self._round_trip = self._draw.uniform(self._low, self._high)
            self._redraw_at = now + REDRAW_PERIOD
        earliest = self._under_way[-1][0] if self._under_way else 0.0
        self._under_way.append((max(now + self._round_trip, earliest), msg))

    def _deliver(self) -> None:
        while self._under_way and self._under_way[0][0] <= time.monotonic():
            self._pub.publish(self._under_way.popleft()[1])


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [CloudLinkNode()]
