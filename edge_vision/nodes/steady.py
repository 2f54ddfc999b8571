"""Periods and the age of an image, on a clock that does not jump."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.clock import Clock

from .spin import Worker

JUMP_NS = 5_000_000  # a change of the wall clock's offset by more than this is a jump
READING_NS = 1_000_000  # a pair of clock readings further apart than this says nothing about the offset


LONGEST_SLEEP = 0.1  # s


def every(period: float, callback: Callable[[], None]) -> Callable[[], None]:
    """Call back at a steady period in a thread of its own, whatever happens to the wall clock.

    A timer of ROS is no use for that, not even one on the steady clock: where the middleware was built
    without ``pthread_cond_clockwait``, as for old versions of glibc, executors wait on the wall clock, and not at all
    while that is set back. After a pause of the process what was missed is not made up for.

    Args:
        period: s.
        callback: Must be safe to call beside the executor's callbacks.

    Returns:
        What ends it.

    """
    over = threading.Event()

    def beat() -> None:
        due = time.monotonic() + period
        while not over.is_set():
            rest = due - time.monotonic()
            if rest > 0:
                time.sleep(min(rest, LONGEST_SLEEP))  # the one wait that is on the steady clock in every Python
                continue
            callback()
            due = max(due + period, time.monotonic())

    worker = Worker(f'every-{period:g}-s', beat)

    def end() -> None:
        over.set()
        worker.join()

    return end


class SteadyClock:
    """Reads a steady clock, and turns stamps of the ROS clock into ages.

    With simulated time the ROS clock is the only clock there is, and it is trusted for as long as it goes.

    Args:
        clock: The node's clock, which stamps are on.
        sim_time: Whether it is simulated.

    """

    def __init__(self, clock: Clock, *, sim_time: bool) -> None:
        self._clock = clock
        self._sim_time = sim_time
        self._offset_ns: int | None = None
        self._jumped_ns: int | None = None
        self._simulated_ns = -1
        self._moved_ns = time.monotonic_ns()
        self.jumps = 0

    def now_ns(self) -> int:
        """Return the steady time."""
        return self._read_simulated() if self._sim_time else time.monotonic_ns()

    def stood_ns(self) -> int:
        """Return for how long, in real time, a simulated clock has not moved; 0 where it is not simulated."""
        if not self._sim_time:
            return 0
        self._read_simulated()
        return time.monotonic_ns() - self._moved_ns

    def age_ns(self, stamp_ns: int) -> tuple[int, int]:
        """Return the steady time now and how long ago ``stamp_ns`` was; negative when it is in the future."""
        if self._sim_time:
            now_ns = self._read_simulated()
            return now_ns, now_ns - stamp_ns
        before_ns = time.monotonic_ns()
        ros_ns = self._clock.now().nanoseconds
        now_ns = time.monotonic_ns()
        took_ns = now_ns - before_ns
        if took_ns <= READING_NS:
            self._watch(ros_ns - now_ns, now_ns)
        return now_ns, ros_ns - stamp_ns + took_ns  # the process may have been paused after the first clock was read

    def trusted(self, now_ns: int, horizon: float) -> bool:
        """Tell whether ages mean anything: within the last ``horizon`` seconds the clock has neither jumped nor stood.

        An image captured before a jump and read after it has a wrong age; once all such images are older
        than the horizon, ages are right again.
        """
        if self._sim_time:
            return self.stood_ns() <= horizon * 1e9
        return self._jumped_ns is None or now_ns - self._jumped_ns > horizon * 1e9

    def _read_simulated(self) -> int:
        now_ns: int = self._clock.now().nanoseconds
        if now_ns != self._simulated_ns:
            self._simulated_ns, self._moved_ns = now_ns, time.monotonic_ns()
        return now_ns

    def _watch(self, offset_ns: int, now_ns: int) -> None:
        if self._offset_ns is not None and abs(offset_ns - self._offset_ns) > JUMP_NS:
            self._jumped_ns = now_ns
            self.jumps += 1
        self._offset_ns = offset_ns
