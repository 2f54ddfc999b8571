"""What surrounds a YOLOv8 network: letterbox before it, decoding and NMS after it; numpy in, numpy out.

**Letterbox.** A picture of W x H goes into a network input of w x h with the scale
``r = min(w / W, h / H)``: it is resized to ``max(1, round(W * r)) x max(1, round(H * r))`` (bilinear) and
centred on grey (114), the odd pixel of the border going to the right and the bottom. This is the geometry
that ultralytics trains, validates and predicts with (``LetterBox(auto=False, center=True, scaleup=True)``),
and going back uses the scale each side really got after rounding, as its ``scale_boxes`` does.

**Output.** The detection head of YOLOv8 with its anchor-free decoding inside the graph gives
``(batch, 4 + classes, anchors)``: centre x, centre y, width, height in pixels of the network input, then one
probability per class (already through the sigmoid; there is no objectness). The head and its box decoding:
https://docs.ultralytics.com/reference/nn/modules/head/.

**NMS.** An anchor counts for its best class only. Anchors are taken by falling score; one is dropped when a
better one of the same class overlaps it by an intersection over union (IoU) above the threshold.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .frames import Image, resizable

GREY = 114
MAX_CANDIDATES = 30000

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in the network input.

    Attributes:
        image_size: Width and height of the picture in pixels.
        left: Columns of border before it, pixels of the network input.
        top: Rows of border above it, pixels of the network input.
        width: Its width in the network input, pixels.
        height: Its height in the network input, pixels.

    """

    image_size: tuple[int, int]
    left: int
    top: int
    width: int
    height: int

    def to_image(self, xyxy: Floats) -> Floats:
        """Turn boxes from pixels of the network input into pixels of the picture, clipped to it.

        Args:
            xyxy: Left, top, right, bottom, shape (N, 4); left as it is.

        """
        image_width, image_height = self.image_size
        scale = np.array([self.width / image_width, self.height / image_height] * 2, dtype=np.float32)
        offset = np.array([self.left, self.top] * 2, dtype=np.float32)
        limit = np.array([image_width, image_height] * 2, dtype=np.float32)
        boxes: Floats = (xyxy - offset) / scale
        return boxes.clip(0.0, limit)


@functools.lru_cache(maxsize=64)
def letterbox(image_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
    """Fit a picture into the network input.

    Args:
        image_size: Width and height of the picture in pixels.
        input_size: Height and width of the network input in pixels.

    Raises:
        ValueError: The picture has no pixels.

    """
    width, height = image_size
    input_height, input_width = input_size
    if width < 1 or height < 1:
        msg = f'image_size is {image_size}, expected a width and height of at least 1 pixel'
        raise ValueError(msg)
    scale = min(input_height / height, input_width / width)
    new_width, new_height = max(round(width * scale), 1), max(round(height * scale), 1)
    left = round((input_width - new_width) / 2 - 0.1)
    top = round((input_height - new_height) / 2 - 0.1)
    return Letterbox(image_size, left, top, new_width, new_height)


class Canvas:
    """The network's input memory; its border is painted only when the geometry changes.

    Args:
        pixels: Memory of the network input, shape (height, width, 3), uint8; written in place.

    """

    def __init__(self, pixels: Image) -> None:
        self.pixels = pixels
        self._geometry: Letterbox | None = None

    def draw(self, image: Image, geometry: Letterbox) -> None:
        """Resize ``image`` into its place."""
        if geometry != self._geometry:
            self.pixels.fill(GREY)
            self._geometry = geometry
        bottom, right = geometry.top + geometry.height, geometry.left + geometry.width
        place = self.pixels[geometry.top : bottom, geometry.left : right]
        cv2.resize(resizable(image), (geometry.width, geometry.height), dst=place, interpolation=cv2.INTER_LINEAR)


def candidates(output: Floats, min_score: float) -> Floats:
    """Take the anchors whose best class scores above ``min_score``, and those that are not numbers.

    This is the only step that touches every anchor. NaN passes so that it can be counted further on.

    Args:
        output: One picture's network output, shape (4 + classes, anchors).
        min_score: Probability in 0..1.

    Returns:
        Columns of ``output``, shape (4 + classes, N), copied.

    """
    dropped = output[4:].max(axis=0) <= min_score
    return output[:, np.flatnonzero(~dropped)]


class Boxes(NamedTuple):
    """Decoded anchors.

    Attributes:
        xyxy: Left, top, right, bottom in pixels of the network input, shape (N, 4).
        score: Probability of the best class, shape (N,).
        label: Position of the best class among the labels, shape (N,).

    """

    xyxy: Floats
    score: Floats
    label: Indices

    def take(self, which: NDArray[np.bool_] | Indices) -> Boxes:
        """Select some of them, by mask or by position."""
        return Boxes(self.xyxy[which], self.score[which], self.label[which])


def decode(anchors: Floats) -> Boxes:
    """Turn anchors into corner boxes with their best class.

    Args:
        anchors: Shape (4 + classes, N), as `candidates` gives them.

    """
    scores = anchors[4:]
    label = scores.argmax(axis=0)
    score = scores[label, np.arange(anchors.shape[1])]
    centre, half = anchors[:2], anchors[2:4] / 2
    xyxy = np.ascontiguousarray(np.concatenate((centre - half, centre + half)).T)
    return Boxes(xyxy, score, label)


def nms(boxes: Boxes, iou_threshold: float, max_detections: int) -> Indices:
    """Keep the best of the boxes that overlap, each class for itself.

    Args:
        boxes: Finite boxes; of more than 30 000 only the best are looked at.
        iou_threshold: A box is dropped above this overlap with a better one of its class, in 0..1.
        max_detections: Most boxes kept.

    Returns:
        Positions of the boxes kept, best first, shape (M,).

    """
    order = np.argsort(-boxes.score, kind='stable')[:MAX_CANDIDATES]
    left, top, right, bottom = boxes.xyxy[order].T.copy()
    area = (right - left) * (bottom - top)
    label = boxes.label[order]
    alive = np.ones(len(order), dtype=bool)
    kept: list[int] = []
    while len(kept) < max_detections and alive.any():
        best = int(alive.argmax())
        kept.append(best)
        width = np.minimum(right, right[best]) - np.maximum(left, left[best])
        height = np.minimum(bottom, bottom[best]) - np.maximum(top, top[best])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        overlaps = shared > iou_threshold * (area + area[best] - shared)
        alive &= ~(overlaps & (label == label[best]))
        alive[best] = False
    return order[kept]
