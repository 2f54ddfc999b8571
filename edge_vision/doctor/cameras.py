"""The cameras that are there, and whether the ones that are asked for are among them."""

from __future__ import annotations

import errno
import grp
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..params import CameraParams
from . import v4l2
from .findings import Finding, absent, ok, problem
from .machine import in_container, jetson_model

DEVICES = Path('/dev')
NAMES = Path('/dev/v4l/by-id')
NETWORK = ('http', 'https', 'rtmp', 'rtsp', 'rtsps', 'srt', 'tcp', 'udp')
BAYER = re.compile(r'(RG|BG|GR|GB|BA|GA|pR|pB|pG|pg)[\w ]{2}')
SECRET = re.compile(r'//[^\s/]*@')


def probe() -> Iterator[Finding]:
    """List the V4L2 devices of this machine that give pictures."""
    paths = sorted(DEVICES.glob('video[0-9]*'), key=lambda path: int(re.sub(r'\D', '', path.name)))
    found = [finding for path in paths for finding in attached(path)]
    if found:
        yield from found
        return
    yield absent('cameras', f'no V4L2 camera{" in this container" if in_container() else ""}')


def attached(path: Path) -> Iterator[Finding]:
    """Describe a device unless it is one of the nodes of a camera that give no pictures."""
    try:
        device = v4l2.ask(str(path))
    except PermissionError:
        yield problem(path.name, 'this user may not use it', *let_in(path), needed=False)
    except OSError as error:
        yield problem(path.name, f'does not answer: {error.strerror}', 'plug it in again', needed=False)
    else:
        if device.captures:
            lasting = lasting_name(path)
            details = (*formats(device), *((f'lasting name: {lasting}',) if lasting else ()))
            yield ok(path.name, f'{device.name} ({device.driver}, {device.bus})', *details)


def lasting_name(path: Path) -> str:
    """Name a device so that the name stays when cameras are plugged in in another order."""
    for link in sorted(NAMES.glob('*')) if NAMES.is_dir() else ():
        if link.resolve() == path.resolve():
            return str(link)
    return ''


def formats(device: v4l2.Device) -> Iterator[str]:
    """Say what pictures a device gives, a line for each format."""
    for offered in device.formats:
        sizes = [f'{s.width}x{s.height}{f" at {s.rates[0]:g}/s" if s.rates else ""}' for s in offered.sizes]
        shown = ' to '.join(reversed(sizes)) if offered.ranged else ', '.join(sizes[:4])
        more = f' and {len(sizes) - 4} smaller' if len(sizes) > 4 and not offered.ranged else ''
        yield f'{offered.fourcc}: {shown or "sizes not told"}{more}'


def let_in(path: Path) -> tuple[str, str]:
    """Say how a user gets the right to use a device."""
    group = 'video'
    with suppress(OSError, KeyError):
        group = grp.getgrgid(path.stat().st_gid).gr_name
    if group == 'root':
        return (
            'give the device to the group video',
            f'sudo chgrp video {shlex.quote(str(path))} && sudo chmod g+rw {shlex.quote(str(path))}',
        )
    return f'become a member of the group {group} and log in again', f'sudo usermod -aG {group} $USER'


def source(params: CameraParams, name: str, *, needed: bool, opencv: Mapping[str, str]) -> Finding:
    """Judge the source that a camera node is given.

    Args:
        params: The node's parameters.
        name: How the page calls it.
        needed: Whether the user has configured it.
        opencv: What OpenCV was built with: 'GStreamer', 'FFMPEG' and 'v4l2', each 'YES' or 'NO'.

    """
    given = params.video_device
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', given)
    if scheme and scheme[1].lower() != 'file':
        return stream(SECRET.sub('//***@', given), scheme[1].lower(), name, needed=needed, opencv=opencv)
    if '!' in given and not scheme:
        return built_with('GStreamer', opencv, name, 'a GStreamer pipeline', needed=needed)
    if given.isdecimal() or given.startswith('/dev/'):
        return camera(Path(f'/dev/video{given}' if given.isdecimal() else given), params, name, needed=needed)
    path = Path(given.removeprefix('file://')).expanduser()
    if os.access(path, os.R_OK):
        return ok(name, f'{path}, {"a folder of pictures" if path.is_dir() else "a file"}')
    reason = 'cannot be read' if path.exists() else 'does not exist'
    return problem(name, f'{path} {reason}', 'set video_device', needed=needed)


def stream(shown: str, scheme: str, name: str, *, needed: bool, opencv: Mapping[str, str]) -> Finding:
    """Judge a source that is named by a URL; it is not contacted."""
    if scheme == 'sim':
        return ok(name, f'{shown}, simulated')
    if scheme in NETWORK:
        return built_with('FFMPEG', opencv, name, f'{shown}, not contacted by this command', needed=needed)
    expected = ', '.join(('file', 'sim', *NETWORK))
    return problem(name, f'{shown} has a scheme that is not known', f'expected one of {expected}', needed=needed)


