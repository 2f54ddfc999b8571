"""Draws the conveyor as a camera above it would see it, and knows where everything in the picture is."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_vision.frames import Image
from edge_vision.simulator.world import GATE_X, VIEW_WIDTH_M, Defect, Part, Scene

CLASSES = ('part', 'scratch', 'dent', 'stain')
TEXTURE_M = 1.28
RAIL = 0.065
SUPERSAMPLING = 2
NOISE_MEAN = 32
MIN_VISIBLE = 0.4
SPRITES_KEPT = 12
SHADOW_M = 0.0044
FINE_ENOUGH = 3000.0

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Look:
    """How the line is lit and how the camera sees it.

    Attributes:
        brightness: Overall light, 1.0 is nominal.
        gradient: Relative difference of the light across the picture, 0..1.
        gradient_angle: Direction towards which it gets brighter, in radians.
        vignette: Loss of light in the corners, 0..1.
        tint: Gain of blue, green and red.
        noise: Standard deviation of the sensor's noise, in grey levels.
        exposure_s: Exposure time in s; with the belt's speed it gives the motion blur.
        defocus_px: Standard deviation of a blur by the lens, in pixels at a width of 640.
        contrast: How strongly flaws stand out, 1.0 is nominal.

    """

    brightness: float = 1.15
    gradient: float = 0.18
    gradient_angle: float = -2.4
    vignette: float = 0.22
    tint: tuple[float, float, float] = (1.0, 1.0, 0.98)
    noise: float = 2.5
    exposure_s: float = 0.002
    defocus_px: float = 0.0
    contrast: float = 1.0


class Box(NamedTuple):
    """Where something is in the picture: its class and left, top, right, bottom in pixels."""

    class_id: str
    xyxy: tuple[float, float, float, float]


class _Layer(NamedTuple):
    """A drawing to be laid over another: its premultiplied colour, and what shines through it."""

    colour: Image
    through: Image


class _Sprite(NamedTuple):
    """A part drawn once: a layer for each shift by a part of a pixel along the belt, and boxes around its centre."""

    layers: tuple[_Layer, ...]
    boxes: tuple[Box, ...]


class Renderer:
    """Draws scenes for one camera; the same arguments and scenes give the same pictures.

    Args:
        width: Width of the picture in pixels; it shows 0.40 m of the belt.
        height: Height of the picture in pixels.
        look: Light and camera.
        seed: Decides the belt's texture and the noise.
        shifts: Positions per pixel along the belt at which parts are drawn.

    """

    def __init__(
        self, width: int = 640, height: int = 480, look: Look | None = None, *, seed: int = 0, shifts: int = 4
    ) -> None:
        self._shifts = shifts
        self._look = look or Look()
        self._size = (width, height)
        self._scale = width / VIEW_WIDTH_M
        self._rng = np.random.default_rng(seed)
        self._rail = max(4, round(RAIL * height))
        belt_height = height - 2 * self._rail
        light = _light(width, height, self._look)
        self._belt_light = np.ascontiguousarray(light[self._rail : self._rail + belt_height])
        self._strip = _belt_strip(round(TEXTURE_M * self._scale), belt_height, width, seed)
        self._rails = tuple(
            cv2.multiply(rail, np.ascontiguousarray(rail_light), scale=1 / 128)
            for rail, rail_light in zip(
                _rails(width, self._rail, self._scale), (light[: self._rail], light[-self._rail :]), strict=True
            )
        )
        self._noise = _noise_bank(_unit_noise(width + 64, height + 64, seed), self._look.noise)
        self._sprites: dict[Part, _Sprite] = {}
        self._keeping = threading.Lock()

    def render(self, scene: Scene) -> Image:
        """Draw the scene.

        Args:
            scene: The line at one instant.

        Returns:
            A fresh picture, shape (height, width, 3), uint8, BGR.

        """
        width, height = self._size
        period = self._strip.shape[1] - width
        start = -round(scene.belt_m * self._scale) % period
        band = self._strip[:, start : start + width].copy()
        for part in scene.parts:
            self._blit(band, part, scene)
        band = self._blur(band, scene.speed_m_s)
        image: Image = np.empty((height, width, 3), np.uint8)
        image[: self._rail], image[height - self._rail :] = self._rails
        cv2.multiply(band, self._belt_light, dst=image[self._rail : height - self._rail], scale=1 / 128)
        x, y = (int(i) for i in self._rng.integers(0, 64, 2))
        cv2.add(image, self._noise[y : y + height, x : x + width], dst=image)
        return np.asarray(cv2.subtract(image, (NOISE_MEAN,) * 4, dst=image), np.uint8)

    def prepare(self, part: Part) -> None:
        """Draw a part ahead of the scene that first shows it; may run beside `render` in another thread."""
        self._sprite(part)

    def boxes(self, scene: Scene) -> list[Box]:
        """Give the tight boxes of the parts and flaws in the picture.

        Args:
            scene: The line at one instant.

        Returns:
            Boxes clipped to the picture; what shows less than 40 % of its box is left out.

        """
        width, height = self._size
        limit = np.array([width, height - self._rail] * 2, np.float32)
        low = np.array([0, self._rail] * 2, np.float32)
        found = []
        for part in scene.parts:
            x, y = self._centre(part, scene.belt_m)
            for class_id, xyxy in self._sprite(part).boxes:
                box = np.array(xyxy, np.float32) + np.array([x, y + self._rail] * 2, np.float32)
                clipped = np.clip(box, low, limit)
                if _area(clipped) >= MIN_VISIBLE * _area(box):
                    left, top, right, bottom = (float(value) for value in clipped)
                    found.append(Box(class_id, (left, top, right, bottom)))
        return found

    def _centre(self, part: Part, belt_m: float) -> tuple[float, float]:
        """Centre of a part in pixels of the belt band."""
        return (belt_m - part.belt_m) * self._scale, self._strip.shape[0] / 2 + part.y_m * self._scale

    def _sprite(self, part: Part) -> _Sprite:
        """Draw a part, or take it from those drawn before."""
        sprite = self._sprites.get(part)
        if sprite is None:
            _, y = self._centre(part, 0.0)
            sprite = _draw_part(part, self._scale, y % 1, self._look.contrast, shifts=self._shifts)
            with self._keeping:
                self._sprites[part] = sprite
                while len(self._sprites) > SPRITES_KEPT:
                    del self._sprites[next(iter(self._sprites))]
        return sprite

    def _blit(self, band: Image, part: Part, scene: Scene) -> None:
        """Put a part onto the belt."""
        x, y = self._centre(part, scene.belt_m)
        sprite = self._sprite(part)
        steps = round((x % 1) * self._shifts)
        colour, through = sprite.layers[steps % self._shifts]
        reach = colour.shape[0] // 2
        left, top = math.floor(x) + steps // self._shifts - reach, math.floor(y) - reach
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + 2 * reach, band.shape[1]), min(top + 2 * reach, band.shape[0])
        if x2 <= x1 or y2 <= y1:
            return
        inside = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
        ground = band[y1:y2, x1:x2]
        cv2.multiply(ground, through[inside], dst=ground, scale=1 / 255)
        cv2.add(ground, colour[inside], dst=ground)

    def _blur(self, band: Image, speed_m_s: float) -> Image:
        """Blur along the belt by the way moved during the exposure, and by the lens."""
        length = speed_m_s * self._look.exposure_s * self._scale
        if length > 0.3:
            band = cv2.filter2D(band, -1, _motion_kernel(length))
        if self._look.defocus_px > 0.2:
            band = cv2.GaussianBlur(band, (0, 0), self._look.defocus_px * self._size[0] / 640)
        return np.asarray(band, np.uint8)


def _area(box: Floats) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _motion_kernel(length: float) -> Floats:
    """Weights of a box blur whose length, in pixels, need not be whole; shape (1, odd)."""
    half = math.ceil(length / 2)
    centres = np.arange(-half, half + 1, dtype=np.float32)
    weights = np.clip(length / 2 + 0.5 - np.abs(centres), 0, 1)
    return np.asarray(weights / weights.sum(), np.float32)[None, :]


def _light(width: int, height: int, look: Look) -> Image:
    """Light at each pixel, 128 is nominal; shape (height, width, 3)."""
    y, x = np.mgrid[-0.5:0.5:60j, -0.5:0.5:80j].astype(np.float32)
    slope = x * math.cos(look.gradient_angle) + y * math.sin(look.gradient_angle)
    light = look.brightness * (1 + look.gradient * slope) * (1 - look.vignette * 2 * (x * x + y * y))
    coloured = light[:, :, None] * np.array(look.tint, np.float32) * 128
    return np.asarray(np.clip(cv2.resize(coloured, (width, height)), 0, 255), np.uint8)


@lru_cache(maxsize=2)
def _unit_noise(width: int, height: int, seed: int) -> Floats:
    """Noise of about unit deviation, partly the same in all colours; shape (height, width, 3)."""
    rng = np.random.default_rng((seed, 2))
    grey = rng.standard_normal((height, width, 1), np.float32)
    colour = rng.standard_normal((height, width, 3), np.float32)
    return np.asarray(np.float32(0.75) * grey + np.float32(0.6) * colour, np.float32)


def _noise_bank(noise: Floats, sigma: float) -> Image:
    """Sensor noise around `NOISE_MEAN`, uint8."""
    bank = noise * np.float32(sigma) + np.float32(NOISE_MEAN + 0.5)
    return np.asarray(np.clip(bank, 0, 255, out=bank), np.uint8)


def _soft_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> Floats:
    """Noise of unit deviation, blurred by ``sigma`` (x, y) pixels; what is wide is drawn coarsely and enlarged."""
    steps = [max(1.0, value / 2.5) for value in sigma]
    rows, columns = math.ceil(shape[0] / steps[1]) + 1, math.ceil(shape[1] / steps[0]) + 1
    coarse = rng.standard_normal((rows, columns), np.float32)
    coarse = cv2.GaussianBlur(coarse, (0, 0), sigmaX=sigma[0] / steps[0], sigmaY=sigma[1] / steps[1])
    soft = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray((soft - soft.mean()) / (soft.std() + 1e-6), np.float32)


@lru_cache(maxsize=2)
def _belt_strip(period: int, height: int, width: int, seed: int) -> Image:
    """Rubber belt with weave, wear and a seam; shape (height, period + width, 3), periodic along x."""
    rng = np.random.default_rng((seed, 1))
    unit = width / 640
    shape = (height, period + round(24 * unit))
    grey = 58 + 2.5 * _soft_noise(rng, shape, (0.8 * unit, 0.8 * unit))
    grey += 3.0 * _soft_noise(rng, shape, (60 * unit, 2.5 * unit))
    grey += 3.0 * _soft_noise(rng, shape, (40 * unit, 25 * unit))
    ribs = np.sin(np.arange(shape[1], dtype=np.float32) * (2 * np.pi / (period / round(period / (8 * unit)))))
    grey += 1.8 * ribs[None, :]
    _scuff(grey, unit, rng)
    seam = int(rng.integers(period // 4, 3 * period // 4))
    lean = int(0.12 * height)
    cv2.line(grey, (seam, 0), (seam + lean, height), 38.0, max(1, round(3 * unit)), cv2.LINE_AA)
    cv2.line(grey, (seam + round(4 * unit), 0), (seam + lean + round(4 * unit), height), 72.0, max(1, round(unit)))
    colour = grey[:, :, None] * np.array([1.02, 1.04, 0.95], np.float32)
    strip = _closed(np.clip(colour, 0, 255), round(24 * unit)).astype(np.uint8)
    return np.ascontiguousarray(np.concatenate([strip, strip[:, :width]], axis=1))


def _closed(strip: Floats, overlap: int) -> Floats:
    """Fade the end of a strip into its beginning, so that it can be laid end to end."""
    fade = np.linspace(0, 1, overlap, dtype=np.float32)[None, :, None]
    body = strip[:, :-overlap].copy()
    body[:, :overlap] = fade * body[:, :overlap] + (1 - fade) * strip[:, -overlap:]
    return np.asarray(body, np.float32)


def _scuff(grey: Floats, unit: float, rng: np.random.Generator) -> None:
    """Draw faint marks that parts have left on the belt."""
    height, period = grey.shape
    marks = np.zeros_like(grey)
    for _ in range(26):
        x, y = int(rng.integers(0, period)), int(rng.integers(0, height))
        dx, dy = int(rng.normal(0, 40) * unit), int(rng.normal(0, 5) * unit)
        tone = float(rng.choice((-1.0, 1.0)) * rng.uniform(4, 10))
        cv2.line(marks, (x, y), (x + dx, y + dy), tone, max(1, round(rng.uniform(1, 4) * unit)), cv2.LINE_AA)
    grey += cv2.GaussianBlur(marks, (0, 0), 1.2 * unit)


def _rails(width: int, height: int, scale: float) -> tuple[Image, Image]:
    """Side rails with bolts, and the posts of the gate at `GATE_X`; two pictures (height, width, 3)."""
    profile = np.interp(
        np.linspace(0, 1, height), [0, 0.15, 0.2, 0.75, 0.82, 0.9, 1.0], [120, 150, 132, 142, 170, 95, 40]
    ).astype(np.float32)
    grain = np.random.default_rng(5).standard_normal((height, width)).astype(np.float32)
    grey = profile[:, None] + 2.5 * cv2.GaussianBlur(grain, (0, 0), sigmaX=12, sigmaY=0.6) * 3
    rail = np.clip(grey[:, :, None] * np.array([1.0, 0.99, 0.96], np.float32), 0, 255).astype(np.uint8)
    bolt = 0.0032 * scale
    for x in np.arange(0.015, VIEW_WIDTH_M, 0.07) * scale:
        _bolt(rail, (float(x), 0.45 * height), bolt)
    top, bottom = rail.copy(), np.ascontiguousarray(rail[::-1])
    _gate_post(top, round(GATE_X * width), scale)
    flipped = np.ascontiguousarray(bottom[::-1])
    _gate_post(flipped, round(GATE_X * width), scale)
    return top, np.ascontiguousarray(flipped[::-1])


def _bolt(rail: Image, centre: tuple[float, float], radius: float) -> None:
    """Draw a hexagon bolt with its washer and shadow."""
    x, y = centre
    _disc(rail, (x + 0.3 * radius, y + 0.35 * radius), 1.5 * radius, (70, 70, 70))
    _disc(rail, (x, y), 1.45 * radius, (168, 168, 164))
    corners = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in np.arange(6) * math.pi / 3 + 0.3]
    cv2.fillConvexPoly(rail, np.round(np.array(corners) * 16).astype(np.int32), (104, 104, 102), cv2.LINE_AA, 4)
    _disc(rail, (x - 0.2 * radius, y - 0.2 * radius), 0.5 * radius, (140, 140, 138))


def _gate_post(rail: Image, x: int, scale: float) -> None:
    """Draw the light barrier of the gate: a black post with a yellow mark whose tip is the line."""
    height = rail.shape[0]
    half = round(0.006 * scale)
    cv2.rectangle(rail, (x - half, round(0.12 * height)), (x + half, height - 1), (38, 36, 34), -1)
    cv2.rectangle(rail, (x - half, round(0.12 * height)), (x + half, height - 1), (70, 68, 66), 1)
    tip = np.array([[x - half + 2, 0.25 * height], [x + half - 2, 0.25 * height], [x, 0.62 * height]])
    cv2.fillConvexPoly(rail, np.round(tip * 16).astype(np.int32), (40, 190, 235), cv2.LINE_AA, 4)
    _disc(rail, (x, 0.82 * height), 0.0016 * scale, (40, 40, 215))


def _disc(image: NDArray[np.generic], centre: tuple[float, float], radius: float, colour: tuple[float, ...]) -> None:
    """Draw a filled circle at a fractional position."""
    point = (round(centre[0] * 16), round(centre[1] * 16))
    cv2.circle(image, point, max(1, round(radius * 16)), colour, -1, cv2.LINE_AA, 4)


def _draw_part(part: Part, scale: float, shift_y: float, contrast: float, *, shifts: int) -> _Sprite:
    """Draw a part with its flaws once, larger, and turn and shrink it into place.

    Args:
        part: The part.
        scale: Pixels per m of the picture.
        shift_y: Fraction of a pixel by which its centre lies below the middle of the sprite.
        contrast: How strongly flaws stand out.
        shifts: Number of layers, each shifted a little further along the belt.

    """
    fine = scale * (SUPERSAMPLING if scale < FINE_ENOUGH else 1)
    shrink = scale / fine
    length, width = round(part.length_m * fine), round(part.width_m * fine)
    surface, outline = _plate(length, width, fine, part.part_id, np.random.default_rng(part.seed))
    masks = [(defect.class_id, _draw_defect(surface, defect, fine, contrast)) for defect in part.defects]

    reach = math.ceil(part.half_diagonal_m * scale + SHADOW_M * scale) + 1
    cos, sin = math.cos(part.angle) * shrink, math.sin(part.angle) * shrink
    x, y = (length - 1) / 2, (width - 1) / 2
    turn = np.array([[cos, -sin, reach - 0.5 - cos * x + sin * y], [sin, cos, reach - 0.5 - sin * x - cos * y]])
    turn[1, 2] += shift_y
    boxes = [
        Box(class_id, _tight_box(cv2.warpAffine(mask, turn, (2 * reach, 2 * reach)), reach, shift_y))
        for class_id, mask in [('part', outline), *((name, mask * outline) for name, mask in masks)]
    ]
    alpha = cv2.GaussianBlur(outline, (3, 3), 0)
    colour = cv2.GaussianBlur(surface * outline[:, :, None], (3, 3), 0)
    layers = []
    for step in range(shifts):
        shifted = turn + np.array([[0, 0, step / shifts], [0, 0, 0]])
        layers.append(_layer(colour, alpha, shifted, reach, scale))
    return _Sprite(tuple(layers), tuple(boxes))


def _layer(colour: Floats, alpha: Floats, turn: NDArray[np.float64], reach: int, scale: float) -> _Layer:
    """Turn a drawing into place and add its shadow."""
    size = (2 * reach, 2 * reach)
    turned = cv2.warpAffine(alpha, turn, size)
    fall = np.array([[1, 0, 0.5 * SHADOW_M * scale], [0, 1, 0.7 * SHADOW_M * scale]])
    shadow = 0.55 * cv2.GaussianBlur(cv2.warpAffine(turned, fall, size), (0, 0), 0.5 * SHADOW_M * scale)
    through = (1 - turned) * (1 - shadow) * 255 + 0.5
    return _Layer(
        np.clip(cv2.warpAffine(colour, turn, size) + 0.5, 0, 255).astype(np.uint8),
        cv2.cvtColor(through.astype(np.uint8), cv2.COLOR_GRAY2BGR),
    )


def _tight_box(mask: Floats, reach: int, shift_y: float) -> tuple[float, float, float, float]:
    """Box of what is at least half there, relative to the part's centre."""
    rows, columns = np.flatnonzero(mask.max(axis=1) >= 0.5), np.flatnonzero(mask.max(axis=0) >= 0.5)
    if rows.size == 0:
        return (0.0, 0.0, 0.0, 0.0)
    left, right = int(columns[0]), int(columns[-1]) + 1
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return (float(left - reach), top - reach - shift_y, float(right - reach), bottom - reach - shift_y)


