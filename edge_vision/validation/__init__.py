"""Compares a runtime's boxes with those of the same model in fp32, before the first may control anything.

A half-precision or INT8 engine may lose classes, move boxes, or detect nothing at all, and run without an error. So
both look at the same pictures, and every box that one of them reports is looked up in the other.

**What counts as a box.** What the detector would report: an anchor that scores at least 0.25 and survives NMS. Where
the reference reports fewer than `FEW` such boxes (pictures of something else than it was trained for), the threshold
is lowered to the score of its `ENOUGH`-th best box, never below `FLOOR`: so there is something to compare for every
model that responds to the pictures at all. Half precision agrees there as well; INT8, whose scales were chosen for
other pictures, often does not, and is refused rather than trusted.

**What counts as found.** The other has an anchor of the same class that overlaps by an IoU of at least 0.5 and
scores above the threshold less a slack. The slack is in log-odds, in which the last layer computes: it is 0.06 around
a score of 0.25 and shrinks towards 0 and 1. A box that falls on the other side of the threshold by a hair is so not
called lost. What the other reports is searched first and then all of its anchors, as NMS turns tiny differences of
score into different survivors of one cluster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..capture import list_pictures, read_picture
from ..errors import ConfigurationError, ModelError, RuntimeUnavailable
from ..frames import Image
from ..runtimes import Options, Runtime, open_runtime
from ..simulator.dataset import HELD_OUT, make_picture
from ..yolov8 import Boxes, Floats, Indices, decode, letterbox, nms

CONFIDENCE, NMS = 0.25, 0.45  # the detector's defaults
OVERLAP = 0.5
SLACK = 0.35  # log-odds
FEW, ENOUGH = 5, 20
FLOOR = 0.001
MOST_BOXES = 100  # of a picture
MOST_PICTURES = 64
RENDERED_PICTURES = 32
RENDERED_SEED = 4001  # no set of the shipped model was drawn from it


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a candidate's boxes are those of its reference.

    Attributes:
        pictures: How many were looked at.
        threshold: Score from which a box counted.
        boxes: What the reference reports.
        found: Share of them that the candidate has, too.
        candidate_boxes: What the candidate reports.
        spurious: Share of them that the reference does not have.
        mean_iou: Overlap of a box with its counterpart, mean over what was found.
        min_iou: The same, the least.
        mean_score_difference: Difference of their scores, absolute, mean.
        max_score_difference: The same, the greatest.
        classes: For every label that the reference reports: its boxes and how many of them were found.
        malformed: Boxes of the candidate that hold a number that is not finite.

    """

    pictures: int
    threshold: float
    boxes: int
    found: float
    candidate_boxes: int
    spurious: float
    mean_iou: float
    min_iou: float
    mean_score_difference: float
    max_score_difference: float
    classes: dict[str, tuple[int, int]]
    malformed: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, rounded, as they are kept beside an engine."""
        values = dataclasses.asdict(self)
        return {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}

    def __str__(self) -> str:
        """Put the figures into one line."""
        return (
            f'{self.pictures} pictures, {self.boxes} boxes above {self.threshold:.3g}: {self.found:.1%} found, '
            f'{self.spurious:.1%} of its {self.candidate_boxes} boxes spurious, IoU {self.mean_iou:.3f} on average '
            f'and {self.min_iou:.3f} at least, score off by {self.mean_score_difference:.3f} on average and '
            f'{self.max_score_difference:.3f} at most'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much a candidate may differ from its reference.

    Attributes:
        found: Least share of the reference's boxes.
        class_found: Least share of the boxes of any one label with at least `class_boxes` of them.
        class_boxes: See above.
        spurious: Greatest share of the candidate's boxes that the reference does not have.
        mean_iou: Least mean overlap.
        mean_score_difference: Greatest mean difference of the scores.

    """

    found: float = 0.97
    class_found: float = 0.9
    class_boxes: int = 10
    spurious: float = 0.03
    mean_iou: float = 0.9
    mean_score_difference: float = 0.03


DEFAULT_TOLERANCE = Tolerance()


class Look(NamedTuple):
    """What one runtime saw in one picture.

    Attributes:
        anchors: Every anchor that could count.
        boxes: Those of them that survive NMS.
        malformed: How many were dropped because a number in them is not finite.

    """

    anchors: Boxes
    boxes: Boxes
    malformed: int


class Counterparts(NamedTuple):
    """What some boxes have become in another network.

    Attributes:
        label: Position of the box's label.
        iou: Its overlap with its counterpart, NaN where it has none.
        score_difference: Between the two, absolute; NaN where it has none.

    """

    label: Indices
    iou: Floats
    score_difference: Floats


