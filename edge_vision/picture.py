"""What a picture itself is like, before anybody looks for objects in it: has it changed, is there anything to see?"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .frames import Image, resizable

GRID = (64, 48)  # samples across and down
SMOOTHING = (7, 7)  # samples that are averaged: sensor noise goes, shapes stay
STEP = 2  # every how many of the averages is looked at
TAIL = 0.05  # share of the averages left out at either end


class Picture(NamedTuple):
    """What a picture was like.

    Attributes:
        changed: Any pixel differs from the picture before; False for the first one: nothing is known yet.
        contrast: Grey levels between the 5th and the 95th percentile, 0..255, of the picture once it is smoothed
            and its slow gradients are taken out.

    """

    changed: bool
    contrast: float


class PictureWatch:
    """Looks at the pictures of one camera, one after the other. Used by one thread at a time.

    A covered, black or saturated picture has next to no contrast, whatever its colour and noise; neither has the glow
    through a finger on the lens. The picture before is kept by reference: no source writes to a picture that
    it has handed over. In one that did, a change beside the samples would go unseen, which errs towards a stop.

    What it cannot know: a frozen picture with a running clock burnt into it changes, and a black one with any
    writing burnt into it has contrast. A scene in which nothing moves looks frozen where a codec takes the noise
    away and repeats the very same picture. A lens that is covered in part still shows something.
    """

    def __init__(self) -> None:
        self._before: tuple[Image, Any] | None = None  # pixels and samples

    def look(self, image: Image) -> Picture:
        """Compare a picture with the one before and measure its contrast.

        Args:
            image: BGR pixels, shape (height, width, 3), with any strides; the size may change between pictures.

        """
        samples = cv2.cvtColor(cv2.resize(resizable(image), GRID, interpolation=cv2.INTER_NEAREST), cv2.COLOR_BGR2GRAY)
        picture = Picture(self._has_changed(image, samples), contrast(samples))
        self._before = image, samples
        return picture

    def _has_changed(self, image: Image, samples: Any) -> bool:
        """Compare the samples, and all pixels only where those are the same: in a live picture noise moves them."""
        if self._before is None:
            return False
        image_before, samples_before = self._before
        if image.shape != image_before.shape or not np.array_equal(samples, samples_before):
            return True
        return bool(cv2.norm(image, image_before, cv2.NORM_INF) > 0)


def slow_gradients() -> NDArray[np.float32]:
    """Give an orthonormal basis of all surfaces of second degree over the averages, shape (averages, 6)."""
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : GRID[1] // STEP * 1j, -1 : 1 : GRID[0] // STEP * 1j])
    surfaces = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    return np.asarray(np.linalg.qr(surfaces)[0], dtype=np.float32)


SLOW = slow_gradients()


def contrast(samples: Any) -> float:
    """Measure how far the grey levels of a grid of samples, shape (48, 64), reach apart."""
    averages = cv2.boxFilter(samples, cv2.CV_32F, SMOOTHING)[::STEP, ::STEP].ravel()
    averages -= SLOW @ (averages @ SLOW)
    low = round(TAIL * (averages.size - 1))
    high = averages.size - 1 - low
    ordered = np.partition(averages, (low, high))
    return float(ordered[high] - ordered[low])
