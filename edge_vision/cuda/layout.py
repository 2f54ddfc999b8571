"""The memory that the CPU hands to the GPU's kernels and gets back from them; `kernels.cu` has the other side.

**Staged**, for each frame, in one piece so that it goes up in one copy: the tables (the job, the levels, a tap for
every column and every row of the network input) and the picture, which a GPU may also read where it is. **Result**, in
one piece so that it comes back in one copy: the header, the positions of the anchors that passed, and their numbers.

The taps are what ``cv2.resize(..., INTER_LINEAR)`` computes with on bytes: positions in double precision, the
distance to the left neighbour in single precision, weights of 2048. With its integer arithmetic in the kernel the
picture comes out bit for bit as OpenCV's (its own code, as on x86; an Arm build may resize with a vendor's code,
which differs by a level here and there).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..frames import Image
from ..yolov8 import GREY, Floats, Letterbox

JOB = np.dtype(
    [
        ('frame', 'u8'),
        ('min_score', 'f4'),
        ('row_bytes', 'i4'),
        ('left', 'i4'),
        ('top', 'i4'),
        ('width', 'i4'),
        ('height', 'i4'),
    ]
)
TAP = np.dtype([('first', 'i4'), ('second', 'i4'), ('first_weight', 'i4'), ('second_weight', 'i4')])
HEADER = np.dtype([('seen', 'u8'), ('frame', 'u8'), ('count', 'u4'), ('reserved', 'u4')])
LEVELS = 257  # of a byte, and grey
WEIGHT = 2048
ALIGNMENT = 256
CAPACITY = 1024  # anchors; of more the whole output is fetched

Bytes = NDArray[np.uint8]
Taps = NDArray[np.void]


def aligned(size: int) -> int:
    """Round up to where a next part may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Offsets(NamedTuple):
    """Where the parts of staged memory begin, in bytes."""

    job: int
    levels: int
    columns: int
    rows: int
    picture: int


def offsets(input_size: tuple[int, int]) -> Offsets:
    """Lay the staged memory out for a network input of this height and width."""
    height, width = input_size
    levels = aligned(JOB.itemsize)
    columns = levels + aligned(LEVELS * 4)
    rows = columns + aligned(width * TAP.itemsize)
    return Offsets(0, levels, columns, rows, rows + aligned(height * TAP.itemsize))


class Staged:
    """Writes frames into memory that the GPU reads.

    Args:
        memory: At least ``offsets(input_size).picture`` bytes and the picture.
        input_size: Height and width of the network input.
        element_type: Of the network input, float32 or float16.

    """

    def __init__(self, memory: Bytes, input_size: tuple[int, int], element_type: np.dtype[Any]) -> None:
        self.offsets = offsets(input_size)
        self._memory = memory
        self._job = memory[: JOB.itemsize].view(JOB)
        self._columns = self._taps(self.offsets.columns, input_size[1])
        self._rows = self._taps(self.offsets.rows, input_size[0])
        self._geometry: Letterbox | None = None
        start = self.offsets.levels
        memory[start : start + LEVELS * 4].view(np.uint32)[:] = levels(element_type)

    def _taps(self, start: int, count: int) -> Taps:
        return self._memory[start : start + count * TAP.itemsize].view(TAP)

    def write(self, image: Image, geometry: Letterbox, min_score: float, frame: int) -> None:
        """Write one frame.

        Args:
            image: BGR, shape (height, width, 3), uint8, with any strides.
            geometry: Where it goes in the network input.
            min_score: Anchors whose best class does not score above this are left out.
            frame: Number that comes back with the result.

        """
        height, width = image.shape[:2]
        if geometry != self._geometry:
            self._geometry = None  # what follows may fail half way
            self._columns[: geometry.width] = taps(width, geometry.width, 3)
            self._rows[: geometry.height] = taps(height, geometry.height)
            self._geometry = geometry
        place = (geometry.left, geometry.top, geometry.width, geometry.height)
        self._job[0] = (frame, min_score, width * 3, *place)
        start = self.offsets.picture
        np.copyto(self._memory[start : start + image.size].reshape(image.shape), image)


def levels(element_type: np.dtype[Any]) -> NDArray[np.uint32]:
    """Tell what the bytes 0 to 255 and the grey of the border are to the network, as bits of its element type."""
    values = np.array([*range(256), GREY], np.float32) / np.float32(255)
    bits = np.uint16 if element_type == np.float16 else np.uint32
    found: NDArray[np.uint32] = values.astype(element_type).view(bits).astype(np.uint32)
    return found


@functools.lru_cache(maxsize=64)
def taps(source: int, target: int, item_bytes: int = 0) -> Taps:
    """Tell which pixels of one side of a picture each pixel of its resized side is made of.

    Args:
        source: Pixels of the picture's side.
        target: Pixels of the resized side.
        item_bytes: Bytes of one pixel where the side is a row; 0 where it is a column of rows.

    """
    scale = 1.0 / (target / source)
    position = ((np.arange(target) + 0.5) * scale - 0.5).astype(np.float32)
    whole = np.floor(position).astype(np.int32)
    distance = position - whole.astype(np.float32)
    if item_bytes:  # OpenCV takes one pixel at the ends of a row, and the same row twice at the ends of a column
        distance[(whole < 0) | (whole >= source - 1)] = 0.0
    found = np.zeros(target, TAP)
    step = item_bytes or 1
    found['first'] = whole.clip(0, source - 1) * step
    found['second'] = (whole + 1).clip(0, source - 1) * step
    found['first_weight'] = np.rint((np.float32(1) - distance) * np.float32(WEIGHT))
    found['second_weight'] = np.rint(distance * np.float32(WEIGHT))
    found.setflags(write=False)
    return found


class Result:
    """Reads what the GPU found.

    Attributes:
        size: Bytes of memory it needs.
        positions: Where the positions of the anchors begin, in bytes.
        taken: Where their numbers begin, in bytes.
        capacity: Most anchors that it has room for.

    Args:
        rows: Numbers of an anchor, 4 + classes.
        anchors: Of the network.
        element_type: Of the network's output, float32 or float16.

    """

    def __init__(self, rows: int, anchors: int, element_type: np.dtype[Any]) -> None:
        self.capacity = min(CAPACITY, anchors)
        self.positions = aligned(HEADER.itemsize)
        self.taken = self.positions + aligned(self.capacity * 4)
        self.size = self.taken + self.capacity * rows * element_type.itemsize
        self._rows = rows
        self._element_type = element_type

    def read(self, memory: Bytes, frame: int) -> Floats | None:
        """Take the anchors of a frame out of memory.

        Returns:
            Shape (4 + classes, N), by their positions in the network's output, copied; None where there are more
            than there is room for.

        Raises:
            ValueError: This is not the result of that frame.

        """
        header = memory[: HEADER.itemsize].view(HEADER)[0]
        if header['frame'] != frame or header['seen'] != frame:
            msg = f'the result is that of frame {header["frame"]} and not of frame {frame}'
            raise ValueError(msg)
        count = int(header['count'])
        if count > self.capacity:
            return None
        order = memory[self.positions :][: count * 4].view(np.int32).argsort()
        size = count * self._rows * self._element_type.itemsize
        taken = memory[self.taken :][:size].view(self._element_type).reshape(count, self._rows)
        return np.ascontiguousarray(taken[order].T, dtype=np.float32)
