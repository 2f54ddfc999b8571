"""Captures frames and hands them on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import cv2
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Bool, String

from ..camera_info import Calibration, load_calibration
from ..capture import Source, masked, open_source
from ..errors import EndOfStream, SourceError
from ..frames import Frame, FrameSlot
from ..metrics import Rate
from ..params import CameraParams
from . import diagnostics, qos
from .convert import header, image_to_msg
from .parameters import declare_and_follow
from .spin import Worker
from .steady import every

RUN_TIMEOUT = 0.5  # s after which a simulated line stops when it hears nothing


class CameraNode(Node):
    """Reads a source, hands every frame to the slot of this process and publishes it to others.

    Args:
        frames: Slot of a detector in the same process; None where there is none.
        kwargs: Passed to `rclpy.node.Node`.

    """

    def __init__(self, *, frames: FrameSlot | None = None, **kwargs: object) -> None:
        self._cleanup = ExitStack()
        super().__init__('camera', **kwargs)
        self._params = declare_and_follow(self, CameraParams, self._apply)
        self._calibration = self._load_calibration()
        self._source = self._open_source()
        self._frames = frames
        self._image_pub = self.create_publisher(
            Image, 'image_raw', qos.NEWEST, qos_overriding_options=qos.overridable()
        )
        self._info_pub = self.create_publisher(CameraInfo, 'camera_info', qos.EACH)
        self._compressed_pub = self.create_publisher(CompressedImage, 'image_raw/compressed', qos.NEWEST)
        self._to_compress = FrameSlot()
        self._compress_next_ns = 0
        self._captured = 0
        self._lost = 0
        self._state = (diagnostics.STALE, 'not opened yet')
        self._rate = Rate()
        self._publish_truth: Callable[[], None] = lambda: None
        self._connect_simulator()
        self._stopping = threading.Event()
        self._cleanup.callback(self._publish_truth)
        self._cleanup.callback(Worker('camera-capture', self._capture).join)
        self._cleanup.callback(Worker('camera-compress', self._compress).join)
        self._cleanup.callback(self._to_compress.close)
        self._cleanup.callback(self._stopping.set)
        self._cleanup.callback(diagnostics.publish_health(self, self._health))

    def destroy_node(self) -> None:
        """Close the source, end the threads and destroy the node."""
        self._cleanup.close()
        super().destroy_node()

    def _apply(self, params: CameraParams) -> None:
        self._params = params

    def _load_calibration(self) -> Calibration | None:
        url, name = self._params.camera_info_url, self._params.camera_name
        if not url:
            return None
        calibration = load_calibration(url)
        if calibration.camera_name != name:
            self.get_logger().warning(f'{url} is for camera {calibration.camera_name!r}, but camera_name is {name!r}')
        asked = (self._params.image_width, self._params.image_height)
        if all(asked) and asked != (calibration.width, calibration.height):
            size = f'{calibration.width}x{calibration.height}'
            self.get_logger().warning(f'{url} is for images of {size}, but {asked[0]}x{asked[1]} are asked for')
        return calibration

    def _open_source(self) -> Source:
        p = self._params
        return open_source(
            p.video_device,
            framerate=p.framerate,
            image_width=p.image_width,
            image_height=p.image_height,
            pixel_format=p.pixel_format,
            loop=p.loop,
        )

    def _connect_simulator(self) -> None:
        """Let a simulated line obey ``conveyor/run``, stop when that falls silent, and tell what really happened."""
        set_run, truth = getattr(self._source, 'set_run', None), getattr(self._source, 'truth', None)
        if set_run is None or truth is None:
            return
        truth_pub = self.create_publisher(String, '~/truth', qos.LATCHED)
        self._publish_truth = lambda: truth_pub.publish(String(data=json.dumps(truth())))
        self._cleanup.callback(every(0.5, self._publish_truth))
        heard_at = time.monotonic()

        def on_run(msg: Bool) -> None:
            nonlocal heard_at
            heard_at = time.monotonic()
            set_run(msg.data, time.time_ns())

        def watch() -> None:
            if time.monotonic() - heard_at > RUN_TIMEOUT:
                set_run(False, time.time_ns())

        self.create_subscription(Bool, 'conveyor/run', on_run, qos.LATCHED)
        self._cleanup.callback(every(RUN_TIMEOUT / 2, watch))

    def _capture(self) -> None:
        while not self._stopping.is_set():
            try:
                self._source.open()
                self._note(diagnostics.OK, 'capturing')
                while not self._stopping.is_set():
                    image, stamp_ns = self._source.read()
                    self._hand_on(Frame(image, stamp_ns, self._params.frame_id))
            except EndOfStream as end:
                self._note(diagnostics.WARN, str(end))
                self._stopping.wait()
            except SourceError as error:
                self._lost += 1
                self._note(diagnostics.ERROR, str(error))
                self._stopping.wait(self._params.reopen_period)
            finally:
                self._source.close()

    def _hand_on(self, frame: Frame) -> None:
        if self._frames is not None:
            self._frames.put(frame)
            time.sleep(0)  # lets go of the interpreter: the detector goes first
        self._captured += 1
        if self._image_pub.get_subscription_count():
            self._image_pub.publish(image_to_msg(frame))
        self._info_pub.publish(self._camera_info(frame))
        if self._compressed_pub.get_subscription_count() and self._compression_due(frame.stamp_ns):
            self._to_compress.put(frame)

    def _compression_due(self, stamp_ns: int) -> bool:
        rate = self._params.compressed_framerate
        if rate and stamp_ns < self._compress_next_ns <= stamp_ns + 1e9 / rate:
            return False
        self._compress_next_ns = stamp_ns + (round(1e9 / rate) if rate else 0)
        return True

    def _compress(self) -> None:
        while (frame := self._to_compress.take()) is not None:
            quality = [cv2.IMWRITE_JPEG_QUALITY, self._params.jpeg_quality]
            msg = CompressedImage(header=header(frame.stamp_ns, frame.frame_id), format='bgr8; jpeg compressed bgr8')
            msg._data = cv2.imencode('.jpg', frame.image, quality)[1].data  # noqa: SLF001  see image_to_msg
            self._compressed_pub.publish(msg)

    def _camera_info(self, frame: Frame) -> CameraInfo:
        width, height = frame.size
        msg = CameraInfo(header=header(frame.stamp_ns, frame.frame_id), width=width, height=height)
        if self._calibration is not None:
            _fill(msg, self._calibration)
        return msg

    def _note(self, level: bytes, message: str) -> None:
        if (level, message) == self._state:
            return
        self._state = (level, message)
        if level == diagnostics.OK:
            self.get_logger().info(f'{masked(self._params.video_device)}: {message}')
        else:
            self.get_logger().error(f'{masked(self._params.video_device)}: {message}')

    def _health(self) -> diagnostics.Health:
        fps = self._rate.per_second(self._captured, time.monotonic_ns())
        level, message = self._state
        figures = {
            'video_device': masked(self._params.video_device),
            'captured': self._captured,
            'fps': fps,
            'lost': self._lost,
            'replaced': getattr(self._source, 'replaced', 0),
            'discarded': getattr(self._source, 'discarded', 0),
        }
        return diagnostics.Health(level, message, figures)


def _fill(msg: CameraInfo, calibration: Calibration) -> None:
    msg.distortion_model = calibration.distortion_model
    msg.d, msg.k, msg.r, msg.p = calibration.d, calibration.k, calibration.r, calibration.p


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [CameraNode()]
