"""The rules of the decision node: which detections, where, and what to do about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import zones
from .detections import Detections
from .errors import ConfigurationError
from .params import DecisionParams, from_values, param, specs, unknown_name

Action = Literal['stop', 'slowdown', 'alarm', 'flag']


@dataclasses.dataclass(frozen=True)
class RuleParams:
    """Parameters of one rule, each behind the rule's name and a dot."""

    enabled: bool = param(True, 'Whether the rule is in force')
    classes: tuple[str, ...] = param((), 'Labels that count; empty: all')
    min_score: float = param(0.5, 'Least score that counts', bounds=(0.0, 1.0))
    points: tuple[float, ...] = param((), 'Zone as normalised x, y of its corners, in order; empty: the whole image')
    anchor: str = param(
        'center', 'Point of the box that must be in the zone', one_of=('center', 'bottom_center', 'any')
    )
    action_type: str = param('stop', 'What to do', one_of=('stop', 'slowdown', 'alarm', 'flag'))
    slowdown_ratio: float = param(0.5, 'Share of cmd_vel_in let through by slowdown', bounds=(0.0, 1.0))
    trigger_consecutive_frames: int = param(2, 'Frames in a row that trigger', bounds=(1, 10000))
    release_consecutive_frames: int = param(5, 'Clear fresh frames in a row that release', bounds=(1, 10000))
    latch: bool = param(False, 'Hold until ~/reset')
    evidence: str = param('crop', 'Picture sent with the event', one_of=('none', 'crop', 'frame'))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule ready to be applied.

    Raises:
        ConfigurationError: Its zone is not a simple polygon.

    """

    name: str
    params: RuleParams
    zone: zones.Points | None = dataclasses.field(init=False, compare=False)
    classes: frozenset[str] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Check the zone and look the classes up once."""
        points = self.params.points
        object.__setattr__(self, 'zone', zones.polygon(f'{self.name}.points', points) if points else None)
        object.__setattr__(self, 'classes', frozenset(self.params.classes))

    def matches(self, detections: Detections) -> NDArray[np.intp]:
        """Find the detections this rule is about.

        A zone covers the whole image while the image size is unknown: looking at too much stops too often,
        looking at too little would not stop.

        Returns:
            Their indices, ascending.

        """
        wanted = self.params.min_score
        candidates = [
            i
            for i, label in enumerate(detections.class_id)
            if detections.score[i] >= wanted and (not self.classes or label in self.classes)
        ]
        found = np.array(candidates, dtype=np.intp)
        if self.zone is None or detections.image_size is None or not candidates:
            return found
        boxes = np.clip(detections.xyxy[found] / (detections.image_size * 2), 0.0, 1.0)
        return found[self._in_zone(self.zone, boxes)]

    def _in_zone(self, zone: zones.Points, boxes: zones.Points) -> NDArray[np.bool_]:
        if self.params.anchor == 'any':
            return zones.touches(zone, boxes)
        x = (boxes[:, 0] + boxes[:, 2]) / 2
        y = boxes[:, 3] if self.params.anchor == 'bottom_center' else (boxes[:, 1] + boxes[:, 3]) / 2
        return zones.contains(zone, np.stack([x, y], axis=1))


def rules_from_values(values: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Build the rules that ``rules`` names from parameter names and values.

    Args:
        values: ``rules`` and, for each rule, ``<rule>.<parameter>``; absent ones take their default.

    Raises:
        ConfigurationError: A name is not usable or given twice, or a value is wrong.

    """
    names = from_values(DecisionParams, {'rules': values.get('rules', ())}).rules
    known = {s.name for s in specs(DecisionParams)}
    for name in names:
        if not name.isidentifier() or name in known:
            raise ConfigurationError(
                f'rules holds {name!r}, expected letters, digits and _ that no parameter is called'
            )
        if names.count(name) > 1:
            raise ConfigurationError(f'rules holds {name!r} twice, expected every rule once')
    return tuple(Rule(name, from_values(RuleParams, values, f'{name}.')) for name in names)


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
