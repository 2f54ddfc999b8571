"""The demo's pictures: an annotated video, and one sheet with every stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..detections import Detections
from ..drawing import FONT, WHITE, annotate
from ..errors import ConfigurationError
from ..frames import Image
from ..rules import Rule

RED = (60, 60, 230)
GREEN = (90, 180, 60)
PAPER = (247, 245, 243)
INK = (50, 45, 40)
GREY = (140, 132, 125)
TILE = (480, 360)  # width, height of a picture on the sheet
CAPTION = 62
MARGIN = 18
HEADER = 122
MOST_TILES = 24


class RecordedFrame(NamedTuple):
    """A picture of the run and what was decided by then.

    Attributes:
        image: BGR.
        detections: What was found in it; None where that was not recorded.
        stamp_ns: Capture time.
        stopped: Whether a stop held when it was captured.

    """

    image: Image
    detections: Detections | None
    stamp_ns: int
    stopped: bool


class Stop(NamedTuple):
    """One stop as it reached the outside.

    Attributes:
        image: The evidence picture, BGR; None where none was sent.
        rule: The rule that stopped.
        class_id: What it saw.
        score: How sure it was, 0..1.
        xyxy: Where, in pixels of ``image``.
        reaction_ms: From capture to the stop command in another process; None where it already stood.
        at_s: Time since the start of the run.
        note: What else there is to say of it.

    """

    image: Image | None
    rule: str
    class_id: str
    score: float
    xyxy: tuple[float, float, float, float] | None
    reaction_ms: float | None
    at_s: float
    note: str


def write_video(path: Path, framerate: float, rules: Sequence[Rule], frames: Iterable[RecordedFrame]) -> None:
    """Write frames with boxes, zones and a banner; writes nothing when there are none.

    Raises:
        ConfigurationError: OpenCV cannot write such a file there.

    """
    zones = {rule.name: rule.zone for rule in rules if rule.zone is not None}
    writer = None
    for frame in frames:
        canvas = frame.image
        if frame.detections is not None or zones:
            canvas = annotate(canvas, frame.detections or _nothing(frame), zones=zones)
        _banner(canvas, 'STOP' if frame.stopped else 'RUN', RED if frame.stopped else GREEN)
        if writer is None:
            height, width = canvas.shape[:2]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), framerate, (width, height))
            if not writer.isOpened():
                raise ConfigurationError(f'video {str(path)!r} cannot be written; is the directory writable?')
        writer.write(canvas)
    if writer is not None:
        writer.release()


def _nothing(frame: RecordedFrame) -> Detections:
    return Detections(frame.stamp_ns, '', np.empty((0, 4), np.float32), np.empty(0, np.float32), ())


def _banner(canvas: Image, text: str, colour: tuple[int, int, int]) -> None:
    scale = max(canvas.shape[0] / 480.0, 0.5)
    width, height = round(96 * scale), round(34 * scale)
    left, top = canvas.shape[1] - width - round(8 * scale), round(40 * scale)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
    (text_width, text_height), _ = cv2.getTextSize(text, FONT, 0.75 * scale, 2)
    place = (left + (width - text_width) // 2, top + (height + text_height) // 2)
    cv2.putText(canvas, text, place, FONT, 0.75 * scale, WHITE, max(1, round(2 * scale)), cv2.LINE_AA)


def contact_sheet(title: str, subtitles: Sequence[str], stops: Sequence[Stop], rules: Sequence[Rule]) -> Image:
    """Lay out every stop: its frame with box and zone, and the time it took; at most the newest 24.

    Returns:
        BGR picture.

    """
    zones = {rule.name: rule.zone for rule in rules if rule.zone is not None}
    shown = stops[-MOST_TILES:]
    columns = max(1, min(4, math.ceil(math.sqrt(len(shown)))))
    rows = max(1, math.ceil(len(shown) / columns))
    width, height = TILE
    sheet = np.full(
        (HEADER + rows * (height + CAPTION + MARGIN) + MARGIN, max(columns, 2) * (width + MARGIN) + MARGIN, 3),
        PAPER,
        dtype=np.uint8,
    )
    _text(sheet, title, (MARGIN, 44), 1.0, INK, 2)
    for i, subtitle in enumerate(subtitles):
        _text(sheet, subtitle, (MARGIN, 74 + 26 * i), 0.6, GREY, 1)
    for i, stop in enumerate(shown):
        row, column = divmod(i, columns)
        left, top = MARGIN + column * (width + MARGIN), HEADER + row * (height + CAPTION + MARGIN)
        zone = zones.get(stop.rule)
        sheet[top : top + height, left : left + width] = _tile(stop, zone)
        first = len(stops) - len(shown) + i + 1
        took = f'{stop.reaction_ms:.1f} ms' if stop.reaction_ms is not None else 'already stopped'
        _text(sheet, f'{first}. {stop.class_id} {stop.score:.2f}', (left, top + height + 26), 0.7, INK, 2)
        _text(sheet, took, (left + 270, top + height + 26), 0.7, RED if stop.reaction_ms is not None else GREY, 2)
        _text(
            sheet,
            ', '.join(filter(None, [f'{stop.at_s:.2f} s into the run', stop.note])),
            (left, top + height + 50),
            0.5,
            GREY,
            1,
        )
    if not shown:
        _text(sheet, 'No stop in this run.', (MARGIN, HEADER + 60), 0.9, GREY, 2)
    return sheet


def _tile(stop: Stop, zone: np.ndarray | None) -> Image:
    width, height = TILE
    tile = np.full((height, width, 3), 60, dtype=np.uint8)
    if stop.image is None:
        _text(tile, 'no picture was sent', (20, height // 2), 0.7, WHITE, 1)
        return tile
    scale = min(width / stop.image.shape[1], height / stop.image.shape[0])
    small = cv2.resize(stop.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    shown = _only_box(stop, scale)
    small = annotate(small, shown, zones={} if zone is None else {stop.rule: zone})
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def _only_box(stop: Stop, scale: float) -> Detections:
    boxes = [] if stop.xyxy is None else [stop.xyxy]
    xyxy = np.array(boxes, dtype=np.float32).reshape(-1, 4) * scale
    return Detections(0, '', xyxy, np.full(len(boxes), stop.score, np.float32), (stop.class_id,) * len(boxes))


def _text(
    canvas: Image, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int], thickness: int
) -> None:
    cv2.putText(canvas, text, place, FONT, size, colour, thickness, cv2.LINE_AA)
