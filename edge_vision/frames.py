"""A captured picture, and the slot that hands the newest thing over."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
T = TypeVar('T')


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture and when and where it was taken.

    Attributes:
        image: Pixels, shape (height, width, 3), uint8, BGR. Shared by reference: never write to it.
        stamp_ns: Capture time in ns since the epoch; becomes ``header.stamp``.
        frame_id: Optical coordinate frame of the camera; becomes ``header.frame_id``.

    """

    image: Image
    stamp_ns: int
    frame_id: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]


def resizable(image: Image) -> Image:
    """Return an image, or of a single pixel two alike: OpenCV 4.5 does not resize a single one."""
    return image if image.size > 3 else image.repeat(2, axis=1)


class Slot(Generic[T]):
    """Holds at most one item; a newer one replaces it, and the replacement is counted.

    One thread or several may put; one thread takes. This is the only hand-off between whatever
    produces frames (a capture thread, a subscription) and whatever works on them.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._item: T | None = None
        self._closed = False
        self._received = 0
        self._replaced = 0

    @property
    def received(self) -> int:
        """Items ever put."""
        return self._received

    @property
    def replaced(self) -> int:
        """Items that were replaced by a newer one before anyone took them."""
        return self._replaced

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def put(self, item: T) -> None:
        """Make ``item`` the newest, replacing one that was not taken yet."""
        with self._ready:
            self._received += 1
            self._replaced += self._item is not None
            self._item = item
            self._ready.notify()

    def take(self, timeout: float | None = None) -> T | None:
        """Wait for an item and remove it.

        Args:
            timeout: Seconds to wait; None waits until an item comes or the slot is closed.

        Returns:
            The newest item, or None after the timeout or once the slot is closed.

        """
        with self._ready:
            self._ready.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            return None if self._closed else item

    def close(self) -> None:
        """Wake whoever waits in `take` and make it return None from now on."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


FrameSlot = Slot[Frame]
