"""Drawing what was found onto a copy of the picture."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from .detections import Detections
from .frames import Image
from .zones import Points

Colour = tuple[int, int, int]  # blue, green, red

FONT = cv2.FONT_HERSHEY_SIMPLEX
ZONE: Colour = (255, 255, 0)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
HUES = (0.0, 0.33, 0.6, 0.14, 0.82, 0.07, 0.7, 0.24, 0.92)  # neighbours in the list differ most; none is the zone's


def annotate(
    image: Image, detections: Detections, *, zones: Mapping[str, Points] | None = None, labels: Sequence[str] = ()
) -> Image:
    """Draw boxes with label and score, and zones with their names.

    Args:
        image: BGR, shape (height, width, 3); left as it is.
        detections: Boxes in its pixels.
        zones: Name and polygon, corners normalised to the image, shape (n, 2).
        labels: The model's labels in its order; each then has a colour of its own.

    Returns:
        A copy of ``image``.

    """
    canvas: Image = image.copy(order='C')
    scale = max(min(image.shape[:2]) / 480.0, 0.5)
    for name, polygon in (zones or {}).items():
        draw_zone(canvas, name, polygon, scale)
    colours = [colour_of(class_id, labels) for class_id in detections.class_id]
    corners = detections.xyxy.round().astype(int).tolist()
    worst_first = np.argsort(detections.score)  # the best one lies on top
    for i in worst_first:
        left, top, right, bottom = corners[i]
        cv2.rectangle(canvas, (left, top), (right, bottom), colours[i], max(1, round(2 * scale)))
    for i in worst_first:
        words = [detections.class_id[i], f'{detections.score[i]:.2f}', detections.track_id[i]]
        draw_caption(canvas, ' '.join(filter(None, words)), corners[i][:2], colours[i], scale)
    return canvas


def colour_of(class_id: str, labels: Sequence[str] = ()) -> Colour:
    """Choose the colour of a class: by its place among the labels, or by its name if it has none."""
    place = labels.index(class_id) if class_id in labels else zlib.crc32(class_id.encode())
    ring, step = divmod(place % (3 * len(HUES)), len(HUES))
    red, green, blue = colorsys.hsv_to_rgb(HUES[step], (0.85, 0.45, 0.9)[ring], (1.0, 1.0, 0.6)[ring])
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_caption(canvas: Image, caption: str, corner: Sequence[int], colour: Colour, scale: float) -> None:
    """Write a caption on a plate above the point ``corner``, below it where the picture ends above it."""
    font_scale, thickness, margin = 0.5 * scale, max(1, round(scale)), round(3 * scale)
    (text_width, text_height), baseline = cv2.getTextSize(caption, FONT, font_scale, thickness)
    width, height = text_width + 2 * margin, text_height + baseline + margin
    left = max(0, min(corner[0], canvas.shape[1] - width))
    top = max(0, corner[1] - height if corner[1] >= height else corner[1])
    blue, green, red = colour
    ink = BLACK if 0.114 * blue + 0.587 * green + 0.299 * red > 140 else WHITE
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    place = (left + margin, top + margin + text_height)
    cv2.putText(canvas, caption, place, FONT, font_scale, ink, thickness, cv2.LINE_AA)


def draw_zone(canvas: Image, name: str, corners: Points, scale: float) -> None:
    """Tint a polygon, outline it and write its name at its topmost corner."""
    height, width = canvas.shape[:2]
    pixels = (corners * (width - 1, height - 1)).round().astype(np.int32)
    tint = canvas.copy()
    cv2.fillPoly(tint, [pixels], ZONE)
    cv2.addWeighted(tint, 0.06, canvas, 0.94, 0.0, dst=canvas)
    cv2.polylines(canvas, [pixels], isClosed=True, color=ZONE, thickness=max(1, round(scale)), lineType=cv2.LINE_AA)
    x, y = pixels[pixels[:, 1].argmin()].tolist()
    draw_caption(canvas, name, (x, y), ZONE, 0.8 * scale)
