"""What is seen in the frames of one camera: objects, what the picture itself is like, and which object is which."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

from .detections import Detections
from .detector import Detector
from .frames import Frame
from .picture import PictureWatch
from .tracking import Tracker


class Seen(NamedTuple):
    """What was seen in one frame.

    Attributes:
        detections: With what the picture is like, and ids where objects are tracked and the boxes are trusted.
        infer_ns: How long detecting took.
        trusted: False where the network gave boxes that are not finite, which is no look at the scene: what else it
            gave means as little.

    """

    detections: Detections
    infer_ns: int
    trusted: bool


class Sight:
    """Looks at the frames of one camera. Used by one thread at a time.

    Attributes:
        detector: Finds the objects; may be replaced between frames.
        tracking: Whether objects get ids; may be replaced between frames.

    """

    def __init__(self, detector: Detector, *, tracking: bool) -> None:
        self.detector = detector
        self.tracking = tracking
        self._picture_watch, self._tracker = PictureWatch(), Tracker()

    def see(self, frame: Frame) -> Seen:
        """Look at the next frame.

        Raises:
            ModelError: The network failed.

        """
        detector = self.detector  # another thread may replace it meanwhile
        start_ns, malformed = time.monotonic_ns(), detector.malformed
        detections = detector.detect(frame)
        infer_ns = time.monotonic_ns() - start_ns
        picture = self._picture_watch.look(frame.image)  # now that its pixels are at hand
        trusted = detector.malformed == malformed
        if trusted and self.tracking:
            detections = self._tracker.update(detections)
        return Seen(dataclasses.replace(detections, picture=picture), infer_ns, trusted)
