"""Records what the camera and the detector say, and makes an annotated video of it at the end."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from ..demo.pictures import RecordedFrame, write_video
from ..errors import ConfigurationError
from ..params import from_values
from ..rules import Rule, RuleParams
from . import qos
from .convert import detections_from_msg, ns_from_stamp

SHOWN_NS = 150_000_000  # for which a frame's boxes are drawn on later ones
MAX_BYTES = 512 << 20  # of compressed pictures in memory; recording ends there


class RecorderNode(Node):
    """Keeps compressed pictures with their detections, and writes ``output`` (.mp4) when it is destroyed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('recorder', **kwargs)
        self._output = Path(self.declare_parameter('output', '').value)
        if not self._output.name:
            raise ConfigurationError("output is '', expected a video file to write")
        self._framerate = float(self.declare_parameter('framerate', 15.0).value)
        zones = self.declare_parameter('zones', ['']).value
        self._zones = [_zone(text) for text in zones if text]
        self._bytes = 0
        self._pictures: dict[int, bytes] = {}
        self._detections: dict[int, Detection2DArray] = {}
        self._stops: list[tuple[int, bool]] = []
        self.create_subscription(CompressedImage, 'image_raw/compressed', self._on_picture, qos.EACH)
        self.create_subscription(Detection2DArray, 'detections', self._on_detections, 100)
        self.create_subscription(Bool, 'stop', self._on_stop, qos.LATCHED)

    def destroy_node(self) -> None:
        """Write the video and destroy the node."""
        write_video(self._output, self._framerate, self._zones, self._recorded())
        super().destroy_node()

    def _recorded(self) -> Any:
        changed_at = [at for at, _ in self._stops]
        detected_at = sorted(self._detections)
        for stamp_ns, picture in sorted(self._pictures.items()):
            image = np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)
            msg = self._newest_detections(detected_at, stamp_ns)
            detections = detections_from_msg(msg, (image.shape[1], image.shape[0])) if msg is not None else None
            i = bisect_right(changed_at, stamp_ns) - 1
            yield RecordedFrame(image, detections, stamp_ns, stopped=i < 0 or self._stops[i][1])

    def _newest_detections(self, stamps: list[int], stamp_ns: int) -> Detection2DArray | None:
        """Return what was known of the scene at a time; nothing when that is too old to be drawn."""
        i = bisect_right(stamps, stamp_ns) - 1
        return self._detections[stamps[i]] if i >= 0 and stamp_ns - stamps[i] <= SHOWN_NS else None

    def _on_picture(self, msg: CompressedImage) -> None:
        if self._bytes < MAX_BYTES:
            self._pictures[ns_from_stamp(msg.header.stamp)] = bytes(msg.data)
            self._bytes += len(msg.data)

    def _on_detections(self, msg: Detection2DArray) -> None:
        self._detections[ns_from_stamp(msg.header.stamp)] = msg

    def _on_stop(self, msg: Bool) -> None:
        if not self._stops or self._stops[-1][1] != msg.data:
            self._stops.append((self.get_clock().now().nanoseconds, msg.data))


def _zone(text: str) -> Rule:
    """Read ``name: x y x y ...``."""
    name, _, numbers = text.partition(':')
    return Rule(name, from_values(RuleParams, {'points': [float(number) for number in numbers.split()]}))


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [RecorderNode()]
