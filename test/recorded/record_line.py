"""Records a run of the simulated line for `test_recorded_run.py`: ``python test/recorded/record_line.py``.

The line runs on a timetable, whatever is found: parts pass, the belt stands for seconds with a flaw in the zone and
goes on with it, parts pass, the belt stands until the rejector has taken a defective part out, parts pass. Each picture
is drawn for its instant and given to the shipped model; no clock is involved, so the same seed and model give the same
recording. It replaces line.json.gz beside this file; commit that along with what made it necessary.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from recording import PATH, Flaw, Found, Picture, Recording, demo_parameters

from edge_vision.detections import Detections
from edge_vision.detector import Detector
from edge_vision.frames import Frame
from edge_vision.runtimes import open_runtime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.renderer import Renderer
from edge_vision.simulator.world import VIEW_WIDTH_M, Scene, World

RATE_HZ = 30
WIDTH, HEIGHT = 640, 480
SEED = 154
DEFECT_RATE = 0.4
SPEED_M_S = 0.4
CONFIDENCE_THRESHOLD = 0.35  # as config/demo.yaml has it
PASSING_S = (8.5, 5.0, 6.0)
STANDING_S = 3.5
PAUSE_S = 0.5
STOP_X = (0.48, 0.58)  # where a flaw must be for the belt to stop with it in the zone


def main() -> None:
    """Record and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seed', type=int, default=SEED, help='decides the parts and the noise [%(default)s]')
    parser.add_argument('--output', type=Path, default=PATH, help='[%(default)s]')
    arguments = parser.parse_args()
    model = share_file(CONVEYOR_MODEL)
    runtime = open_runtime('auto', model)
    detector = Detector(runtime, confidence_threshold=CONFIDENCE_THRESHOLD)
    renderer = Renderer(WIDTH, HEIGHT, seed=arguments.seed)
    recording = Recording(
        made={
            'by': 'test/recorded/record_line.py',
            'seed': arguments.seed,
            'defect_rate': DEFECT_RATE,
            'speed_m_s': SPEED_M_S,
            'model': model.name,
            'model_sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
            'runtime': runtime.name,
            'confidence_threshold': CONFIDENCE_THRESHOLD,
        },
        rate_hz=RATE_HZ,
        image_size=(WIDTH, HEIGHT),
        parameters=demo_parameters(),
        pictures=tuple(look(scene, renderer, detector) for scene in timetable(make_world(arguments.seed))),
    )
    recording.write(arguments.output)
    size = arguments.output.stat().st_size
    sys.stdout.write(f'{arguments.output}: {len(recording.pictures)} pictures, {size / 1000:.0f} kB\n')


def make_world(seed: int) -> World:
    """Switch the line on."""
    return World(seed=seed, defect_rate=DEFECT_RATE, speed_m_s=SPEED_M_S)


def timetable(world: World) -> Iterator[Scene]:
    """Run the line and give one scene per picture."""
    before, between, after = PASSING_S
    world.set_run(run=True, at_s=world.now_s)
    yield from roll(world, later(world, before))
    yield from roll(world, flaw_at_stop)
    world.set_run(run=False, at_s=world.now_s)
    yield from roll(world, lambda scene: scene.speed_m_s == 0)
    for _ in range(round(STANDING_S * RATE_HZ)):  # the world rests, or its rejector would take the part out
        yield world.scene
    world.set_run(run=True, at_s=world.now_s)
    yield from roll(world, later(world, between))
    yield from roll(world, flaw_at_stop)
    world.set_run(run=False, at_s=world.now_s)
    parts = len(world.scene.parts)
    yield from roll(world, lambda scene: len(scene.parts) < parts)
    yield from roll(world, later(world, PAUSE_S))
    world.set_run(run=True, at_s=world.now_s)
    yield from roll(world, later(world, after))


def roll(world: World, done: Callable[[Scene], bool]) -> Iterator[Scene]:
    """Let the line go on, picture by picture, until a scene is as wanted."""
    while not done(world.scene):
        world.advance(world.now_s + 1 / RATE_HZ)
        yield world.scene


def later(world: World, seconds: float) -> Callable[[Scene], bool]:
    """Wait for an instant."""
    until_s = world.now_s + seconds
    return lambda _: world.now_s >= until_s


def flaw_at_stop(scene: Scene) -> bool:
    """Tell whether the belt would come to stand with a flaw in the zone if it was stopped now."""
    return any(STOP_X[0] <= flaw.x <= STOP_X[1] for flaw in flaws_in(scene))


def flaws_in(scene: Scene) -> tuple[Flaw, ...]:
    """List the flaws whose centre is in the picture."""
    placed = (
        (part, flaw, (scene.belt_m - part.belt_m + part.defect_offset_m(flaw)) / VIEW_WIDTH_M)
        for part in scene.parts
        for flaw in part.defects
    )
    return tuple(Flaw(part.part_id, flaw.class_id, round(x, 5)) for part, flaw, x in placed if 0 <= x <= 1)


def look(scene: Scene, renderer: Renderer, detector: Detector) -> Picture:
    """Draw a scene and have the detector look at it."""
    detections = detector.detect(Frame(renderer.render(scene), 0, ''))
    return Picture(tuple(found_in(detections)), flaws_in(scene), round(scene.speed_m_s, 4))


def found_in(detections: Detections) -> Iterator[Found]:
    """Turn detections into plain values; scores are rounded down, so that none gets over a threshold."""
    rows = zip(detections.class_id, detections.score.tolist(), detections.xyxy.tolist(), strict=True)
    for class_id, score, xyxy in rows:
        left, top, right, bottom = (round(value, 1) for value in xyxy)
        yield Found(class_id, math.floor(score * 10000) / 10000, (left, top, right, bottom))


if __name__ == '__main__':
    main()
