"""Where pictures come from: a camera, a stream, a GStreamer pipeline, a file, a folder, or the simulator.

A new kind of source is a class that is a `Source`, and a line in `SCHEMES` if it is named by a URL.
"""

from __future__ import annotations

import atexit
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

Picture = tuple[Image, int]  # pixels, and the time of capture in ns since the epoch

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
DEFAULT_RATE = 30.0  # Hz, for files that do not name one
HIGHEST_RATE = 1000.0  # Hz; a file that claims more is wrong
LARGEST_LAG = 1.0  # s; a reader that is later than this is not caught up with
NETWORK_TIMEOUT = 5000  # ms
SHORTEST_STALL = 0.1  # s; what piled up in less is fresh enough to look at
STALL_PERIODS = 3  # pictures that must be missing
AVERAGED = 8  # pictures that the rate of a live source is estimated from
LARGEST_AGE_NS = 10 * 10**9  # an older picture has its time from another clock
V4L2_BUFFERS = 2  # one is filled while the other is read; with a single one many cameras give every second picture
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

    def read(self) -> Picture:
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


class Backlog:
    """Tells pictures of a live source that may have waited for long from those that come as they are taken.

    When the stream or this process has stood still, what piled up in sockets and drivers comes as fast as it can be
    read, and a picture of seconds ago would pass for a new one. So after a stall, and for no longer than that lasted,
    a picture is fresh only if it had to be waited for: for half the time between two pictures, as measured before.

    Where reading a picture takes longer than that, and of what waits on the other side of the network, it sees nothing.
    """

    def __init__(self) -> None:
        self.discarded = 0
        self.restart()

    def restart(self) -> None:
        """Begin with another stream."""
        self._last: float | None = None
        self._interval = 0.0
        self._period = 0.0
        self._until = 0.0

    def holds(self, asked: float, taken: float) -> bool:
        """Whether a picture may be old; those that may are counted.

        Args:
            asked: When the stream was asked for it, s of the steady clock.
            taken: When it was there.

        """
        before, self._interval = self._interval, 0.0 if self._last is None else taken - self._last
        self._last = taken
        # Two long waits in a row are a slow camera.
        if self._interval > max(SHORTEST_STALL, STALL_PERIODS * max(self._period, before)):
            self._until = taken + self._interval
            old = True  # it may be what the stall began with
        else:
            old = taken < self._until and taken - asked < self._period / 2
        if old:
            self.discarded += 1
        else:
            self._period += (self._interval - self._period) / AVERAGED
        return old


def captured_ns(position_ms: float, steady_ns: int, now_ns: int) -> int:
    """Return when a V4L2 device captured a picture, ns since the epoch; the time of reading where it does not say.

    Assumed, and not tried with a camera: OpenCV gives the time that the kernel has put on the buffer, and drivers take
    that from the monotonic clock, which is Python's steady one, as V4L2 asks of them. Those that do not (the wall
    clock, zero, a clock of the camera) show by an age that cannot be. Some drivers put it on at the beginning of the
    picture, some at its end.

    Args:
        position_ms: CAP_PROP_POS_MSEC right after the picture was grabbed.
        steady_ns: The steady clock at that moment.
        now_ns: The wall clock at that moment.

    """
    age_ns = steady_ns - round(position_ms * 1e6)
    return now_ns - age_ns if 0 <= age_ns <= LARGEST_AGE_NS else now_ns


