"""Asks V4L2 devices what they are and what pictures they give, with the kernel's own calls.

Layouts and numbers are those of ``linux/videodev2.h``, the same on every Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

Ioctl = Callable[[int, bytearray], None]  # fills the buffer or raises OSError

QUERYCAP = 0x80685600
ENUM_FMT = 0xC0405602
ENUM_FRAMESIZES = 0xC02C564A
ENUM_FRAMEINTERVALS = 0xC034564B

CAPABILITY = struct.Struct('=16s32s32sIII12x')
FMTDESC = struct.Struct('=III32sII12x')
FRMSIZE = struct.Struct('=III6I8x')
FRMIVAL = struct.Struct('=IIIII6I8x')

CAPTURE, CAPTURE_MPLANE, DEVICE_CAPS = 0x1, 0x1000, 0x80000000  # capabilities
BUFFER_TYPES = {CAPTURE: 1, CAPTURE_MPLANE: 9}
DISCRETE = 1  # other kinds of sizes and rates are ranges
MOST = 256  # of anything that is enumerated: a driver that never ends is broken


@dataclass(frozen=True, slots=True)
class Size:
    """A size of pictures in pixels, and the rates at which they come, Hz, fastest first."""

    width: int
    height: int
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Format:
    """A pixel format.

    Attributes:
        fourcc: Such as 'MJPG'.
        sizes: Largest first; of a range its least and its greatest.
        ranged: Whether any size between the two is to be had.

    """

    fourcc: str
    sizes: tuple[Size, ...] = ()
    ranged: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """A V4L2 device.

    Attributes:
        name: What it calls itself.
        driver: The kernel's driver, such as 'uvcvideo'.
        bus: Where it is plugged in.
        captures: Whether it gives pictures; a camera has other nodes that do not.
        formats: In the driver's order.

    """

    name: str
    driver: str
    bus: str
    captures: bool
    formats: tuple[Format, ...] = field(default=())


def ask(path: str) -> Device:
    """Ask a device; a program that uses it is not disturbed.

    Raises:
        OSError: It cannot be opened, or is no V4L2 device (ENOTTY).

    """
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return describe(lambda request, buffer: fcntl.ioctl(descriptor, request, buffer) and None)
    finally:
        os.close(descriptor)


def describe(ioctl: Ioctl) -> Device:
    """Put together what a device answers.

    Raises:
        OSError: It is no V4L2 device.

    """
    buffer = bytearray(CAPABILITY.size)
    ioctl(QUERYCAP, buffer)
    driver, card, bus, _, capabilities, of_node = CAPABILITY.unpack(buffer)
    effective = of_node if capabilities & DEVICE_CAPS else capabilities
    kind = next((bits for bits in BUFFER_TYPES if effective & bits), 0)
    formats = tuple(formats_of(ioctl, BUFFER_TYPES[kind])) if kind else ()
    return Device(text(card), text(driver), text(bus), bool(kind), formats)


def formats_of(ioctl: Ioctl, buffer_type: int) -> Iterator[Format]:
    """Enumerate the pixel formats."""
    for index in range(MOST):
        buffer = bytearray(FMTDESC.pack(index, buffer_type, 0, b'', 0, 0))
        if not gave(ioctl, ENUM_FMT, buffer):
            return
        code = FMTDESC.unpack(buffer)[4]
        sizes, ranged = sizes_of(ioctl, code)
        yield Format(code.to_bytes(4, 'little').decode('latin-1').strip(), sizes, ranged)


def sizes_of(ioctl: Ioctl, code: int) -> tuple[tuple[Size, ...], bool]:
    """Enumerate the sizes of a format, largest first; True where they are a range."""
    sizes = []
    for index in range(MOST):
        buffer = bytearray(FRMSIZE.pack(index, code, 0, *[0] * 6))
        if not gave(ioctl, ENUM_FRAMESIZES, buffer):
            break
        _, _, kind, a, b, _, d, e, _ = FRMSIZE.unpack(buffer)
        if kind != DISCRETE:  # least width, greatest, step; least height, greatest, step
            return tuple(Size(w, h, rates_of(ioctl, code, w, h)) for w, h in ((b, e), (a, d))), True
        sizes.append(Size(a, b, rates_of(ioctl, code, a, b)))
    return tuple(sorted(sizes, key=lambda size: -size.width * size.height)), False


def rates_of(ioctl: Ioctl, code: int, width: int, height: int) -> tuple[float, ...]:
    """Enumerate the rates of a format and size, fastest first; of a range its fastest and its slowest."""
    rates = set()
    for index in range(MOST):
        buffer = bytearray(FRMIVAL.pack(index, code, width, height, 0, *[0] * 6))
        if not gave(ioctl, ENUM_FRAMEINTERVALS, buffer):
            break
        _, _, _, _, kind, *numbers = FRMIVAL.unpack(buffer)
        for numerator, denominator in (numbers[:2],) if kind == DISCRETE else (numbers[:2], numbers[2:4]):
            if numerator:
                rates.add(round(denominator / numerator, 3))
        if kind != DISCRETE:
            break
    return tuple(sorted(rates, reverse=True))


def gave(ioctl: Ioctl, request: int, buffer: bytearray) -> bool:
    """Ask for the next one; False where there is none, or the driver does not enumerate."""
    with suppress(OSError):
        ioctl(request, buffer)
        return True
    return False


def text(raw: bytes) -> str:
    """Read a name of the kernel."""
    return raw.split(b'\0')[0].decode('utf-8', 'replace').strip()


def is_other_thing(error: OSError) -> bool:
    """Tell whether a file is there and to be read, but no V4L2 device."""
    return error.errno in (errno.ENOTTY, errno.EINVAL, errno.EISDIR)
