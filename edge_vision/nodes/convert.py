"""Between ROS messages and the core's values, without copies that can be avoided."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image as ImageMsg
from std_msgs.msg import Header
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from ..detections import Detections
from ..errors import EncodingError
from ..frames import Frame, Image
from ..params import MOST_DETECTIONS

# Channels of an encoding, and the OpenCV conversion to bgr8; None: it is bgr8 already.
ENCODINGS: dict[str, tuple[int, int | None]] = {
    'bgr8': (3, None),
    'rgb8': (3, cv2.COLOR_RGB2BGR),
    'mono8': (1, cv2.COLOR_GRAY2BGR),
    'bgra8': (4, cv2.COLOR_BGRA2BGR),
    'rgba8': (4, cv2.COLOR_RGBA2BGR),
}


def stamp_from_ns(stamp_ns: int) -> Time:
    """Convert ns since the epoch."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def ns_from_stamp(stamp: Time) -> int:
    """Convert to ns since the epoch."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def header(stamp_ns: int, frame_id: str) -> Header:
    """Make a message header."""
    return Header(stamp=stamp_from_ns(stamp_ns), frame_id=frame_id)


def image_to_msg(frame: Frame) -> ImageMsg:
    """Wrap a frame as a ``bgr8`` message that shares its pixels; publish it before anything writes to them."""
    height, width = frame.image.shape[:2]
    msg = ImageMsg(header=header(frame.stamp_ns, frame.frame_id), height=height, width=width, encoding='bgr8')
    msg.step = width * 3
    # The public setter would copy element by element into an array; the serializer takes any buffer.
    msg._data = np.ascontiguousarray(frame.image).data.cast('B')  # noqa: SLF001
    return msg


def image_from_msg(msg: ImageMsg) -> Image:
    """Read the pixels of a message as BGR.

    Returns:
        Shape (height, width, 3), uint8. For ``bgr8`` a view of the message, rows without their padding.

    Raises:
        EncodingError: The encoding is unknown and cv_bridge is not installed or cannot convert it, or the
            message holds fewer bytes than its size says.

    """
    if msg.encoding not in ENCODINGS:
        return _by_cv_bridge(msg)
    channels, conversion = ENCODINGS[msg.encoding]
    pixels = _rows(msg, channels)
    if conversion is None:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, conversion), dtype=np.uint8)


def _rows(msg: ImageMsg, channels: int) -> Image:
    width, height, step = msg.width, msg.height, msg.step
    used = width * channels
    data = np.frombuffer(msg.data, dtype=np.uint8)
    if not width or not height or step < used or data.size < step * (height - 1) + used:
        raise EncodingError(
            f'image of {width}x{height} {msg.encoding} with step {step} has {data.size} bytes, '
            f'expected a step of {used} or more and {max(step, used) * height} bytes'
        )
    strides = (step, channels, 1)
    return np.lib.stride_tricks.as_strided(data, (height, width, channels), strides, writeable=False)


def _by_cv_bridge(msg: ImageMsg) -> Image:
    try:
        from cv_bridge import CvBridge, CvBridgeError  # noqa: PLC0415  only encodings off the hot path need it
    except ImportError as error:
        raise EncodingError(
            f'image encoding {msg.encoding!r} needs the package cv_bridge, which is not installed; '
            f'install ros-$ROS_DISTRO-cv-bridge or let the camera publish one of {list(ENCODINGS)}'
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(msg, 'bgr8'), dtype=np.uint8)
    except (CvBridgeError, cv2.error, TypeError, ValueError) as error:
        raise EncodingError(f'image encoding {msg.encoding!r} cannot be converted to bgr8: {error}') from error


def frame_from_msg(msg: ImageMsg) -> Frame:
    """Read a message as a frame.

    Raises:
        EncodingError: See `image_from_msg`.

    """
    return Frame(image_from_msg(msg), ns_from_stamp(msg.header.stamp), msg.header.frame_id)


def detections_to_msg(detections: Detections, indices: Any = None) -> Detection2DArray:
    """Convert detections, or those with the given indices."""
    head = header(detections.stamp_ns, detections.frame_id)
    msg = Detection2DArray(header=head)
    chosen = range(len(detections)) if indices is None else indices
    msg.detections = [_detection_to_msg(detections, int(i), head) for i in chosen]
    return msg


def _detection_to_msg(detections: Detections, i: int, head: Header) -> Detection2D:
    left, top, right, bottom = detections.xyxy[i].tolist()
    centre = Pose2D(position=Point2D(x=(left + right) / 2, y=(top + bottom) / 2))
    hypothesis = ObjectHypothesis(class_id=detections.class_id[i], score=float(detections.score[i]))
    return Detection2D(
        header=head,
        results=[ObjectHypothesisWithPose(hypothesis=hypothesis)],
        bbox=BoundingBox2D(center=centre, size_x=right - left, size_y=bottom - top),
        id=detections.track_id[i],
    )


def detections_from_msg(msg: Detection2DArray, image_size: tuple[int, int] | None) -> Detections:
    """Read a message of detections.

    Args:
        msg: The message.
        image_size: Width and height of the camera image, where known.

    Raises:
        ValueError: A detection has no label, or numbers that are not finite or not possible; or there are more of
            them than any detector finds.

    """
    n = len(msg.detections)
    if n > MOST_DETECTIONS:
        raise ValueError(f'it holds {n} detections, expected at most {MOST_DETECTIONS}')
    boxes = np.empty((n, 4), dtype=np.float32)
    scores = np.empty(n, dtype=np.float32)
    for i, detection in enumerate(msg.detections):
        if not detection.results or not detection.results[0].hypothesis.class_id:
            raise ValueError(f'detection {i} has no label')
        box, score = detection.bbox, detection.results[0].hypothesis.score
        x, y, half_x, half_y = box.center.position.x, box.center.position.y, box.size_x / 2, box.size_y / 2
        boxes[i] = x - half_x, y - half_y, x + half_x, y + half_y
        scores[i] = score
        if not (np.isfinite(boxes[i]).all() and half_x >= 0 and half_y >= 0 and 0.0 <= score <= 1.0):
            raise ValueError(f'detection {i} has box {boxes[i].tolist()} and score {score!r}')
    labels = tuple(detection.results[0].hypothesis.class_id for detection in msg.detections)
    ids = tuple(detection.id for detection in msg.detections)
    stamp_ns = ns_from_stamp(msg.header.stamp)
    return Detections(stamp_ns, msg.header.frame_id, boxes, scores, labels, ids, image_size)