def compare(reference: Runtime, candidate: Runtime, pictures: Iterable[Image]) -> Agreement:
    """Let both look at the pictures and compare their boxes.

    Raises:
        ModelError: They are not of the same labels and input size.

    """
    check_same_kind(reference, candidate)
    seen = [(look(reference, image), look(candidate, image)) for image in pictures]
    threshold = choose_threshold([expected.boxes.score for expected, _ in seen])
    wanted = joined(counterparts(expected.boxes, given, threshold) for expected, given in seen)
    reported = joined(counterparts(given.boxes, expected, threshold) for expected, given in seen)
    found = ~np.isnan(wanted.iou)
    iou, off = wanted.iou[found], wanted.score_difference[found]
    return Agreement(
        pictures=len(seen),
        threshold=threshold,
        boxes=len(found),
        found=mean(found),
        candidate_boxes=len(reported.iou),
        spurious=mean(np.isnan(reported.iou)),
        mean_iou=mean(iou),
        min_iou=float(iou.min(initial=1.0)) if len(iou) else 0.0,
        mean_score_difference=mean(off),
        max_score_difference=float(off.max(initial=0.0)),
        classes=by_class(reference.labels, wanted.label, found),
        malformed=sum(given.malformed for _, given in seen),
    )


def by_class(labels: Sequence[str], label: Indices, found: NDArray[np.bool_]) -> dict[str, tuple[int, int]]:
    """Count the boxes of every label that has any, and those that were found."""
    boxes, hits = (np.bincount(which, minlength=len(labels)).tolist() for which in (label, label[found]))
    return {name: (count, hit) for name, count, hit in zip(labels, boxes, hits, strict=True) if count}


def mean(values: NDArray[Any]) -> float:
    """Return the mean, 0 of nothing."""
    return float(values.mean()) if values.size else 0.0


def check_same_kind(reference: Runtime, candidate: Runtime) -> None:
    """Raise ModelError unless boxes of the two can be compared."""
    if reference.labels != candidate.labels:
        raise ModelError(
            f'the candidate has the labels {list(candidate.labels)}, expected those of the reference, '
            f'{list(reference.labels)}; compare it with the model that it was made from'
        )
    if reference.input_size != candidate.input_size:
        raise ModelError(
            f'the candidate takes pictures of {candidate.input_size} (height, width), expected {reference.input_size} '
            'as the reference takes; compare it with the model that it was made from'
        )


def look(runtime: Runtime, image: Image) -> Look:
    """Run a network on a picture."""
    height, width = image.shape[:2]
    anchors = runtime.infer(image, letterbox((width, height), runtime.input_size), lowered(FLOOR))
    finite = np.isfinite(anchors).all(axis=0)
    boxes = decode(anchors[:, finite])
    return Look(boxes, boxes.take(nms(boxes, NMS, MOST_BOXES)), int(np.count_nonzero(~finite)))


def choose_threshold(scores: Sequence[Floats]) -> float:
    """Take the detector's own threshold where it leaves enough of the reference's boxes, else a lower one."""
    best = np.sort(np.concatenate([np.empty(0, np.float32), *scores]))[::-1]
    if np.count_nonzero(best >= CONFIDENCE) >= FEW:
        return CONFIDENCE
    return max(FLOOR, float(best[ENOUGH - 1])) if len(best) >= ENOUGH else FLOOR


def above(boxes: Boxes, threshold: float) -> Boxes:
    """Take those that score at least so much."""
    return boxes.take(boxes.score >= threshold)


def counterparts(boxes: Boxes, other: Look, threshold: float) -> Counterparts:
    """Look the boxes above the threshold up in what the other reports, and else in all of its anchors."""
    boxes = above(boxes, threshold)
    reported, hidden = (look_up(boxes, above(found, lowered(threshold))) for found in (other.boxes, other.anchors))
    absent = np.isnan(reported.iou)
    iou = np.where(absent, hidden.iou, reported.iou)
    return Counterparts(boxes.label, iou, np.where(absent, hidden.score_difference, reported.score_difference))


def look_up(boxes: Boxes, others: Boxes) -> Counterparts:
    """Find for each box the one of its class that overlaps it most."""
    iou = overlaps(boxes.xyxy, others.xyxy)
    iou[boxes.label[:, None] != others.label] = 0.0
    best = iou.max(axis=1, initial=0.0)
    nearest = iou.argmax(axis=1) if len(others.score) else np.zeros(len(best), np.intp)
    scores = np.append(others.score, np.float32(np.nan))  # so that there is one to take
    there = best >= OVERLAP
    difference = np.abs(boxes.score - scores[np.where(there, nearest, -1)])
    return Counterparts(boxes.label, np.where(there, best, np.float32(np.nan)), difference)


