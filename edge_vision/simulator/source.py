"""The simulated conveyor as a camera."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edge_vision.errors import ConfigurationError, SourceError
from edge_vision.frames import Image
from edge_vision.simulator.renderer import Look, Renderer
from edge_vision.simulator.world import DRIVE_DELAY_S, Part, World

OPTIONS: Mapping[str, type[int | float]] = {'seed': int, 'defect_rate': float, 'speed': float}
"""Keys that sim://conveyor?key=value accepts, and what their values are read as."""

BOUNDS: Mapping[str, tuple[float, float]] = {
    'seed': (0, 2**31),
    'framerate': (0.1, 1000.0),
    'image_width': (160, 7680),
    'image_height': (120, 4320),
    'defect_rate': (0.0, 1.0),
    'speed': (0.01, 1.0),
}
LEAD_S = 0.6 * DRIVE_DELAY_S


class ConveyorSource:
    """A camera above the simulated line, at a steady rate.

    A picture is drawn ahead of its instant, so that it is ready when its exposure ends: the world is advanced
    to the coming tick at most `LEAD_S` before it. That is less than the drive takes to react to a command, so
    no command can change what was drawn. At the tick the picture is stamped and handed over. If the caller or
    the machine is late, ticks are left out; the next ones stay on the same grid.

    Closing and opening again goes on with the same line, as unplugging a camera would.

    Args:
        seed: Decides every part, the belt and the noise.
        framerate: Pictures per second.
        image_width: Width of the picture in pixels; it always shows 0.40 m of the belt.
        image_height: Height of the picture in pixels.
        defect_rate: Share of defective parts, 0..1.
        speed: Speed of the running belt in m/s.
        look: Light and camera; nominal if None.

    Raises:
        ConfigurationError: A value is out of bounds.

    """

    def __init__(
        self,
        *,
        seed: int = 1,
        framerate: float = 60.0,
        image_width: int = 640,
        image_height: int = 480,
        defect_rate: float = 0.4,
        speed: float = 0.4,
        look: Look | None = None,
    ) -> None:
        _check(
            seed=seed,
            framerate=framerate,
            image_width=image_width,
            image_height=image_height,
            speed=speed,
            defect_rate=defect_rate,
        )
        self._period_s = 1 / framerate
        self._picture = (image_width, image_height, look, seed)
        self._world = World(seed=seed, defect_rate=defect_rate, speed_m_s=speed)
        self._lock = threading.Lock()
        self._started_s: float | None = None
        self._started_ns = 0
        self._tick = 0
        self._skipped = 0
        self._renderer: Renderer | None = None
        self._drawing: ThreadPoolExecutor | None = None
        self._announced: set[Part] = set()
        self._closed = threading.Event()

    @property
    def skipped(self) -> int:
        """Ticks that were left out because the caller or the machine was late."""
        return self._skipped

    def open(self) -> None:
        """Start the line, or look at it again."""
        if self._renderer is None:
            width, height, look, seed = self._picture
            self._renderer = Renderer(width, height, look, seed=seed)
        if self._drawing is None:
            self._drawing = ThreadPoolExecutor(max_workers=1, thread_name_prefix='conveyor-drawing')
        self._draw_ahead(self._renderer)
        self._closed.clear()
        if self._started_s is None:
            self._started_s, self._started_ns = time.monotonic(), time.time_ns()

    def read(self) -> tuple[Image, int]:
        """Wait for the next tick.

        Returns:
            A fresh picture, shape (height, width, 3), uint8, BGR, and when its exposure ended in ns since the epoch.

        Raises:
            SourceError: The source is not open, or was closed while waiting.

        """
        renderer, started_s = self._renderer, self._started_s
        if renderer is None or started_s is None:
            raise SourceError('sim://conveyor is not open; call open() before read()')
        tick_s = self._next_tick(time.monotonic() - started_s)
        self._wait(started_s + tick_s - LEAD_S)
        with self._lock:
            self._world.advance(tick_s)
            scene = self._world.scene
        image = renderer.render(scene)
        self._draw_ahead(renderer)
        self._wait(started_s + tick_s)
        return image, time.time_ns()

    def close(self) -> None:
        """Stop giving pictures; wakes a thread that waits in `read`."""
        self._closed.set()
        with self._lock:
            drawing, self._drawing = self._drawing, None
        if drawing is not None:
            drawing.shutdown(wait=False, cancel_futures=True)

    def set_run(self, run: bool, stamp_ns: int) -> None:
        """Give or withdraw the belt's permission to run; it takes effect as of now.

        Args:
            run: Whether the belt may run.
            stamp_ns: When the command was received, in ns since the epoch; kept with the stop for comparison.

        """
        at_s = 0.0 if self._started_s is None else time.monotonic() - self._started_s
        with self._lock:
            self._world.set_run(run, at_s, stamp_ns)

    def truth(self) -> dict[str, Any]:
        """Give what the line knows about itself, ready for JSON: see `World.truth`, plus ``started_ns``.

        Times ending ``_s`` in it count from ``started_ns``, which is in ns since the epoch.
        """
        with self._lock:
            return {'started_ns': self._started_ns, **self._world.truth()}

    def _next_tick(self, now_s: float) -> float:
        """Choose the next instant of the grid that is not over yet, in s since the start."""
        tick = max(self._tick + 1, int(now_s / self._period_s) + 1)
        self._skipped += tick - self._tick - 1
        self._tick = tick
        return tick * self._period_s

    def _wait(self, until_s: float) -> None:
        """Sleep until an instant of the monotonic clock."""
        left_s = until_s - time.monotonic()
        if left_s > 0:
            self._closed.wait(left_s)
        if self._closed.is_set():
            raise SourceError('sim://conveyor was closed while a picture was awaited; open it again')

    def _draw_ahead(self, renderer: Renderer) -> None:
        """Have the parts that are on their way drawn beside the frames, not between them."""
        with self._lock:
            parts = self._world.approaching
            for part in parts:
                if self._drawing is not None and part not in self._announced:
                    self._drawing.submit(renderer.prepare, part)
            self._announced = set(parts)


def _check(**values: float) -> None:
    """Refuse what is out of bounds."""
    for name, value in values.items():
        lowest, highest = BOUNDS[name]
        if not lowest <= value <= highest:
            raise ConfigurationError(
                f'{name} of sim://conveyor is {value!r}, expected {lowest} to {highest}; set it within these bounds'
            )
