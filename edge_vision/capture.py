"""Where pictures come from: a camera, a stream, a GStreamer pipeline, a file, a folder, or the simulator.

A new kind of source is a class that is a `Source`, and a line in `SCHEMES` if it is named by a URL.
"""

from __future__ import annotations

import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from .errors import ConfigurationError, EndOfStream, SourceError
from .frames import Image

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
DEFAULT_RATE = 30.0  # Hz, for files that do not name one
HIGHEST_RATE = 1000.0  # Hz; a file that claims more is wrong
LARGEST_LAG = 1.0  # s; a reader that is later than this is not caught up with
NETWORK_TIMEOUT = 5000  # ms
SECRETS = re.compile(
    r'\b(user-id|user-pw|proxy-id|proxy-pw|user|username|pass|passwd|password|pwd|token)=("[^"]*"|[^\s&!]*)',
    re.IGNORECASE,
)

# OpenCV and FFmpeg write to the terminal what is raised here anyway. FFmpeg asks once, when it is first used.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
(getattr(cv2, 'setLogLevel', None) or cv2.utils.logging.setLogLevel)(0)  # OpenCV 4 or 5


class Source(Protocol):
    """Gives pictures. One thread opens and reads; any thread may close."""

    def open(self) -> None:
        """Start giving pictures; also again after `close`.

        Raises:
            SourceError: It is missing, busy or not readable.

        """
        ...

    def read(self) -> tuple[Image, int]:
        """Wait for the next picture.

        Returns:
            BGR pixels, shape (height, width, 3), and the time of capture in ns since the epoch.

        Raises:
            EndOfStream: A finite source has given its last picture.
            SourceError: The source was lost or closed.

        """
        ...

    def close(self) -> None:
        """Stop; a `read` that waits in another thread raises SourceError. May be called again."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a source. A source takes what concerns it.

    Attributes:
        framerate: Pictures per second; 0 means the source's own rate.
        image_width: Pixels; 0 means the source's own.
        image_height: Pixels; 0 means the source's own.
        pixel_format: FourCC of a V4L2 device such as MJPG or YUYV; '' means its own.
        loop: Start a file or folder again at its end.

    """

    framerate: float = 0.0
    image_width: int = 0
    image_height: int = 0
    pixel_format: str = ''
    loop: bool = False


def open_source(
    video_device: str,
    *,
    framerate: float = 0.0,
    image_width: int = 0,
    image_height: int = 0,
    pixel_format: str = '',
    loop: bool = False,
) -> Source:
    """Make the source that ``video_device`` names; nothing is opened yet.

    Args:
        video_device: V4L2 device (``/dev/video0``, ``/dev/v4l/by-id/...`` or a number), URL (see `SCHEMES`),
            GStreamer pipeline (anything with a ``!``), video file, picture, or folder of pictures.
        framerate: Pictures per second asked of a device, or at which a file is played; 0 means its own, infinity
            plays a file as fast as it can be read.
        image_width: Width asked of a device or the simulator, pixels; 0 means its own.
        image_height: Height asked of a device or the simulator, pixels; 0 means its own.
        pixel_format: FourCC asked of a V4L2 device; '' means its own.
        loop: Start a file or folder again at its end.

    Raises:
        SourceError: There is no such kind of source.
        ConfigurationError: An option is not one that the source has.

    """
    request = Request(framerate, image_width, image_height, pixel_format, loop)
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', video_device)
    if '!' in video_device and not scheme:
        return Stream(masked(video_device), pipeline(video_device), cv2.CAP_GSTREAMER)
    if scheme:
        return by_scheme(scheme[1].lower(), video_device, request)
    if video_device.isdecimal() or video_device.startswith('/dev/'):
        return device(video_device, request)
    if not video_device:
        raise SourceError('video_device is empty, expected a device, URL, pipeline, file or folder')
    path = Path(video_device).expanduser()
    might_be_folder = path.is_dir() or not (path.suffix or path.exists())  # it may be mounted later
    if might_be_folder or path.suffix.lower() in IMAGE_SUFFIXES:
        return Pictures(path, request)
    return VideoFile(path, request)


