"""What one rule has seen on one camera: in how many frames, which objects, and which of them were told of."""

from __future__ import annotations

import dataclasses

from .rules import RuleParams

MOST_OBJECTS = 1000  # remembered per rule and camera; more ids than that in view are noise


@dataclasses.dataclass(slots=True)
class _Object:
    """One track, or everything without one: since when it matches, and in which frame its run of frames began."""

    since_ns: int
    first: int


@dataclasses.dataclass(slots=True)
class Watch:
    """Counts frames for and against one rule on one camera, and the objects that match it.

    An object that goes on matching costs nothing: only comings and goings are noted.

    Attributes:
        seen: Frames in a row that were for the rule.
        clear: Fresh frames in a row that were against it.
        told_ns: When an object was last told of; None before the first.
        objects: The objects by their track, oldest first.
        settled: All objects that are here have been told of, and none has come or gone since.

    """

    seen: int = 0
    clear: int = 0
    told_ns: int | None = None
    objects: dict[str, _Object] = dataclasses.field(default_factory=dict)
    settled: bool = False
    _frame: int = 0
    _counted: int = 0  # frames that count against what is away
    _here: set[str] = dataclasses.field(default_factory=set)
    _away: dict[str, int] = dataclasses.field(default_factory=dict)

    def look(self, tracks: set[str], now_ns: int, patience: int | None) -> list[str]:
        """Note the tracks that match in a frame; '' is an object without a track.

        Args:
            tracks: The tracks; kept, so not to be changed any more.
            now_ns: The time now.
            patience: Frames in a row after which an object that is away is forgotten; None when this
                frame does not count against it.

        Returns:
            Those forgotten.

        """
        self._frame += 1
        if tracks is not self._here and tracks != self._here:
            self._come_and_go(tracks, now_ns)
        if patience is None:
            return []
        self._counted += 1
        gone = self._gone(patience) if self._away else []
        for track in gone:
            self._forget(track)
        return gone

    def _come_and_go(self, tracks: set[str], now_ns: int) -> None:
        self.settled = False
        for track in self._here - tracks:
            self._away[track] = self._counted
        for track in tracks - self._here:
            if self._away.pop(track, None) is None:
                self._add(track, now_ns)
            else:
                self.objects[track].first = self._frame
        self._here = tracks if len(self.objects) < MOST_OBJECTS else tracks & self.objects.keys()

    def _add(self, track: str, now_ns: int) -> None:
        if len(self.objects) >= MOST_OBJECTS and self._away:
            self._forget(next(iter(self._away)))
        if len(self.objects) < MOST_OBJECTS:
            self.objects[track] = _Object(now_ns, self._frame)

    def _gone(self, patience: int) -> list[str]:
        """List what has been away for that many frames that counted."""
        gone = []
        for track, counted in self._away.items():  # the longest away first
            if self._counted - counted < patience:
                break
            gone.append(track)
        return gone

    def _forget(self, track: str) -> None:
        del self.objects[track]
        self._away.pop(track, None)

    def stayed(self, track: str, dwell_ns: int, now_ns: int) -> bool:
        """Tell whether an object in this frame has matched for so long."""
        known = self.objects.get(track)
        return known is not None and now_ns - known.since_ns >= dwell_ns

    def frames(self, track: str) -> int:
        """Count the frames in a row until now in which an object matched."""
        known = self.objects.get(track)
        return 1 if known is None else self._frame - known.first + 1

    def may_tell(self, track: str, params: RuleParams, now_ns: int, *, first: bool) -> bool:
        """Tell whether an object in this frame may have an event.

        Args:
            track: The object.
            params: Its rule.
            now_ns: The time now.
            first: Whether it is the one that began a cause; any other must have been there often enough.

        """
        rested = self.told_ns is None or now_ns - self.told_ns >= params.cooldown * 1e9
        return track in self.objects and rested and (first or self.frames(track) >= params.trigger_consecutive_frames)
