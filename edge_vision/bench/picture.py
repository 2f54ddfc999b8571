"""How long the look at the picture itself takes, beside one copy of it in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle

import numpy as np

from ..frames import Image
from ..picture import PictureWatch
from .figures import Row, dimensions, in_turns, percentiles, ratio, text, times


def looks(pictures: Iterable[Image], duration: float) -> Iterator[Row]:
    """Time the look at each picture as part of a live and of a frozen series."""
    for image in pictures:
        figures = {name: percentiles(took) for name, took in series(image, duration).items()}
        copy, live, frozen = figures['copy_ms'], figures['live_ms'], figures['frozen_ms']
        yield {
            'size': [image.shape[1], image.shape[0]],
            'live_ms': live,
            'frozen_ms': frozen,
            'floor': {'copy_ms': copy},
            'live_per_copy': ratio(live, copy),
            'frozen_per_copy': ratio(frozen, copy),
        }


def series(image: Image, duration: float) -> dict[str, list[float]]:
    """Time the copying of a picture, and looks at pictures that all differ and at pictures that are all the same."""
    target = np.empty_like(image)
    steps: dict[str, Callable[[], object]] = {
        'copy_ms': lambda: np.copyto(target, image),
        'live_ms': watching(image, ~image),
        'frozen_ms': watching(image, image.copy()),
    }
    return in_turns(steps, duration)


def watching(*pictures: Image) -> Callable[[], object]:
    """Return a step that looks at the next picture of a series, which starts again at its end."""
    watch, coming = PictureWatch(), cycle(pictures)
    return lambda: watch.look(next(coming))


def cells(row: Row) -> dict[str, str]:
    """Lay the look at one picture out as text."""
    return {
        'picture': dimensions(row),
        'look, live': text(row['live_ms'], 3),
        'look, frozen': text(row['frozen_ms'], 3),
        'copy': text(row['floor']['copy_ms'], 3),
        'live/copy': times(row['live_per_copy']),
        'frozen/copy': times(row['frozen_per_copy']),
    }