def masked(video_device: str) -> str:
    """Return the name of a source as it may be shown: without user names and passwords.

    A password may hold '/' and '@' though it should not, and pipelines and queries have names of their own for it.
    """
    without_login = re.sub(r'//\S*@', '//***@', video_device)
    return re.sub(SECRETS, r'\1=***', without_login)


def video_length(video_device: str) -> tuple[float, float]:
    """Return duration in s and pictures per second of a video file; zeros for any other kind of source.

    Raises:
        SourceError: The file cannot be read.

    """
    source = open_source(video_device)
    if not isinstance(source, VideoFile):
        return 0.0, 0.0
    source.open()
    try:
        source.read()
        return source.length()
    finally:
        source.close()


class Capture:
    """What OpenCV has opened, and the lock that lets another thread close it.

    Args:
        name: How errors call the source.

    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._closed = True
        self._video: Any = None

    def open(
        self,
        target: str,
        backend: int,
        properties: Sequence[tuple[int, float]] = (),
        at_open: Sequence[int] = (),
    ) -> bool:
        """Open a device, URL, pipeline or file; False if that fails.

        Args:
            target: What to open.
            backend: Part of OpenCV that reads it, one of its ``CAP_`` numbers.
            properties: Pairs of property and value, set in this order once it is open.
            at_open: Properties and values in turn that must be known while it is opened.

        """
        video = cv2.VideoCapture(target, backend, list(at_open))
        for key, value in properties:
            video.set(key, value)
        with self._lock:
            self._video = video
            self._closed = False
        return bool(video.isOpened())

    def next(self) -> tuple[Image, int] | None:
        """Wait for the next picture; None if there is none.

        Raises:
            SourceError: It is closed, or does not give BGR.

        """
        if self._closed:  # seen before the lock, which a reader in a loop could keep for itself
            raise SourceError(f'video_device {self._name!r} is closed')
        with self._lock:
            if self._closed or not self._video.grab():
                return None
            stamp_ns = time.time_ns()
            decoded, image = self._video.retrieve()
        if not decoded:
            return None
        if image.ndim != 3 or image.shape[2] != 3:
            raise SourceError(f'video_device {self._name!r} gives pictures of shape {image.shape}, expected BGR')
        return image, stamp_ns

    def rate(self) -> float:
        """Pictures per second that it claims, if that can be true."""
        rate = float(self._video.get(cv2.CAP_PROP_FPS))
        return rate if 0.0 < rate <= HIGHEST_RATE else DEFAULT_RATE

    def count(self) -> float:
        """Pictures that it claims to hold; 0 where it does not say."""
        return max(0.0, float(self._video.get(cv2.CAP_PROP_FRAME_COUNT)))

    def close(self) -> None:
        """Close it, once a grab that is under way has returned."""
        self._closed = True
        with self._lock:
            if self._video is not None:
                self._video.release()


class Stream:
    """A live source that OpenCV reads: a camera, a network stream, a GStreamer pipeline.

    Args:
        name: How errors call it.
        target: What OpenCV opens.
        backend: Part of OpenCV that reads it, one of its ``CAP_`` numbers.
        properties: Pairs of property and value, set in this order once it is open.
        at_open: Properties and values in turn that must be known while it is opened.

    """

    def __init__(
        self,
        name: str,
        target: str,
        backend: int,
        properties: Sequence[tuple[int, float]] = (),
        at_open: Sequence[int] = (),
    ) -> None:
        self._name = name
        self._target = target
        self._backend = backend
        self._properties = properties
        self._at_open = at_open
        self._capture = Capture(name)

    def open(self) -> None:
        """Open it and ask for size, rate and format."""
        shown = repr(self._name)
        if self._backend == cv2.CAP_GSTREAMER and not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
            raise SourceError(
                f'video_device {shown} is a GStreamer pipeline and this OpenCV is built without GStreamer; '
                "install the system's OpenCV (python3-opencv), or name a device, URL or file"
            )
        if self._backend == cv2.CAP_V4L2 and not Path(self._target).exists():
            raise SourceError(f'video_device {shown} does not exist; see what there is: ls /dev/video* /dev/v4l/by-id')
        # A name below /dev/v4l/by-id stands for another device node each time the camera is plugged in.
        target = os.path.realpath(self._target) if self._backend == cv2.CAP_V4L2 else self._target
        if not self._capture.open(target, self._backend, self._properties, self._at_open):
            raise SourceError(f'video_device {shown} cannot be opened, expected a free camera or reachable stream')

    def read(self) -> tuple[Image, int]:
        """Wait for the next picture."""
        picture = self._capture.next()
        if picture is None:
            raise SourceError(f'video_device {self._name!r} gives no more pictures; was it unplugged, did it end?')
        return picture

    def close(self) -> None:
        """Stop."""
        self._capture.close()


class Pace:
    """Keeps the rate of a source that could give its pictures at any speed."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._due: float | None = None

    def start(self) -> None:
        """Let the next picture be due at once."""
        self._closed.clear()
        self._due = None

    def stop(self) -> None:
        """Wake whoever waits."""
        self._closed.set()

    def wait(self, rate: float, name: str) -> None:
        """Wait until the next picture is due.

        Raises:
            SourceError: `stop` was called.

        """
        now = time.monotonic()
        due = now if self._due is None else self._due + 1.0 / rate
        self._due = now if due < now - LARGEST_LAG else due
        if self._closed.wait(max(0.0, self._due - now)):
            raise SourceError(f'video_device {name!r} is closed')


