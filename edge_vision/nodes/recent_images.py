"""Keeps the newest images of a camera for events that come from another process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from sensor_msgs.msg import Image

from .convert import ns_from_stamp


class RecentImages:
    """The newest images of one camera, to be found by their stamp.

    Args:
        max_bytes: Pixels kept, at most; two images are kept whatever their size.

    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, msg: Image) -> None:
        """Keep an image."""
        with self._changed:
            self._images[ns_from_stamp(msg.header.stamp)] = msg
            while len(self._images) > max(2, self._max_bytes // max(len(msg.data), 1)):
                self._images.popitem(last=False)
            self._changed.notify_all()

    def find(self, stamp_ns: int, deadline: float) -> Image | None:
        """Return the image of a stamp; wait for it until it cannot come any more, or a time of the steady clock, s."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or max(self._images, default=0) >= stamp_ns,
                max(0.0, deadline - time.monotonic()),
            )
            return self._images.get(stamp_ns)

    def close(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
