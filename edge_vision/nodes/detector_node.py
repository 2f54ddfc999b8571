"""Runs the detector on the newest frame."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionClass

from ..detections import Detections, InferenceTimes
from ..detector import detector_of
from ..drawing import annotate
from ..errors import EdgeVisionError, EncodingError, ModelError
from ..frames import Frame, FrameSlot, Slot
from ..metrics import Rate, Window
from ..params import DetectorParams
from ..picture import Picture
from ..runtimes import open_runtime, options_of
from ..share import model_file
from ..sight import Sight
from . import diagnostics, qos
from .convert import detections_to_msg, frame_from_msg, header, image_to_msg
from .parameters import declare_and_follow
from .spin import Worker

Decide = Callable[[Detections, Frame, InferenceTimes], None]
KnowLabels = Callable[[tuple[str, ...]], None]


class DetectorNode(Node):
    """Detects objects in the newest frame and publishes what it found.

    Args:
        frames: Slot that the camera of this process fills; None subscribes to ``image_raw``.
        decide: Called with every frame's detections before they are published; None where the decision
            is made in another process.
        reject: Called with the reason when a frame could not be used, which is no look at the scene.
        know_labels: Called with the labels that detections can have, and again when these change.
        kwargs: Passed to `rclpy.node.Node`.

    """

    def __init__(
        self,
        *,
        frames: FrameSlot | None = None,
        decide: Decide | None = None,
        reject: Callable[[str], None] | None = None,
        know_labels: KnowLabels | None = None,
        **kwargs: object,
    ) -> None:
        self._cleanup = ExitStack()
        super().__init__('detector', **kwargs)
        params = declare_and_follow(self, DetectorParams, self._apply)
        self._runtime = open_runtime(params.backend, model_file(params.model_file_path), options_of(params))
        self._sight = Sight(detector_of(self._runtime, params), tracking=params.tracking)
        self._decide, self._reject, self._know_labels = decide, reject, know_labels
        self._enabled = True
        self._processed = self._failed = 0
        self._infer_ms, self._age_ms, self._rate = Window(), Window(), Rate()
        self._frames = FrameSlot() if frames is None else frames
        if frames is None:
            self.create_subscription(
                Image, 'image_raw', self._on_image, qos.NEWEST, qos_overriding_options=qos.overridable()
            )
        self._facts_pub = self.create_publisher(DiagnosticArray, 'detections/facts', 10)
        self._detections_pub = self.create_publisher(Detection2DArray, 'detections', 10)
        self._annotated_pub = self.create_publisher(Image, 'detections/image', qos.NEWEST)
        self._label_pub = self.create_publisher(LabelInfo, 'label_info', qos.LATCHED)
        self._tell_labels()
        self.create_service(SetBool, '~/enable', self._on_enable)
        self._to_draw: Slot[tuple[Frame, Detections]] = Slot()
        self._cleanup.callback(Worker('detector', self._work).join)
        self._cleanup.callback(Worker('detector-draw', self._draw).join)
        self._cleanup.callback(self._to_draw.close)
        self._cleanup.callback(self._frames.close)
        self._cleanup.callback(diagnostics.publish_health(self, self._health))

    def destroy_node(self) -> None:
        """End the threads and destroy the node."""
        self._cleanup.close()
        super().destroy_node()

    def _apply(self, params: DetectorParams) -> None:
        before = self._sight.detector
        detector = self._sight.detector = detector_of(self._runtime, params)
        self._sight.tracking = params.tracking
        if (detector.reported, detector.confidence_threshold) != (before.reported, before.confidence_threshold):
            self._tell_labels()

    def _on_image(self, msg: Image) -> None:
        try:
            self._frames.put(frame_from_msg(msg))
        except EncodingError as error:
            self._fail(error)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        response.success, response.message = True, 'detecting' if request.data else 'disabled: nothing is detected'
        self.get_logger().info(response.message)
        return response

    def _work(self) -> None:
        while (frame := self._frames.take()) is not None:
            if not self._enabled:
                continue
            try:
                self._process(frame)
            except EdgeVisionError as error:
                self._fail(error)

    def _process(self, frame: Frame) -> None:
        age_ns = self.get_clock().now().nanoseconds - frame.stamp_ns
        detections, infer_ns, trusted = self._sight.see(frame)
        if not trusted:
            raise ModelError('the model gave boxes that are not finite; what else it gave is not trusted either')
        times = InferenceTimes(age_ns, infer_ns)
        if self._decide is not None:
            self._decide(detections, frame, times)
        if self._facts_pub.get_subscription_count():
            self._facts_pub.publish(facts_to_msg(detections, times))
        self._detections_pub.publish(detections_to_msg(detections))
        if self._annotated_pub.get_subscription_count():
            self._to_draw.put((frame, detections))
        self._processed += 1
        self._infer_ms.add(times.infer_ns / 1e6)
        self._age_ms.add(age_ns / 1e6)

    def _draw(self) -> None:
        while (item := self._to_draw.take()) is not None:
            frame, detections = item
            annotated = Frame(annotate(frame.image, detections), frame.stamp_ns, frame.frame_id)
            self._annotated_pub.publish(image_to_msg(annotated))

    def _fail(self, error: EdgeVisionError) -> None:
        self._failed += 1
        if self._reject is not None:
            self._reject(str(error))
        self.get_logger().error(f'frame dropped: {error}', throttle_duration_sec=5.0)

    def _tell_labels(self) -> None:
        detector, reported = self._sight.detector, self._sight.detector.reported
        named = [(i, name) for i, name in enumerate(detector.labels) if name in reported]
        msg = LabelInfo(header=header(self.get_clock().now().nanoseconds, ''), threshold=detector.confidence_threshold)
        msg.class_map = [VisionClass(class_id=i, class_name=name) for i, name in named]
        self._label_pub.publish(msg)
        if self._know_labels is not None:
            self._know_labels(reported)

    def _health(self) -> diagnostics.Health:
        fps = self._rate.per_second(self._processed, time.monotonic_ns())
        infer_p50, infer_p99 = self._infer_ms.percentiles(50, 99)
        age_p50, age_p99 = self._age_ms.percentiles(50, 99)
        figures = {
            'backend': self._runtime.name,
            'fps': fps,
            'processed': self._processed,
            'received': self._frames.received,
            'replaced': self._frames.replaced,
            'failed': self._failed,
            'infer_p50_ms': infer_p50,
            'infer_p99_ms': infer_p99,
            'capture_to_infer_p50_ms': age_p50,
            'capture_to_infer_p99_ms': age_p99,
        }
        if not self._enabled:
            return diagnostics.Health(diagnostics.WARN, 'disabled by ~/enable', figures)
        if not fps:
            return diagnostics.Health(diagnostics.ERROR, 'no frames', figures)
        return diagnostics.Health(diagnostics.OK, f'detecting at {fps:.0f} Hz', figures)


def facts_to_msg(detections: Detections, times: InferenceTimes) -> DiagnosticArray:
    """Say what detections do not hold of a frame, under its own header: how long the stages took, what it was like."""
    figures = {'capture_to_infer_ms': times.capture_to_infer_ns / 1e6, 'infer_ms': times.infer_ns / 1e6}
    picture = {} if detections.picture is None else detections.picture._asdict()
    status = DiagnosticStatus(name='facts', values=diagnostics.key_values({**figures, **picture}))
    return DiagnosticArray(header=header(detections.stamp_ns, detections.frame_id), status=[status])


def facts_from_msg(msg: DiagnosticArray) -> tuple[InferenceTimes, Picture | None]:
    """Read what `facts_to_msg` wrote.

    Raises:
        ValueError: It is something else.

    """
    facts = {pair.key: pair.value for status in msg.status for pair in status.values}
    try:
        capture_to_infer_ms, infer_ms = float(facts['capture_to_infer_ms']), float(facts['infer_ms'])
        times = InferenceTimes(round(capture_to_infer_ms * 1e6), round(infer_ms * 1e6))
        if 'changed' not in facts:
            return times, None
        return times, Picture({'True': True, 'False': False}[facts['changed']], float(facts['contrast']))
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f'facts are {facts}, expected capture_to_infer_ms, infer_ms, changed, contrast') from error


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [DetectorNode()]