class VideoFile:
    """A video file, played at its own rate or the one asked for."""

    def __init__(self, path: Path, request: Request) -> None:
        self._path = path
        self._request = request
        self._capture = Capture(str(path))
        self._pace = Pace()
        self._rate = DEFAULT_RATE
        self._count = 0

    def open(self) -> None:
        """Open the file at its start."""
        if not self._path.is_file():
            raise SourceError(f'video_device {str(self._path)!r} does not exist, expected a video, picture or folder')
        self._rewind()
        self._pace.start()

    def read(self) -> tuple[Image, int]:
        """Wait until the next picture is due."""
        self._pace.wait(self._rate, str(self._path))
        picture = self._capture.next()
        if picture is None and self._count and self._request.loop:
            self._rewind()
            picture = self._capture.next()
        if picture is None and self._count:
            raise EndOfStream(f'video file {str(self._path)!r} has been read to its end')
        if picture is None:
            raise self._unreadable()
        self._count += 1
        return picture

    def close(self) -> None:
        """Stop."""
        self._pace.stop()
        self._capture.close()

    def length(self) -> tuple[float, float]:
        """Return duration in s and pictures per second of the opened file, as its header says."""
        return self._capture.count() / self._rate, self._rate

    def _rewind(self) -> None:
        has_ffmpeg = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)  # first choice, as it is silent about bad files
        if not self._capture.open(str(self._path), cv2.CAP_FFMPEG if has_ffmpeg else cv2.CAP_ANY):
            raise self._unreadable()
        self._rate = self._request.framerate or self._capture.rate()
        self._count = 0

    def _unreadable(self) -> SourceError:
        return SourceError(f'video file {str(self._path)!r} holds no readable picture, expected a video OpenCV reads')


class Pictures:
    """One picture, or the pictures of a folder in the order of their names."""

    def __init__(self, path: Path, request: Request) -> None:
        self._path = path
        self._rate = request.framerate or DEFAULT_RATE
        self._loop = request.loop
        self._pace = Pace()
        self._files: list[Path] = []
        self._position = 0

    def open(self) -> None:
        """List the pictures."""
        self._files = list_pictures(self._path)
        self._position = 0
        self._pace.start()

    def read(self) -> tuple[Image, int]:
        """Wait until the next picture is due and load it."""
        self._pace.wait(self._rate, str(self._path))
        if self._position == len(self._files):
            if not self._loop:
                raise EndOfStream(f'{str(self._path)!r} has no more pictures')
            self._position = 0
        file = self._files[self._position]
        self._position += 1
        return read_picture(file), time.time_ns()

    def close(self) -> None:
        """Stop."""
        self._pace.stop()


def list_pictures(path: Path) -> list[Path]:
    """List the pictures of a folder by name; a picture is a folder of one.

    Raises:
        SourceError: There are none.

    """
    if not path.exists():
        raise SourceError(f'video_device {str(path)!r} does not exist, expected a video, picture or folder')
    if not path.is_dir():
        return [path]
    try:
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise SourceError(f'folder {str(path)!r} cannot be read: {error.strerror}') from error
    if not files:
        raise SourceError(f'folder {str(path)!r} holds no pictures, expected files ending in one of {IMAGE_SUFFIXES}')
    return files


