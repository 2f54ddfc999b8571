"""Writes labelled pictures of the conveyor in the YOLO format, for training and for judging a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edge_vision.frames import Image
from edge_vision.simulator.renderer import CLASSES, Box, Look, Renderer
from edge_vision.simulator.world import VIEW_WIDTH_M, Part, Scene, make_part

WIDTH, HEIGHT = 640, 480
EMPTY_SHARE = 0.08
STANDING_SHARE = 0.3
DEFECT_RATE = 0.75
PICTURES_PER_BELT = 50
CROWD_FILLED = 0.85


@dataclass(frozen=True, slots=True)
class Variation:
    """How far the pictures of a set differ from each other; pairs are lowest and highest.

    Attributes:
        brightness: Overall light, 1.0 is nominal.
        gradient: Highest difference of the light across the picture.
        vignette: Highest loss of light in the corners.
        tint: Highest deviation of a colour's gain.
        noise: Standard deviation of the noise in grey levels.
        exposure_s: Exposure times in s.
        defocus_px: Highest blur by the lens in pixels.
        contrast: How strongly flaws stand out.
        angle: Highest rotation of a part in radians.
        speed_m_s: Highest speed of the belt.
        crowded: Share of pictures with more parts than the line would carry.

    """

    brightness: tuple[float, float]
    gradient: float
    vignette: float
    tint: float
    noise: tuple[float, float]
    exposure_s: tuple[float, float]
    defocus_px: float
    contrast: tuple[float, float]
    angle: float
    speed_m_s: float
    crowded: float


TRAINING = Variation(
    brightness=(0.65, 1.30),
    gradient=0.40,
    vignette=0.40,
    tint=0.06,
    noise=(1.0, 7.0),
    exposure_s=(0.0005, 0.005),
    defocus_px=0.8,
    contrast=(0.80, 1.20),
    angle=math.radians(20),
    speed_m_s=0.6,
    crowded=0.6,
)
HELD_OUT = Variation(
    brightness=(0.55, 1.42),
    gradient=0.50,
    vignette=0.48,
    tint=0.09,
    noise=(0.5, 9.0),
    exposure_s=(0.0003, 0.0065),
    defocus_px=1.0,
    contrast=(0.75, 1.25),
    angle=math.radians(28),
    speed_m_s=0.7,
    crowded=0.0,
)


def write_dataset(folder: Path, *, training: int, validation: int, held_out: int, seed: int) -> Path:
    """Write three sets that share neither parts nor belts; the latter two vary more than the first.

    Args:
        folder: Where to; made if missing.
        training: Number of pictures to learn from.
        validation: Number of pictures to watch the training with.
        held_out: Number of pictures to judge the finished model by.
        seed: Seed of all of them.

    Returns:
        The data.yaml that ultralytics reads; its splits are train, val and test.

    """
    _write_pictures(folder, 'train', training, TRAINING, 3 * seed)
    _write_pictures(folder, 'val', validation, HELD_OUT, 3 * seed + 1)
    _write_pictures(folder, 'test', held_out, HELD_OUT, 3 * seed + 2)
    names = '\n'.join(f'  {index}: {name}' for index, name in enumerate(CLASSES))
    splits = '\n'.join(f'{name}: images/{name}' for name in ('train', 'val', 'test'))
    data = folder / 'data.yaml'
    data.write_text(f'path: {folder.resolve()}\n{splits}\nnames:\n{names}\n')
    return data


def _write_pictures(folder: Path, name: str, count: int, variation: Variation, seed: int) -> None:
    """Write pictures and labels of one set."""
    images, labels = folder / 'images' / name, folder / 'labels' / name
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, boxes = make_picture(seed, index, variation)
        cv2.imwrite(str(images / f'{index:05d}.jpg'), image, (cv2.IMWRITE_JPEG_QUALITY, 95))
        (labels / f'{index:05d}.txt').write_text(''.join(_label(box) for box in boxes))


def make_picture(
    seed: int, index: int, variation: Variation, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[Image, list[Box]]:
    """Draw picture number ``index`` of a set; the same arguments give the same picture.

    Args:
        seed: Seed of the set.
        index: Number of the picture from 0.
        variation: How far pictures may differ.
        size: Width and height in pixels.

    Returns:
        The picture, shape (height, width, 3), uint8, BGR, and its boxes.

    """
    rng = np.random.default_rng((seed, index, 1))
    belt = 1000 * seed + index // PICTURES_PER_BELT
    renderer = Renderer(*size, draw_look(rng, variation), seed=belt, shifts=1)
    scene = draw_scene(rng, variation, seed, index)
    return renderer.render(scene), renderer.boxes(scene)


def draw_look(rng: np.random.Generator, variation: Variation) -> Look:
    """Draw light and camera within a variation."""
    blue, green, red = 1 + rng.uniform(-variation.tint, variation.tint, 3)
    return Look(
        brightness=float(rng.uniform(*variation.brightness)),
        gradient=float(rng.uniform(0, variation.gradient)),
        gradient_angle=float(rng.uniform(-math.pi, math.pi)),
        vignette=float(rng.uniform(0, variation.vignette)),
        tint=(float(blue), float(green), float(red)),
        noise=float(rng.uniform(*variation.noise)),
        exposure_s=float(rng.uniform(*variation.exposure_s)),
        defocus_px=float(rng.uniform(0, variation.defocus_px)),
        contrast=float(rng.uniform(*variation.contrast)),
    )


def draw_scene(rng: np.random.Generator, variation: Variation, seed: int, index: int) -> Scene:
    """Draw a belt with parts at any position, some of them cut by the picture's edge."""
    belt_m = float(rng.uniform(0, 10))
    speed = 0.0 if rng.uniform() < STANDING_SHARE else float(rng.uniform(0.05, variation.speed_m_s))
    kind = rng.uniform()
    if kind < EMPTY_SHARE:
        return Scene(belt_m, speed, ())
    spread = _crowd if kind > 1 - variation.crowded else _line
    return Scene(belt_m, speed, tuple(_lay(spread(rng), rng, variation, seed=seed, index=index, belt_m=belt_m)))


