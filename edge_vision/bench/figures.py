"""Taking times, and laying them out for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Figures = dict[str, float]
Row = dict[str, Any]


def timed(step: Callable[[], object]) -> float:
    """Time one call, in ms."""
    started = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - started) / 1e6


def printed(output: str) -> Any:
    """Read the last line of JSON in what a process printed; Fast DDS 2.14 prints its errors there, too."""
    return json.loads([line for line in output.splitlines() if line.startswith(('[', '{'))][-1])


def in_turns(steps: Mapping[str, Callable[[], object]], duration: float) -> dict[str, list[float]]:
    """Time several steps, one after the other and again, so that all meet the same other work of the machine.

    Args:
        steps: What to time, by name.
        duration: For how long, s; each step is taken at least once.

    Returns:
        How long each call took, ms, by the same names.

    """
    took: dict[str, list[float]] = {name: [] for name in steps}
    end = time.monotonic() + duration
    while True:
        for name, step in steps.items():
            took[name].append(timed(step))
        if time.monotonic() >= end:
            return took


def percentiles(times: Sequence[float]) -> Figures | None:
    """Give the middle and the slow end of the times; None when there are none."""
    if not times:
        return None
    p50, p99 = np.percentile(times, [50, 99])
    return {'p50': float(p50), 'p99': float(p99)}


def ratio(figures: Figures | None, floor: Figures | None) -> float | None:
    """Compare the middles."""
    return figures['p50'] / floor['p50'] if figures and floor else None


def shown(rows: Iterable[Row], cells: Callable[[Row], dict[str, str]]) -> Iterator[Row]:
    """Print each row when it is there, the first one below a heading."""
    for i, row in enumerate(rows):
        named = cells(row)
        if i == 0:
            show('', aligned(named))
        show(aligned(named.values()))
        yield row


def dimensions(row: Row) -> str:
    """Write the size of the picture that a row is about."""
    return 'x'.join(map(str, row['size']))


def text(figures: Figures | None, digits: int = 2) -> str:
    """Write the two percentiles."""
    return f'{figures["p50"]:.{digits}f} {figures["p99"]:.{digits}f}' if figures else '-'


def times(factor: float | None) -> str:
    """Write a ratio."""
    return f'{factor:.1f}x' if factor is not None else '-'


def aligned(cells: Iterable[str]) -> str:
    """Put cells into columns."""
    return ''.join(f'{cell:<15}' for cell in cells).rstrip()


def show(*lines: str) -> None:
    """Print lines as soon as they are there."""
    sys.stdout.write('\n'.join(lines) + '\n')
    sys.stdout.flush()
