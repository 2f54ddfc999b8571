"""The rules of the decision node: which detections, where, and what to do about them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import zones
from .causes import BUILT_IN
from .detections import Detections
from .errors import ConfigurationError
from .params import DecisionParams, from_values, param, specs, unknown_name

Action = Literal['stop', 'slowdown', 'alarm', 'flag']


@dataclasses.dataclass(frozen=True)
class RuleParams:
    """Parameters of one rule, each behind the rule's name and a dot."""

    enabled: bool = param(True, 'Whether the rule is in force')
    cameras: tuple[str, ...] = param((), 'Cameras it applies to, as left for left/detections; empty: all')
    classes: tuple[str, ...] = param((), 'Labels that count; empty: all')
    min_score: float = param(0.5, 'Least score that counts', bounds=(0.0, 1.0))
    min_area: float = param(0.0, 'Least box area that counts, as a share of the image', bounds=(0.0, 1.0))
    max_area: float = param(1.0, 'Greatest box area that counts, as a share of the image', bounds=(0.0, 1.0))
    points: tuple[float, ...] = param((), 'Zone as normalised x, y of its corners, in order; empty: the whole image')
    anchor: str = param('center', 'Point of the box that must be in the zone', one_of=zones.ANCHORS)
    min_detections: int = param(1, 'Matching detections in one frame that make it count', bounds=(1, 10000))
    dwell_time: float = param(0.0, 'Time an object must have matched before it counts, s', bounds=(0.0, 86400.0))
    action_type: str = param('stop', 'What to do', one_of=('stop', 'slowdown', 'alarm', 'flag'))
    slowdown_ratio: float = param(0.5, 'Share of cmd_vel_in let through by slowdown', bounds=(0.0, 1.0))
    trigger_consecutive_frames: int = param(2, 'Frames in a row that trigger', bounds=(1, 10000))
    release_consecutive_frames: int = param(5, 'Clear fresh frames in a row that release', bounds=(1, 10000))
    latch: bool = param(False, 'Hold until ~/reset')
    evidence: str = param('crop', 'Picture sent with the event', one_of=('none', 'crop', 'frame'))
    cooldown: float = param(
        0.0, 'Least time between its events on one camera, s; commands never wait', bounds=(0.0, 86400.0)
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule ready to be applied.

    Raises:
        ConfigurationError: Its zone is not a simple polygon, or its limits contradict each other.

    """

    name: str
    params: RuleParams
    zone: zones.Points | None = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check what one parameter alone cannot tell."""
        params = self.params
        zone = zones.polygon(f'{self.name}.points', params.points) if params.points else None
        object.__setattr__(self, 'zone', zone)
        if params.min_area > params.max_area:
            raise ConfigurationError(
                f'{self.name}.min_area is {params.min_area}, expected at most {self.name}.max_area, {params.max_area}'
            )


class _Columns(dict[str, int]):
    """The column of every label that a rule names; the one behind them is any other label's."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__((label, column) for column, label in enumerate(labels))

    def __missing__(self, label: str) -> int:
        return len(self)


class RuleBook:
    """All enabled rules, ready to be applied to a frame in one go.

    Attributes:
        rules: The enabled ones, in their order.

    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rule for rule in rules if rule.params.enabled)
        order = sorted(range(len(self.rules)), key=lambda row: self.rules[row].zone is None)  # those with a zone first
        self._rows = np.argsort(order)
        every = [self.rules[row].params for row in order]
        labels = sorted({label for params in every for label in params.classes})
        self._columns = _Columns(labels)
        wanted = [[not p.classes or label in p.classes for label in (*labels, None)] for p in every]
        shape = len(every), len(labels) + 1  # the last column: any other label
        self._wanted = np.array(wanted, dtype=bool).reshape(shape)
        self._min_score = np.array([[p.min_score] for p in every], dtype=np.float32).reshape(-1, 1)
        self._min_area = np.array([p.min_area for p in every]).reshape(-1, 1)
        self._max_area = np.array([p.max_area for p in every]).reshape(-1, 1)
        self._limits_area = any(p.min_area > 0.0 or p.max_area < 1.0 for p in every)
        polygons = [zone for row in order if (zone := self.rules[row].zone) is not None]
        self._zoned = len(polygons)
        self._zones = zones.ZoneSet(polygons, [p.anchor for p in every[: self._zoned]]) if polygons else None

    def match(self, detections: Detections) -> NDArray[np.bool_]:
        """Find what the rules are about by class, score, area and zone; cameras and time are not looked at.

        A zone covers the whole image and areas are not limited while the image size is unknown: looking at too much
        stops too often, looking at too little would not stop. For the same reason a box without an area that can be
        told is within the limits.

        Returns:
            Shape (rules, detections).

        """
        columns = list(map(self._columns.__getitem__, detections.class_id))
        found = self._wanted.take(columns, axis=1) & (detections.score >= self._min_score)
        if detections.image_size is None or not found.any():
            return found.take(self._rows, axis=0)
        boxes = np.divide(detections.xyxy, detections.image_size * 2, dtype=np.float64)
        np.minimum(np.maximum(boxes, 0.0, out=boxes), 1.0, out=boxes)
        if self._limits_area:
            area = np.abs((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
            found &= ~((area < self._min_area) | (area > self._max_area))
        if self._zones is not None:
            found[: self._zoned] &= self._zones.hold(boxes)
        return found.take(self._rows, axis=0)


def unknown_classes(rules: Iterable[Rule], labels: Sequence[str]) -> list[str]:
    """Find the classes of rules that no detection can have: such a rule would never act.

    Args:
        rules: The rules in force.
        labels: What a detector reports.

    Returns:
        A sentence for each.

    """
    found = []
    for rule in rules:
        for name in rule.params.classes if rule.params.enabled else ():
            if name not in labels:
                near = difflib.get_close_matches(name, labels, 1)
                hint = f'did you mean {near[0]!r}?' if near else f'expected some of {list(labels[:20])}'
                found.append(f'{rule.name}.classes holds {name!r}, which the detector does not report, {hint}')
    return found


def dropped_scores(rules: Iterable[Rule], confidence_threshold: float) -> list[str]:
    """Find rules that ask for scores below those that a detector reports: what they ask for is not all there.

    Returns:
        A sentence for each rule in force.

    """
    return [
        f'{rule.name}.min_score is {rule.params.min_score}, below the confidence_threshold of the detector, '
        f'{confidence_threshold}, which drops what scores less'
        for rule in rules
        if rule.params.enabled and rule.params.min_score < confidence_threshold
    ]


def camera_of(topic: str) -> str:
    """Name the camera of a topic of detections: what stands left of ``/detections``, '' where nothing does."""
    return topic.rpartition('/')[0].strip('/')


def rules_from_values(values: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Build the rules that ``rules`` names from parameter names and values.

    Args:
        values: ``rules``, ``detections_topics`` and, for each rule, ``<rule>.<parameter>``; absent ones take their
            default.

    Raises:
        ConfigurationError: A name is not usable or given twice, a value is wrong or a camera is not known.

    """
    node = from_values(DecisionParams, {k: values[k] for k in ('rules', 'detections_topics') if k in values})
    names = node.rules
    known = {s.name for s in specs(DecisionParams)} | set(BUILT_IN)
    for name in names:
        if not name.isidentifier() or name in known:
            raise ConfigurationError(
                f'rules holds {name!r}, expected letters, digits and _ that no parameter or built-in cause is called'
            )
        if names.count(name) > 1:
            raise ConfigurationError(f'rules holds {name!r} twice, expected every rule once')
    rules = tuple(Rule(name, from_values(RuleParams, values, f'{name}.')) for name in names)
    for rule in rules:
        _check_cameras(rule, node.detections_topics)
    return rules


def _check_cameras(rule: Rule, topics: Sequence[str]) -> None:
    known = sorted({camera_of(topic) for topic in topics} - {''})
    for camera in rule.params.cameras:
        if camera not in known:
            raise ConfigurationError(
                f'{rule.name}.cameras holds {camera!r}, expected names out of {known}: '
                f'what stands left of /detections in detections_topics, which is {list(topics)}'
            )


def check_names(names: Iterable[str], rules: Iterable[str]) -> list[str]:
    """Refuse parameter names that the decision node does not know.

    A rule may be described without being in force: it can be added to ``rules`` later.

    Args:
        names: Parameter names the user wrote.
        rules: The rules in force.

    Returns:
        The rules that are described but not in force.

    Raises:
        ConfigurationError: With the nearest known name.

    """
    node = {spec.name for spec in specs(DecisionParams)}
    fields = {spec.name for spec in specs(RuleParams)}
    known = node | {f'{rule}.{field}' for rule in rules for field in fields}
    described = set()
    for name in names:
        rule, dot, field = name.partition('.')
        if name in node:
            continue
        if not dot or field not in fields or not rule.isidentifier():
            raise unknown_name(name, known)
        described.add(rule)
    return sorted(described - set(rules))
