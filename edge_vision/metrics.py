"""Small figures for diagnostics: percentiles over the newest values, and rates."""

from __future__ import annotations

import numpy as np


class Window:
    """The newest values of one quantity.

    Args:
        size: How many are kept.

    """

    def __init__(self, size: int = 512) -> None:
        self._values = np.zeros(size)
        self._count = 0

    def add(self, value: float) -> None:
        """Take one value in place of the oldest."""
        self._values[self._count % len(self._values)] = value
        self._count += 1

    def percentiles(self, *percents: float) -> tuple[float, ...]:
        """Return the given percentiles (0..100) of the kept values; zeros when there are none."""
        kept = self._values[: min(self._count, len(self._values))]
        return tuple(float(p) for p in np.percentile(kept, percents)) if len(kept) else (0.0,) * len(percents)


class Rate:
    """Turns a counter that only grows into a rate per second between two readings."""

    def __init__(self) -> None:
        self._count = 0
        self._at_ns: int | None = None

    def per_second(self, count: int, now_ns: int) -> float:
        """Return the rate since the last reading; 0 at the first one.

        Args:
            count: The counter now.
            now_ns: Steady time in ns.

        """
        before_ns, before = self._at_ns, self._count
        self._at_ns, self._count = now_ns, count
        return (count - before) / (now_ns - before_ns) * 1e9 if before_ns is not None and now_ns > before_ns else 0.0