def _line(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Places for parts one behind the other, as on the line: x from the left edge, y from the middle, in m."""
    places = []
    x = float(rng.uniform(-0.04, 0.14))
    while x < VIEW_WIDTH_M + 0.04:
        places.append((x, float(rng.uniform(-0.075, 0.075))))
        x += float(rng.uniform(0.11, 0.30))
    return places


def _crowd(rng: np.random.Generator) -> list[tuple[float, float]]:
    """Places for parts in three rows, closer than on the line: the same network sees more parts per picture."""
    return [
        (x + float(rng.uniform(-0.004, 0.004)), y + float(rng.uniform(-0.003, 0.003)))
        for y in (-0.087, 0.0, 0.087)
        for x in np.arange(float(rng.uniform(-0.03, 0.06)), VIEW_WIDTH_M + 0.03, float(rng.uniform(0.112, 0.13)))
        if rng.uniform() < CROWD_FILLED
    ]


def _lay(
    places: list[tuple[float, float]],
    rng: np.random.Generator,
    variation: Variation,
    *,
    seed: int,
    index: int,
    belt_m: float,
) -> Iterator[Part]:
    """Put a part of the picture's own onto each place."""
    for number, (x, y) in enumerate(places):
        part = make_part(seed, 100 * index + number, defect_rate=DEFECT_RATE)
        angle = float(rng.uniform(-variation.angle, variation.angle))
        yield replace(part, belt_m=belt_m - x, y_m=y, angle=angle)


def _label(box: Box) -> str:
    """One line of a YOLO label file: class, centre and size in shares of the picture."""
    left, top, right, bottom = box.xyxy
    centre = ((left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT)
    size = ((right - left) / WIDTH, (bottom - top) / HEIGHT)
    return f'{CLASSES.index(box.class_id)} {centre[0]:.6f} {centre[1]:.6f} {size[0]:.6f} {size[1]:.6f}\n'
