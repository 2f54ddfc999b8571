"""A recorded run of the simulated line: what the detector found in each picture, and what the line knew.

`record_line.py` makes it; again whenever the model or the demo's rule has changed::

    python test/recorded/record_line.py
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from edge_vision.detections import Detections
from edge_vision.share import share_file
from edge_vision.simulator.world import VIEW_WIDTH_M

FORMAT = 1
PATH = Path(__file__).with_name('line.json.gz')
RULE = 'defect_at_gate'


class Found(NamedTuple):
    """One detection: label, score, and left, top, right, bottom in pixels."""

    class_id: str
    score: float
    xyxy: tuple[float, float, float, float]


class Flaw(NamedTuple):
    """A flaw in the view, as the line knows it; ``x`` is its centre as a share of the view's width."""

    part_id: int
    class_id: str
    x: float


class Picture(NamedTuple):
    """What was found in one picture, what was there, and how fast the belt was (m/s)."""

    found: tuple[Found, ...]
    flaws: tuple[Flaw, ...]
    speed_m_s: float


@dataclass(frozen=True)
class Recording:
    """A run, picture by picture at a steady rate.

    Attributes:
        made: How it was made: script, seed, model and its sha256, and so on.
        rate_hz: Pictures per second.
        image_size: Width and height in pixels.
        parameters: Those of the decision node for the demo when it was made.
        pictures: What there is to each picture.

    """

    made: Mapping[str, Any]
    rate_hz: float
    image_size: tuple[int, int]
    parameters: Mapping[str, Any]
    pictures: tuple[Picture, ...]

    def write(self, path: Path) -> None:
        """Write it, the same bytes for the same run."""
        text = json.dumps({'format': FORMAT, **asdict(self)}, separators=(',', ':'))
        path.write_bytes(gzip.compress(text.encode(), mtime=0))

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read it back."""
        content = json.loads(gzip.decompress(path.read_bytes()))
        assert content.pop('format') == FORMAT, f'{path.name} has another format, expected {FORMAT}; record it again'
        pictures = tuple(
            Picture(
                tuple(Found(class_id, score, tuple(xyxy)) for class_id, score, xyxy in found),
                tuple(Flaw(*flaw) for flaw in flaws),
                speed_m_s,
            )
            for found, flaws, speed_m_s in content.pop('pictures')
        )
        return cls(**{**content, 'image_size': tuple(content['image_size'])}, pictures=pictures)

    def detections(self, index: int, stamp_ns: int) -> Detections:
        """Give what was found in a picture under another stamp."""
        found = self.pictures[index].found
        return Detections(
            stamp_ns,
            'camera',
            np.array([f.xyxy for f in found], np.float32).reshape(-1, 4),
            np.array([f.score for f in found], np.float32),
            tuple(f.class_id for f in found),
            image_size=self.image_size,
        )

    def flawed(self, margin_m: float = 0.0) -> list[bool]:
        """Tell of each picture whether a flaw's centre is in the zone, made wider (or narrower) by a margin."""
        low, high = self._zone_x()
        margin = margin_m / VIEW_WIDTH_M
        return [any(low - margin <= flaw.x <= high + margin for flaw in picture.flaws) for picture in self.pictures]

    def seen(self) -> list[bool]:
        """Tell of each picture whether a flaw was found with its centre in the zone, so that the rule counts it."""
        (low, high), width = self._zone_x(), self.image_size[0]
        classes, min_score = (self.parameters[f'{RULE}.{name}'] for name in ('classes', 'min_score'))
        return [
            any(
                found.class_id in classes
                and found.score >= min_score
                and low <= (found.xyxy[0] + found.xyxy[2]) / 2 / width <= high
                for found in picture.found
            )
            for picture in self.pictures
        ]

    def _zone_x(self) -> tuple[float, float]:
        """Give the zone's left and right edge; it is as high as the picture."""
        zone_x = self.parameters[f'{RULE}.points'][::2]
        return min(zone_x), max(zone_x)


def spans(flags: Sequence[bool]) -> list[range]:
    """List the runs of pictures in a row for which a flag is set."""
    steps = np.flatnonzero(np.diff(np.array([0, *flags, 0], np.int8)))
    return [range(int(start), int(stop)) for start, stop in steps.reshape(-1, 2)]


def demo_parameters() -> dict[str, Any]:
    """Read what the demo gives to the decision node."""
    content = yaml.safe_load(share_file('config/demo.yaml').read_text(encoding='utf-8'))
    return dict(content['/**/decision']['ros__parameters'])