def _plate(length: int, width: int, fine: float, number: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Brushed plate with bevel, two holes and a lasered number.

    Returns:
        Colour, shape (width, length, 3), and outline, shape (width, length).

    """
    outline = _rounded(length, width, 0.005 * fine)
    base = rng.uniform(115, 138)
    grain = _soft_noise(rng, (width, length), (0.012 * fine, 0.00035 * fine))
    y, x = np.mgrid[-1 : 1 : width * 1j, -1 : 1 : length * 1j].astype(np.float32)
    sheen = np.exp(-(((y - rng.uniform(-0.5, 0.5)) / 0.7) ** 2)) * 16 - 6 * x
    grey = base + 5 * grain + sheen
    soft = cv2.GaussianBlur(outline, (0, 0), 0.0011 * fine)
    edge = cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=1 / 8) + 0.6 * cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=1 / 8)
    grey += 260 * edge
    grey -= 45 * _lettering(f'{number % 1000:03d}', (width, length), fine)
    surface = grey[:, :, None] * np.array([1.01, 1.0, 0.98], np.float32)
    for side in (-1, 1):
        _hole(surface, (length / 2 + side * 0.41 * length, width / 2 - side * 0.30 * width), 0.0030 * fine)
    return np.asarray(surface, np.float32), outline


def _lettering(text: str, shape: tuple[int, int], fine: float) -> Floats:
    """Mask of a small text near the lower left corner of a part."""
    mask = np.zeros(shape, np.uint8)
    at = (round(0.016 * fine), shape[0] - round(0.0045 * fine))
    thick = max(1, round(0.0005 * fine))
    cv2.putText(mask, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.00019 * fine, 255, thick, cv2.LINE_AA)
    return np.asarray(mask / np.float32(255), np.float32)


def _rounded(length: int, width: int, radius: float) -> Floats:
    """Mask of a rectangle with round corners, shape (width, length)."""
    y, x = np.mgrid[0:width, 0:length].astype(np.float32)
    dx = np.abs(x - (length - 1) / 2) - (length / 2 - radius)
    dy = np.abs(y - (width - 1) / 2) - (width / 2 - radius)
    distance = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - radius
    return np.asarray(np.clip(0.5 - distance, 0, 1), np.float32)


def _hole(surface: Floats, centre: tuple[float, float], radius: float) -> None:
    """Drill a bolt hole with a chamfer that catches the light."""
    x, y = centre
    _disc(surface, (x, y), 1.45 * radius, (172, 172, 170))
    _disc(surface, (x - 0.12 * radius, y - 0.15 * radius), 1.25 * radius, (100, 100, 98))
    _disc(surface, (x, y), radius, (32, 32, 32))


class _Brush(NamedTuple):
    """What all flaws are drawn with: centre in pixels, pixels per m, strength, and their own variation."""

    centre: tuple[float, float]
    fine: float
    contrast: float
    rng: np.random.Generator


def _draw_defect(surface: Floats, defect: Defect, fine: float, contrast: float) -> Floats:
    """Draw a flaw into the surface of a part.

    Returns:
        Where it is visible, 0..1, shape of the surface.

    """
    rows, columns = surface.shape[:2]
    centre = (columns / 2 + defect.x_m * fine, rows / 2 + defect.y_m * fine)
    rng = np.random.default_rng(defect.seed)
    return _DEFECTS[defect.class_id](surface, defect, _Brush(centre, fine, contrast, rng))


def _axes(shape: tuple[int, int], centre: tuple[float, float], angle: float) -> tuple[Floats, Floats]:
    """Coordinates of each pixel along and across a direction, from a centre, in pixels."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    x, y = x - centre[0], y - centre[1]
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(x * cos + y * sin, np.float32), np.asarray(y * cos - x * sin, np.float32)


def _scratch(surface: Floats, defect: Defect, brush: _Brush) -> Floats:
    """Two curved lines, bright where the metal is torn and dark beside it."""
    centre, fine, contrast, rng = brush
    visible = np.zeros(surface.shape[:2], np.float32)
    dark = np.zeros_like(visible)
    size = defect.size_m * fine
    bow = rng.uniform(-0.16, 0.16)
    for shift, share in ((0.0, 1.0), (rng.choice((-1.0, 1.0)) * rng.uniform(0.10, 0.18), rng.uniform(0.5, 0.8))):
        along = np.linspace(-0.5, 0.5, 24) * share
        across = bow * (4 * along**2 - 0.5) + shift + 0.008 * rng.standard_normal(24)
        cos, sin = math.cos(defect.angle), math.sin(defect.angle)
        points = np.stack([along * cos - across * sin, along * sin + across * cos], axis=1) * size + centre
        thick = max(1, round(0.0011 * fine * share + 0.3))
        _polyline(visible, points, thick)
        _polyline(dark, points + 0.0010 * fine, thick)
    surface -= (62 * contrast * dark * (1 - visible))[:, :, None]
    surface += (visible * 75 * contrast)[:, :, None]
    return np.maximum(visible, dark)


def _polyline(mask: Floats, points: NDArray[np.float64], thickness: int) -> None:
    cv2.polylines(mask, [np.round(points * 16).astype(np.int32)], False, 1.0, thickness, cv2.LINE_AA, 4)


def _dent(surface: Floats, defect: Defect, brush: _Brush) -> Floats:
    """A hollow: dark on the side towards the light, bright on the other."""
    centre, fine, contrast, rng = brush
    u, v = _axes(surface.shape[:2], centre, defect.angle)
    half = defect.size_m * fine / 2
    r2 = (u / half) ** 2 + (v / (half * rng.uniform(0.68, 0.9))) ** 2
    bowl = np.exp(-((1.3 * r2) ** 1.5))
    slope_x, slope_y = cv2.Sobel(bowl, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(bowl, cv2.CV_32F, 0, 1, scale=1 / 8)
    shade = (0.6 * slope_x + 0.8 * slope_y) * half
    surface -= ((44 * shade + 14 * bowl) * contrast)[:, :, None]
    return np.asarray(r2 < 1.0, np.float32)


def _stain(surface: Floats, defect: Defect, brush: _Brush) -> Floats:
    """A brownish translucent blot of irregular outline."""
    centre, fine, contrast, rng = brush
    u, v = _axes(surface.shape[:2], centre, defect.angle)
    half = defect.size_m * fine / 2
    turn = np.arctan2(v, u)
    wobble = sum(
        (rng.uniform(0.04, 0.16) / n) * np.cos(n * turn + rng.uniform(0, 2 * math.pi)) for n in (2, 3, 4, 5, 7)
    )
    radius = np.hypot(u, v / 0.8) / half
    cover = np.clip((0.88 + wobble - radius) / 0.10, 0, 1)
    mottle = 1 + 0.12 * _soft_noise(rng, surface.shape[:2], (0.0012 * fine, 0.0012 * fine))
    alpha = np.clip(cover * rng.uniform(0.50, 0.68) * mottle * min(contrast, 1.3), 0, 0.9)[:, :, None]
    brown = np.array([22, 48, 82], np.float32) * rng.uniform(0.85, 1.15)
    surface *= 1 - alpha
    surface += alpha * brown
    return np.asarray(cover, np.float32)


_DEFECTS = {'scratch': _scratch, 'dent': _dent, 'stain': _stain}