class Capture:
    """What OpenCV has opened, and the lock that lets another thread close it.

    Args:
        name: How errors call the source.
        backlog: Judges the pictures of a live source.

    """

    def __init__(self, name: str, backlog: Backlog | None = None) -> None:
        self._name = name
        self._backlog = backlog
        self._kernel_stamps = False
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
            self._kernel_stamps = backend == cv2.CAP_V4L2
            if self._backlog is not None:
                self._backlog.restart()
        return bool(video.isOpened())

    def next(self) -> Picture | None:
        """Wait for the next picture that is fresh; None if there is none.

        Raises:
            SourceError: It is closed, or does not give BGR.

        """
        while True:
            self.check_open()  # before the lock, which a reader in a loop could keep for itself
            with self._lock:
                asked = time.monotonic()
                if self._closed or not self._video.grab():
                    return None
                if self._backlog is not None and self._backlog.holds(asked, time.monotonic()):
                    continue
                stamp_ns = self._stamp_ns()
                decoded, image = self._video.retrieve()
            if not decoded:
                return None
            if image.ndim != 3 or image.shape[2] != 3:
                raise SourceError(f'video_device {self._name!r} gives pictures of shape {image.shape}, expected BGR')
            return image, stamp_ns

    def check_open(self) -> None:
        """Raise SourceError if it is closed."""
        if self._closed:
            raise SourceError(f'video_device {self._name!r} is closed')

    def _stamp_ns(self) -> int:
        now_ns, steady_ns = time.time_ns(), time.monotonic_ns()
        if not self._kernel_stamps:
            return now_ns
        return captured_ns(self._video.get(cv2.CAP_PROP_POS_MSEC), steady_ns, now_ns)

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


class ReadAhead:
    """Takes pictures as they come and keeps the newest, so that none grows old in a buffer behind a slow reader.

    Args:
        following: Waits for a picture and returns it with its stamp; what it raises is the end.

    """

    def __init__(self, following: Callable[[], Picture]) -> None:
        self.replaced = 0
        self._following = following
        self._changed = threading.Condition()
        self._newest: Picture | None = None
        self._end: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, or begin again after the end."""
        self._newest = self._end = None
        self._thread = threading.Thread(target=self._run, name='capture-ahead', daemon=True)
        self._thread.start()

    def take(self) -> Picture:
        """Wait for a picture that was not taken yet; raise what ended them where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._end is not None)
            picture, self._newest = self._newest, None
            if picture is not None:
                return picture
            assert self._end is not None  # noqa: S101  it was waited for
            raise self._end

    def join(self) -> None:
        """Wait until the end."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._put(self._following())
        except Exception as error:  # noqa: BLE001  raised in whoever takes
            with self._changed:
                self._end = error
                self._changed.notify_all()

    def _put(self, picture: Picture) -> None:
        with self._changed:
            self.replaced += self._newest is not None
            self._newest = picture
            self._changed.notify_all()


class Stream:
    """A live source that OpenCV reads: a camera, a network stream, a GStreamer pipeline.

    A picture that may have waited somewhere is not given (`Backlog`), nor one that a newer one has replaced before it
    was read. The stamp is the kernel's for a V4L2 device, and else the time at which the picture was there to be read:
    what it took until then, in the camera, on the network or in a pipeline, is not in it.

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
        self._backlog = Backlog()
        self._capture = Capture(name, self._backlog)
        self._ahead = ReadAhead(self._following)

    @property
    def discarded(self) -> int:
        """Pictures that were not given because they may have been old."""
        return self._backlog.discarded

    @property
    def replaced(self) -> int:
        """Pictures that a newer one has replaced before they were read."""
        return self._ahead.replaced

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
        atexit.register(self.close)  # a thread that is inside of OpenCV at the very end would crash there
        self._ahead.start()

    def read(self) -> Picture:
        """Wait for a picture newer than the one before."""
        self._capture.check_open()
        return self._ahead.take()

    def close(self) -> None:
        """Stop."""
        self._capture.close()
        self._ahead.join()
        atexit.unregister(self.close)

    def _following(self) -> Picture:
        picture = self._capture.next()
        if picture is None:
            raise SourceError(f'video_device {self._name!r} gives no more pictures; was it unplugged, did it end?')
        return picture


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

    def read(self) -> Picture:
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

    def read(self) -> Picture:
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
        (cv2.CAP_PROP_BUFFERSIZE, V4L2_BUFFERS),
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