def read_picture(path: Path) -> Image:
    """Load a picture as BGR.

    Raises:
        SourceError: It is missing or not readable.

    """
    if not path.is_file():
        raise SourceError(f'picture {str(path)!r} does not exist')
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # larger than OpenCV allows
        image = None
    if image is None:
        raise SourceError(f'picture {str(path)!r} is damaged or of a format that OpenCV does not read')
    return np.asarray(image, dtype=np.uint8)


def device(name: str, request: Request) -> Stream:
    """Make the source for a V4L2 device; OpenCV wants the format before the size, and the size before the rate."""
    path = f'/dev/video{name}' if name.isdecimal() else name
    fourcc = request.pixel_format.upper()
    if fourcc and not re.fullmatch(r'[A-Z0-9]{4}', fourcc):
        raise ConfigurationError(f'pixel_format is {request.pixel_format!r}, expected a FourCC such as MJPG or YUYV')
    properties = [
        (cv2.CAP_PROP_FOURCC, int.from_bytes(fourcc.encode(), 'little')),
        (cv2.CAP_PROP_FRAME_WIDTH, request.image_width),
        (cv2.CAP_PROP_FRAME_HEIGHT, request.image_height),
        (cv2.CAP_PROP_FPS, request.framerate),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]
    return Stream(name, path, cv2.CAP_V4L2, [(key, value) for key, value in properties if value])


def network(url: str, _request: Request) -> Stream:
    """Make the source for a network stream; errors show its URL without the password."""
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, NETWORK_TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, NETWORK_TIMEOUT)
    return Stream(masked(url), url, cv2.CAP_FFMPEG, at_open=limits)


def file_url(url: str, request: Request) -> Source:
    """Make the source for file:///path."""
    return open_source(urlsplit(url).path, **asdict(request))


def pipeline(description: str) -> str:
    """Complete a GStreamer pipeline with a sink that keeps only the newest picture."""
    if 'appsink' in description:
        return description
    return f'{description} ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false'


SIMULATORS = {'conveyor': ('edge_vision.simulator.source', 'ConveyorSource')}


def simulator(url: str, request: Request) -> Source:
    """Make a simulated source, sim://NAME?option=value&...

    Raises:
        ConfigurationError: The simulator has no such option, or its value is not of the right type.
        SourceError: There is no such simulator.

    """
    parts = urlsplit(url)
    if parts.netloc not in SIMULATORS:
        known = [f'sim://{name}' for name in SIMULATORS]
        raise SourceError(f'video_device {url!r} names no simulator, expected one of {known}')
    module_name, class_name = SIMULATORS[parts.netloc]
    module = importlib.import_module(module_name)
    asked = {'framerate': request.framerate, 'image_width': request.image_width, 'image_height': request.image_height}
    options = {key: value for key, value in asked.items() if value}
    for key, text in parse_qsl(parts.query, keep_blank_values=True):
        options[key] = simulator_option(url, key, text, module.OPTIONS)
    source: Source = getattr(module, class_name)(**options)
    return source


def simulator_option(url: str, key: str, text: str, known: Mapping[str, Callable[[str], Any]]) -> Any:
    """Turn an option of a sim:// URL into its value."""
    if key not in known:
        raise ConfigurationError(f'video_device {url!r} has the option {key!r}, expected some of {list(known)}')
    try:
        return known[key](text)
    except ValueError as error:
        raise ConfigurationError(f'video_device {url!r} has {key}={text!r}, which is not usable: {error}') from error


SCHEMES: dict[str, Callable[[str, Request], Source]] = {
    'file': file_url,
    'http': network,
    'https': network,
    'rtmp': network,
    'rtsp': network,
    'rtsps': network,
    'sim': simulator,
    'srt': network,
    'tcp': network,
    'udp': network,
}


def by_scheme(scheme: str, url: str, request: Request) -> Source:
    """Make the source for a URL."""
    if scheme not in SCHEMES:
        raise SourceError(f'video_device {masked(url)!r} has the scheme {scheme!r}, expected one of {list(SCHEMES)}')
    return SCHEMES[scheme](url, request)