def joined(parts: Iterable[Counterparts]) -> Counterparts:
    """Put the boxes of all pictures together."""
    nothing = Counterparts(np.empty(0, np.intp), np.empty(0, np.float32), np.empty(0, np.float32))
    return Counterparts(*(np.concatenate(column) for column in zip(nothing, *parts, strict=True)))


def lowered(threshold: float) -> float:
    """Take the slack off a score, in log-odds."""
    odds = threshold / (1.0 - threshold) * float(np.exp(-SLACK))
    return odds / (1.0 + odds)


def overlaps(some: Floats, others: Floats) -> Floats:
    """Compute the intersection over union of every box with every other, shape (N, M); left, top, right, bottom."""
    corner = np.maximum(some[:, None, :2], others[None, :, :2])
    opposite = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(opposite - corner, 0.0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), axis=1) for boxes in (some, others)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    result: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return result


def check(agreement: Agreement, what: str, tolerance: Tolerance = DEFAULT_TOLERANCE) -> None:
    """Refuse a candidate that differs too much.

    Args:
        agreement: Its figures.
        what: What it is, for the error: ``'engine m.engine (int8)'``.
        tolerance: How much is too much.

    Raises:
        ModelError: It does, or there was nothing to compare.

    """
    if not agreement.boxes:
        raise ModelError(
            f'{what} cannot be compared with its reference, which reports nothing in any of the '
            f'{agreement.pictures} pictures, expected some that it was trained for; give a folder of them'
        )
    faults = list(beyond(agreement, tolerance))
    if faults:
        raise ModelError(
            f'{what} does not see what its model sees in fp32: {"; ".join(faults)} ({agreement}); '
            'use a higher precision or calibrate with pictures of its place of work'
        )


def beyond(agreement: Agreement, tolerance: Tolerance) -> Iterator[str]:
    """Name every figure that is beyond its tolerance."""
    a, t = agreement, tolerance
    if a.malformed:
        yield f'{a.malformed} boxes are not finite'
    if a.found < t.found:
        yield f'found {a.found:.1%} of the boxes, expected {t.found:.0%}'
    for label, (boxes, found) in a.classes.items():
        if boxes >= t.class_boxes and found < t.class_found * boxes:
            yield f'found {found} of {boxes} {label!r}, expected {t.class_found:.0%}'
    if a.spurious > t.spurious:
        yield f'{a.spurious:.1%} of its boxes are spurious, expected at most {t.spurious:.0%}'
    if a.found and a.mean_iou < t.mean_iou:
        yield f'its boxes overlap by {a.mean_iou:.3f}, expected {t.mean_iou:g}'
    if a.mean_score_difference > t.mean_score_difference:
        yield f'its scores are off by {a.mean_score_difference:.3f}, expected at most {t.mean_score_difference:g}'


def sample_pictures(directory: Path | None) -> Iterator[Image]:
    """Give the pictures of a folder, at most `MOST_PICTURES` spread over all of them; of none, rendered ones.

    The rendered ones are of the simulated line, varied more than the pictures that the shipped model was trained with.

    Raises:
        SourceError: The folder holds none, or one is not readable.
        ConfigurationError: There is no such folder.

    """
    if directory is None:
        for index in range(RENDERED_PICTURES):
            yield make_picture(RENDERED_SEED, index, HELD_OUT)[0]
        return
    if not directory.is_dir():
        raise ConfigurationError(f'picture folder {str(directory)!r} does not exist, expected a folder of pictures')
    paths = list_pictures(directory)
    count = min(len(paths), MOST_PICTURES)
    for index in range(count):
        yield read_picture(paths[index * len(paths) // count])


def reference_runtime(model: Path, input_size: tuple[int, int] | None = None) -> Runtime:
    """Open an ONNX model in fp32 on the CPU.

    Args:
        model: The model that a candidate was made from.
        input_size: Height and width, for a model that takes any.

    Raises:
        RuntimeUnavailable: No runtime for the CPU is installed.
        ModelError: The model is not usable.

    """
    for backend, options in (
        ('openvino', Options(input_size=input_size)),
        ('onnxruntime', Options(input_size=input_size, providers=('CPUExecutionProvider',))),
    ):
        try:
            return open_runtime(backend, model, options)
        except RuntimeUnavailable as error:
            reason = error
    raise RuntimeUnavailable(
        f'nothing here runs the reference {str(model)!r} in fp32 on the CPU: {reason}; '
        'or do without the comparison (validate_engine: false)'
    )