def built_with(part: str, opencv: Mapping[str, str], name: str, found: str, *, needed: bool) -> Finding:
    """Judge a source that needs a part of OpenCV."""
    if opencv.get(part, 'YES') != 'NO':
        return ok(name, found)
    way_out, command = 'ROS distros come with an OpenCV that has it; source one and run', 'scripts/setup'
    if os.environ.get('ROS_DISTRO'):
        way_out = "let the system's OpenCV (python3-opencv) be used"
        command = 'pip uninstall -y opencv-python opencv-python-headless'
    return problem(name, f'{found}: this OpenCV is built without {part}', way_out, command, needed=needed)


def camera(path: Path, params: CameraParams, name: str, *, needed: bool) -> Finding:
    """Judge a V4L2 device: is it there, may we use it, and does it give what is asked of it?"""
    try:
        device = v4l2.ask(str(path))
    except FileNotFoundError:
        way_out, command = 'plug it in, or set video_device to one of', f'ls /dev/video* {NAMES}'
        if in_container():
            way_out, command = 'let it into the container', f'docker run --device {path} ...'
        return problem(name, f'{path} does not exist', way_out, command, needed=needed)
    except PermissionError:
        return problem(name, f'{path}: this user may not use it', *let_in(path), needed=needed)
    except OSError as error:
        if v4l2.is_other_thing(error):
            return problem(
                name, f'{path} is no camera', 'set video_device to one of', f'ls /dev/video* {NAMES}', needed=needed
            )
        busy = error.errno == errno.EBUSY
        reason = 'is in use' if busy else f'does not answer: {error.strerror}'
        return problem(
            name,
            f'{path} {reason}',
            'see who has it' if busy else 'plug it in again',
            f'fuser -v {path}' if busy else '',
            needed=needed,
        )
    wrong, way_out = unlike(device, params)
    if wrong:
        return problem(name, f'{path} ({device.name}) {wrong}', way_out, needed=needed and not device.captures)
    return ok(name, f'{path}: {device.name}, {wanted(params)}')


def wanted(params: CameraParams) -> str:
    """Say what a camera is asked for."""
    size = (
        f'{params.image_width}x{params.image_height}' if params.image_width and params.image_height else 'its own size'
    )
    rate = f'{params.framerate:g}/s' if params.framerate else 'its own rate'
    return f'{params.pixel_format + " " if params.pixel_format else ""}{size} at {rate}'


def unlike(device: v4l2.Device, params: CameraParams) -> tuple[str, str]:
    """Say what a camera will not give as it is asked for, and what to do about it; '' where it will."""
    if not device.captures:
        return 'gives no pictures; it is another node of its camera', 'set video_device to its first node'
    if device.formats and all(BAYER.fullmatch(offered.fourcc) for offered in device.formats):
        pipeline = 'nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx' if jetson_model() else 'libcamerasrc'
        return 'gives raw Bayer pictures only', f'set video_device to the pipeline "{pipeline}"'
    fourcc = params.pixel_format.upper()
    choices = [offered for offered in device.formats if fourcc in ('', offered.fourcc)]
    if device.formats and not choices:
        return f'does not give {fourcc}', f'set pixel_format to one of {", ".join(f.fourcc for f in device.formats)}'
    return unlike_in_size(choices, params)


def unlike_in_size(choices: list[v4l2.Format], params: CameraParams) -> tuple[str, str]:
    """Compare size and rate with what the formats that come into question have."""
    width, height = params.image_width, params.image_height
    sizes = [(f, s) for f in choices for s in f.sizes]
    if not sizes or not (width and height) or any(f.ranged for f in choices):
        return '', ''
    fitting = [(f, s) for f, s in sizes if (s.width, s.height) == (width, height)]
    if not fitting:
        nearest = min(sizes, key=lambda pair: abs(pair[1].width * pair[1].height - width * height))[1]
        return (
            f'does not give {width}x{height} and will choose another size',
            f'it has {nearest.width}x{nearest.height}',
        )
    rates = {f.fourcc: max(s.rates) for f, s in fitting if s.rates}
    best = max(rates, key=rates.__getitem__, default='')
    if best and rates[best] < params.framerate - 0.5:
        return (
            f'gives {width}x{height} at {rates[best]:g}/s at most ({best}), not at {params.framerate:g}/s',
            'ask for a smaller size or rate',
        )
    first = fitting[0][0].fourcc
    if best and not params.pixel_format and rates.get(first, params.framerate) < params.framerate - 0.5:
        return f'gives {width}x{height} at {params.framerate:g}/s as {best} only', f'set pixel_format: "{best}"'
    return '', ''
