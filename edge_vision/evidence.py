"""The picture that goes with an event: as much of the frame as the rule allows, as a JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .frames import Image

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

    Returns:
        The JPEG, or None where nothing is to be shown or the part to show is empty.

    """
    if kind == 'none' or image.size == 0:
        return None
    part = image if kind == 'frame' or bbox_xyxy is None else _crop(image, bbox_xyxy, margin)
    return None if part.size == 0 else _encode_below(part, quality, max_bytes)


def shrink(jpeg: bytes, max_bytes: int) -> bytes | None:
    """Encode a JPEG again so that it fits; None where it cannot be read as a picture."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return None if image is None else _encode_below(image, 75, max_bytes)


def _crop(image: Image, bbox_xyxy: Sequence[float], margin: float) -> Image:
    left, top, right, bottom = bbox_xyxy
    extra = margin * max(right - left, bottom - top)
    height, width = image.shape[:2]
    x = slice(max(0, math.floor(left - extra)), max(0, min(width, math.ceil(right + extra))))
    y = slice(max(0, math.floor(top - extra)), max(0, min(height, math.ceil(bottom + extra))))
    return image[y, x]


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
