"""What a detector found in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .picture import Picture


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes, scores and labels of one frame; arrays of the same length N, N may be 0.

    Attributes:
        stamp_ns: Capture time of the frame in ns since the epoch.
        frame_id: Optical coordinate frame of the camera.
        xyxy: Left, top, right, bottom in pixels of the camera image, shape (N, 4), float32.
        score: Confidence in 0..1, shape (N,), float32.
        class_id: Label per box.
        track_id: Track per box, '' where there is none.
        image_size: Width and height of the camera image in pixels; None where nobody told.
        picture: What the picture itself was like; None where nobody told.

    Raises:
        ValueError: The arrays do not agree.

    """

    stamp_ns: int
    frame_id: str
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: tuple[str, ...]
    track_id: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    picture: Picture | None = None

    def __post_init__(self) -> None:
        """Check that the arrays agree."""
        n = len(self.class_id)
        if self.xyxy.shape != (n, 4):
            msg = f'xyxy must have shape ({n}, 4) for {n} labels, but has {self.xyxy.shape}'
            raise ValueError(msg)
        if self.score.shape != (n,):
            msg = f'score must have shape ({n},) for {n} labels, but has {self.score.shape}'
            raise ValueError(msg)
        if not self.track_id:
            object.__setattr__(self, 'track_id', ('',) * n)
        elif len(self.track_id) != n:
            msg = f'track_id must have {n} entries for {n} labels, but has {len(self.track_id)}'
            raise ValueError(msg)

    def __len__(self) -> int:
        """Count the boxes."""
        return len(self.class_id)


@dataclass(frozen=True, slots=True)
class InferenceTimes:
    """How long the stages before the decision took for one frame, in ns.

    Attributes:
        capture_to_infer_ns: From the capture stamp to the start of inference.
        infer_ns: Pre-processing, inference, decoding and NMS.

    """

    capture_to_infer_ns: int
    infer_ns: int
