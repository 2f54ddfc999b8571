"""The detector: frame in, boxes in camera pixels out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .detections import Detections
from .errors import ConfigurationError
from .frames import Frame
from .params import DetectorParams
from .runtimes import Runtime
from .yolov8 import decode, letterbox, nms


class Detector:
    """Finds objects in frames with a YOLOv8 network. Used by one thread at a time.

    Attributes:
        confidence_threshold: Boxes must score above this, 0..1; may be replaced between frames.
        nms_threshold: Boxes that overlap a better one of their class by more than this IoU are dropped, 0..1;
            may be replaced between frames.
        max_detections: Most boxes per frame, the best ones; may be replaced between frames.
        malformed: Boxes ever dropped because a number in them was not finite.

    Args:
        runtime: Runs the network.
        confidence_threshold: See above.
        nms_threshold: See above.
        max_detections: See above.
        classes: Labels to keep; empty keeps all.

    Raises:
        ConfigurationError: A label in ``classes`` is not one of the model's.

    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        confidence_threshold: float = 0.25,
        nms_threshold: float = 0.45,
        max_detections: int = 300,
        classes: Sequence[str] = (),
    ) -> None:
        self._runtime = runtime
        self.confidence_threshold = confidence_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.malformed = 0
        self.classes = classes

    @property
    def labels(self) -> tuple[str, ...]:
        """The model's labels, in its order."""
        return self._runtime.labels

    @property
    def reported(self) -> tuple[str, ...]:
        """The labels that its detections can have, in the model's order."""
        return kept(self.labels, self._classes)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that are kept; empty: all. May be replaced between frames."""
        return self._classes

    @classes.setter
    def classes(self, classes: Sequence[str]) -> None:
        for label in classes:
            if label not in self.labels:
                raise ConfigurationError(
                    f'classes holds {label!r}, expected labels of the model: {", ".join(self.labels)}'
                )
        self._classes = tuple(classes)
        self._wanted = np.isin(self.labels, kept(self.labels, classes))

    def detect(self, frame: Frame) -> Detections:
        """Find the objects in one frame.

        Returns:
            Boxes in camera pixels, clipped to the image, best first.

        """
        geometry = letterbox(frame.size, self._runtime.input_size)
        anchors = self._runtime.infer(frame.image, geometry, self.confidence_threshold)
        finite = np.isfinite(anchors).all(axis=0)
        if not finite.all():
            self.malformed += int(np.count_nonzero(~finite))
            anchors = anchors[:, finite]
        boxes = decode(anchors)
        if self._classes:
            boxes = boxes.take(self._wanted[boxes.label])
        boxes = boxes.take(nms(boxes, self.nms_threshold, self.max_detections))
        return Detections(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            xyxy=geometry.to_image(boxes.xyxy),
            score=boxes.score,
            class_id=tuple(self.labels[i] for i in boxes.label),
            image_size=frame.size,
        )


def kept(labels: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Leave of a model's labels those in ``classes``, where there are any."""
    return tuple(label for label in labels if not classes or label in classes)


def detector_of(runtime: Runtime, params: DetectorParams) -> Detector:
    """Make the detector that the parameters of its node describe.

    Raises:
        ConfigurationError: A label in ``classes`` is not one of the model's.

    """
    return Detector(
        runtime,
        confidence_threshold=params.confidence_threshold,
        nms_threshold=params.nms_threshold,
        max_detections=params.max_detections,
        classes=params.classes,
    )
