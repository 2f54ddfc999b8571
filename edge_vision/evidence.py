"""The picture that goes with an event: as much of the frame as the rule allows, as a JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .frames import Image

# What is outside the boxes keeps the mean colour of so many cells along the longer side of the frame, and nothing else:
# that a face can be told takes about 15 of them across it, that a letter can be read about 5, and here a face that
# fills the frame gets 9 and a number plate as wide as the frame 2 per letter. A mean cannot be undone, as a filter can.
_CELLS = 16

_LOWEST_QUALITY = 40
_QUALITY_STEP = 15


def encode(
    image: Image,
    kind: str,
    bbox_xyxy: Sequence[float] | None = None,
    *,
    margin: float = 0.2,
    quality: int = 90,
    max_bytes: int = 128 * 1024,
    blur_outside: bool = False,
) -> bytes | None:
    """Encode the evidence of one frame as a JPEG without metadata.

    A picture that is too large is encoded again, first at a lower quality, then smaller.

    Args:
        image: The frame, shape (height, width, 3), BGR.
        kind: 'crop' for the box with a margin, 'frame' for all of it, 'none' for nothing.
        bbox_xyxy: Left, top, right, bottom in pixels; a crop without a box takes the whole frame.
        margin: What to add on each side of the box, as a part of its longer side.
        quality: JPEG quality in 1..100 to start from.
        max_bytes: Largest size allowed.
        blur_outside: Show nothing outside the box but a few colours: neither a face nor a number plate can be read.
            The margin of a crop is outside; without a box everything is.

    Returns:
        The JPEG, or None where nothing is to be shown, the part to show is empty, or it is too long for a JPEG.

    """
    if kind == 'none' or image.size == 0:
        return None
    if blur_outside:
        image = _blurred_outside(image, bbox_xyxy)
    if kind == 'crop' and bbox_xyxy is not None:
        image = image[_inside(image, bbox_xyxy, margin)]
    try:
        return (_encode_below(image, quality, max_bytes) or None) if image.size else None
    except cv2.error:  # a side of more than 65500 pixels; newer versions give an empty JPEG
        return None


def shrink(jpeg: bytes, max_bytes: int) -> bytes | None:
    """Encode a JPEG again so that it fits; None where it cannot be read as a picture."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else _encode_below(image, 75, max_bytes)


def _blurred_outside(image: Image, bbox_xyxy: Sequence[float] | None) -> Image:
    height, width = image.shape[:2]
    cell = -(-max(height, width) // _CELLS)
    size = max(1, width // cell), max(1, height // cell)
    means = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    blurred = np.asarray(cv2.resize(means, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    if bbox_xyxy is not None:
        inside = _inside(image, bbox_xyxy)
        blurred[inside] = image[inside]
    return blurred


def _inside(image: Image, bbox_xyxy: Sequence[float], margin: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns of a box with its margin, as far as they are in the image."""
    left, top, right, bottom = bbox_xyxy
    extra = margin * max(right - left, bottom - top)
    height, width = image.shape[:2]
    x = slice(max(0, math.floor(left - extra)), max(0, min(width, math.ceil(right + extra))))
    y = slice(max(0, math.floor(top - extra)), max(0, min(height, math.ceil(bottom + extra))))
    return y, x


def _encode_below(image: Image, quality: int, max_bytes: int) -> bytes:
    """Encode until it fits; a picture of one pixel is returned even where that is too large."""
    while True:
        jpeg = _jpeg(image, quality)
        if len(jpeg) <= max_bytes or image.shape[:2] == (1, 1):
            return jpeg
        if quality > _LOWEST_QUALITY:
            quality = max(_LOWEST_QUALITY, quality - _QUALITY_STEP)
            continue
        # The size of a JPEG grows about with its area; a little less than that converges in a step or two.
        scale = min(0.85, 0.95 * math.sqrt(max_bytes / len(jpeg)))
        height, width = (max(1, int(side * scale)) for side in image.shape[:2])
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: Image, quality: int) -> bytes:
    _, jpeg = cv2.imencode('.jpg', image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return bytes(jpeg)
