"""What of the spool goes next, and when: order, rate limits, how much may be on its way and how large it may be."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from ..spool import Spool, StoredEvent

ORDERS = ('oldest_first', 'stops_first')


class SendQueue:
    """What the spool holds, read page by page, each event once.

    Args:
        spool: What to read.
        news: Set whenever something was appended.
        page: How many events to read at once; no more than so many may be taken and not yet deleted.
        order: 'oldest_first', or 'stops_first' for events that begin a stop before all others, the newest of
            them first.

    """

    def __init__(self, spool: Spool, news: threading.Event, page: int, order: str) -> None:
        self._spool = spool
        self._news = news
        self._page = page
        self._stops_first = order == 'stops_first'
        self._stops: deque[StoredEvent] = deque()
        self._others: deque[StoredEvent] = deque()
        self._stops_due = self._others_due = False
        self._taken: set[int] = set()  # and, as far as we know, not deleted
        self._last = 0
        news.set()

    def peek(self) -> StoredEvent | None:
        """Look at the next event without taking it."""
        if self._news.is_set():
            self._news.clear()
            self._stops_due, self._others_due = self._stops_first, True
        if self._stops_due:
            self._read_stops()
        while self._others_due and not (self._stops or self._others):
            self._read_others()
        waiting = self._stops or self._others
        return waiting[0] if waiting else None

    def pop(self) -> None:
        """Take the event that `peek` showed."""
        self._stops_due = self._stops_due or len(self._stops) == 1
        self._taken.add((self._stops or self._others).popleft().seq)

    def forget(self, seqs: Iterable[int]) -> None:
        """Drop what is remembered of events that are deleted."""
        self._taken.difference_update(seqs)

    def _read_stops(self) -> None:
        """Put the newest stops in front; those that lie further back are read when these have gone."""
        known = self._taken.union(stored.seq for stored in self._stops)
        newest = self._spool.pending(0, 2 * self._page, urgent=True)
        fresh = [stored for stored in newest if stored.seq not in known]
        self._stops.extendleft(reversed(fresh))
        seqs = {stored.seq for stored in fresh}
        self._others = deque(stored for stored in self._others if stored.seq not in seqs)
        self._stops_due = False

    def _read_others(self) -> None:
        read = self._spool.pending(self._last, self._page)
        self._last = read[-1].seq if read else self._last
        self._others.extend(stored for stored in read if stored.seq not in self._taken)
        self._others_due = len(read) == self._page


class RateLimit:
    """Lets through so much per second, with a burst of one second.

    Args:
        per_second: 0 sets no limit.

    """

    def __init__(self, per_second: float) -> None:
        self._rate = per_second
        self._level = per_second
        self._updated = time.monotonic()

    def wait(self) -> float:
        """Seconds until something may go."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        self._level = min(self._rate, self._level + (now - self._updated) * self._rate)
        self._updated = now
        return 0.0 if self._level > 0.0 else (1e-3 - self._level) / self._rate

    def spend(self, amount: float) -> None:
        """Count what went; what is larger than the rest is paid for by waiting afterwards."""
        self._level -= amount


class SizeLimit:
    """The largest message of a kind that the broker takes, as far as it has shown.

    Args:
        largest: What it takes until it shows otherwise, bytes.

    """

    _PATIENCE = 3  # connections lost without a word over one message before it counts as too large

    def __init__(self, largest: int) -> None:
        self.largest = self._at_first = largest
        self._suspect = (0, 0)  # a place in the spool, and how many connections its message may have cost
        self._in_question = False

    def suspects(self, seq: int) -> bool:
        """Whether a message at this place in the spool may have cost a connection."""
        return self._suspect[0] == seq and self._suspect[1] > 0

    def refuses(self, seq: int, *, said_so: bool, silent: bool) -> bool:
        """Learn that a connection was lost over a message; return whether that is too large.

        Args:
            seq: The message's place in the spool.
            said_so: The broker gave that as its reason.
            silent: It gave none at all.

        """
        self._in_question = True
        lost = (self._suspect[1] if self._suspect[0] == seq else 0) + silent
        too_large = said_so or lost >= self._PATIENCE
        self._suspect = (seq, 0 if too_large else lost)
        return too_large

    def forget(self) -> None:
        """Begin anew with the next connection, unless this one was lost over the size of a message.

        A broker that comes back may have been given another limit.
        """
        if not self._in_question:
            self.largest = self._at_first
        self._in_question = False


class Window:
    """How many messages may be on their way: as few as keep the connection busy.

    What is on its way when either side dies has to be sent again, and may arrive twice. So the window starts small,
    grows with the acknowledgements while those come quickly, and shrinks when they begin to wait in line; where the
    broker falls silent, no more than the window goes out to it.

    Args:
        most: Its largest size.

    """

    _START = 2  # an event and its picture
    _GROWTH = 0.25  # per acknowledgement, that is by a quarter per round trip: from 2 to 64 in 16 of them
    _SLACK = 0.005  # s in which no line has formed: this machine was busy with something else
    _FRESH = 10.0  # s for which the quickest answer is one to compare with

    def __init__(self, most: int) -> None:
        self._most = most
        self._measured = 0.0
        self._quickest = float('inf')
        self.restart()

    def restart(self) -> None:
        """Start small again, as nothing is on its way."""
        self._size = float(min(self._START, self._most))

    @property
    def size(self) -> int:
        """How many messages may be on their way."""
        return int(self._size)

    def acknowledged(self, sent: float, now: float, used: int) -> None:
        """Learn from an acknowledgement.

        Args:
            sent: When the message was sent, s of the steady clock.
            now: When its acknowledgement came.
            used: How many messages were on their way, this one included.

        """
        took = now - sent
        if took < self._quickest or now - self._measured > self._FRESH:
            self._quickest, self._measured = took, now
        if took <= 2 * self._quickest + self._SLACK:
            if 2 * used >= self._size:
                self._size = min(self._size + self._GROWTH, self._most)
        else:
            self._size = max(self._size - 1.0, min(self._START, self._most))
