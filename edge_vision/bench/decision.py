"""How long one decision takes with many rules and boxes, beside bare comparisons of their numbers.

What cannot be taken away is that every box is compared with every rule: its centre with the rectangle around the
rule's zone, its score with the least one. The floor does this and nothing else, in numpy, all boxes and rules at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from ..decision import Decision, Outcome
from ..detections import Detections
from ..params import DecisionParams
from ..picture import Picture
from ..rules import Rule, RuleParams
from .figures import Row, in_turns, percentiles, ratio, text, times

RULES, BOXES, CAMERAS = 20, 50, 4
TARGET_P99 = 0.5  # ms
FRAMES = 64  # that differ; then they come again under new stamps
AHEAD = 4096  # frames
PERIOD_NS = 8_000_000  # from the frame of one camera to that of the next
AGE_NS = 20_000_000
SIZE = (640, 480)
SWAY = 20.0  # pixels
LABELS = ('person', 'part', 'scratch', 'dent', 'stain')
ACTIONS = ('stop', 'slowdown', 'alarm', 'flag')
ANCHORS = ('center', 'bottom_center', 'any')


def decisions(duration: float) -> Iterator[Row]:
    """Time decisions and the floor, in turns."""
    rng = np.random.default_rng(1)
    rules, frames = make_rules(rng), make_frames(rng)
    observe, complete = deciding(rules, frames)
    steps = {'compare_ms': comparing(rules, frames), 'observe_ms': observe, 'complete_ms': complete}
    figures = {name: percentiles(took) for name, took in in_turns(steps, duration).items()}
    yield {
        'rules': RULES,
        'detections': BOXES,
        'cameras': CAMERAS,
        'observe_ms': figures['observe_ms'],
        'target_p99_ms': TARGET_P99,
        'complete_ms': figures['complete_ms'],
        'floor': {'compare_ms': figures['compare_ms']},
        'observe_per_compare': ratio(figures['observe_ms'], figures['compare_ms']),
    }


def make_rules(rng: np.random.Generator) -> list[Rule]:
    """Make rules with all actions and anchors and zones of 4 to 8 corners; every fifth matches every frame."""
    return [
        Rule(
            f'rule_{i}',
            RuleParams(
                classes=() if i % 5 == 0 else (LABELS[i % len(LABELS)], LABELS[(i + 2) % len(LABELS)]),
                min_score=0.0 if i % 5 == 0 else 0.5,
                points=() if i % 5 == 0 else zone(rng, 4 + i // 4),
                anchor=ANCHORS[i % len(ANCHORS)],
                action_type=ACTIONS[i % len(ACTIONS)],
            ),
        )
        for i in range(RULES)
    ]


def zone(rng: np.random.Generator, corners: int) -> tuple[float, ...]:
    """Draw a polygon around some point; seen from there its corners come in order, so that it cannot cross itself."""
    x, y = rng.uniform(0.35, 0.65, 2)
    reach = rng.uniform(0.1, 0.35, corners)
    angles = 2 * math.pi * (np.arange(corners) + rng.uniform(0.0, 0.5, corners)) / corners
    points = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], axis=1)
    return tuple(points.ravel().tolist())


def make_frames(rng: np.random.Generator) -> list[Detections]:
    """Draw a round of frames: tracked objects of all labels, everywhere in the image, that sway to and fro."""
    sides = rng.uniform(10, 120, (BOXES, 2))
    corners = SWAY + rng.uniform(0, 1, (BOXES, 2)) * (np.array(SIZE) - sides - 2 * SWAY)
    phases, scores = rng.uniform(0, 2 * math.pi, (BOXES, 2)), rng.uniform(0.3, 0.95, BOXES)
    labels = tuple(rng.choice(LABELS, BOXES).tolist())
    frames = []
    for turn in np.linspace(0, 2 * math.pi, FRAMES, endpoint=False):
        moved = corners + SWAY * np.sin(phases + turn)
        frames.append(
            Detections(
                stamp_ns=0,
                frame_id='bench_optical_frame',
                xyxy=np.concatenate([moved, moved + sides], axis=1).astype(np.float32),
                score=(scores + rng.uniform(-0.05, 0.05, BOXES)).astype(np.float32),
                class_id=labels,
                track_id=tuple(map(str, range(BOXES))),
                image_size=SIZE,
                picture=Picture(changed=True, contrast=50.0),
            )
        )
    return frames


def deciding(rules: Sequence[Rule], frames: Sequence[Detections]) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a step that decides on the next frame, of one camera after the other, and one that finds what to tell."""
    topics = tuple(f'camera_{i}/detections' for i in range(CAMERAS))
    decision = Decision(DecisionParams(detections_topics=topics), rules, 0)
    coming = zip(cycle(topics), restamped(frames), strict=False)

    outcomes: deque[Outcome] = deque(maxlen=1)

    def observe() -> None:
        topic, detections = next(coming)
        now_ns = detections.stamp_ns + AGE_NS
        outcomes.append(decision.observe(topic, detections, detections.stamp_ns, now_ns))

    def complete() -> None:
        decision.complete(outcomes[0])

    return observe, complete


def restamped(frames: Sequence[Detections]) -> Iterator[Detections]:
    """Repeat frames for ever, each time under a later stamp; many are made at once, so that hardly any step pays."""
    coming = enumerate(cycle(frames), 1)
    while True:
        yield from [dataclasses.replace(found, stamp_ns=i * PERIOD_NS) for i, found in islice(coming, AHEAD)]


def comparing(rules: Sequence[Rule], frames: Sequence[Detections]) -> Callable[[], object]:
    """Return a step that compares the next frame's numbers with those of all rules."""
    whole = np.array([[0.0, 0.0], [1.0, 1.0]])
    zones = [whole if rule.zone is None else rule.zone for rule in rules]
    around = np.array([[*corners.min(axis=0), *corners.max(axis=0)] for corners in zones]) * (SIZE * 2)
    left, top, right, bottom = around.T[:, :, np.newaxis]
    least = np.array([[rule.params.min_score] for rule in rules])
    coming = cycle(frames)

    def step() -> NDArray[np.bool_]:
        detections = next(coming)
        x, y = ((detections.xyxy[:, :2] + detections.xyxy[:, 2:]) / 2).T
        inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
        return np.asarray(inside & (detections.score >= least))

    return step


def cells(row: Row) -> dict[str, str]:
    """Lay the decision out as text."""
    return {
        'rules': str(row['rules']),
        'boxes': str(row['detections']),
        'cameras': str(row['cameras']),
        'to command': text(row['observe_ms'], 3),
        'target p99': f'{row["target_p99_ms"]:.3f}',
        'to events': text(row['complete_ms'], 3),
        'compare': text(row['floor']['compare_ms'], 3),
        'command/compare': times(row['observe_per_compare']),
    }
