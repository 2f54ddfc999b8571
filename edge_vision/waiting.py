"""Events on their way to disk: only so many wait in memory, and the important ones stay."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from .events import ACTIONS, Event
from .frames import Frame


class Flagged(NamedTuple):
    """An event on its way to disk.

    Attributes:
        event: The event.
        frame: What caused it, where this process has it.
        announce: Called when the event is on disk.

    """

    event: Event
    frame: Frame | None
    announce: Callable[[], None]


class Waiting:
    """A queue that never lets whoever puts wait.

    When it is full it gives up the oldest `flag`; where none waits, the oldest `alarm`, then `slowdown`, and a `stop`
    only where nothing but stops waits. All of that is counted. Frames are given up before events: the newest, as an
    event without its picture says so.

    Args:
        max_events: Events that wait, at most.
        max_frame_bytes: Pixels that wait with them, at most; one frame is always held.

    """

    def __init__(self, max_events: int, max_frame_bytes: int) -> None:
        self._max_events = max_events
        self._max_frame_bytes = max_frame_bytes
        self._changed = threading.Condition()
        self._items: OrderedDict[int, Flagged] = OrderedDict()
        self._places: dict[str, deque[int]] = {action: deque() for action in ACTIONS}
        self._events_of: Counter[int] = Counter()  # by id of the frame: one frame may have caused several
        self._frame_bytes = 0
        self._put = self._dropped = 0
        self._closed = False

    def __len__(self) -> int:
        """Events that wait."""
        return len(self._items)

    @property
    def frame_bytes(self) -> int:
        """Pixels that wait."""
        return self._frame_bytes

    @property
    def dropped(self) -> int:
        """Events given up as there was no room."""
        return self._dropped

    def put(self, item: Flagged) -> None:
        """Add an event; returns at once."""
        with self._changed:
            self._items[self._put] = self._with_room_for_frame(item)
            self._places[item.event.action].append(self._put)
            self._put += 1
            if len(self._items) > self._max_events:
                self._remove(next(self._places[action][0] for action in reversed(ACTIONS) if self._places[action]))
                self._dropped += 1
            self._changed.notify()

    def take(self, most: int) -> list[Flagged]:
        """Wait for events and remove the oldest of them, at most ``most``; none once it is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            return [self._remove(place) for place in list(islice(self._items, most))]

    def close(self) -> None:
        """Let `take` return nothing once it is empty, instead of waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _with_room_for_frame(self, item: Flagged) -> Flagged:
        if item.frame is None:
            return item
        if not self._events_of[id(item.frame)]:
            size = item.frame.image.nbytes
            if self._frame_bytes and self._frame_bytes + size > self._max_frame_bytes:
                return item._replace(frame=None)
            self._frame_bytes += size
        self._events_of[id(item.frame)] += 1
        return item

    def _remove(self, place: int) -> Flagged:
        item = self._items.pop(place)
        self._places[item.event.action].popleft()  # of each action the oldest goes first, whoever removes it
        if item.frame is not None:
            self._events_of[id(item.frame)] -= 1
            if not self._events_of[id(item.frame)]:
                del self._events_of[id(item.frame)]
                self._frame_bytes -= item.frame.image.nbytes
        return item
