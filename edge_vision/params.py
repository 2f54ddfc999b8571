"""The parameters of every node, each written once: type, default, meaning and bounds.

From these classes come the declaration to ROS, the check at start and on every later set, the
values the code reads, ``config/edge_vision.yaml`` and the tables in the README.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from .backends import PRECISIONS, RUNTIMES
from .errors import ConfigurationError

P = TypeVar('P')


def param(
    default: Any,
    description: str,
    *,
    name: str = '',
    bounds: tuple[float, float] | None = None,
    one_of: Sequence[str] = (),
    read_only: bool = False,
) -> Any:
    """Make a dataclass field that carries what ROS and the user need to know of a parameter.

    Args:
        default: Default value; its type is the parameter's type. Lists are given as tuples.
        description: What it means, with its unit.
        name: Parameter name where it differs from the field's (``broker.host``).
        bounds: Least and greatest number allowed, both included.
        one_of: The strings allowed.
        read_only: Whether it can only be set at start.

    """
    metadata = {'description': description, 'name': name, 'bounds': bounds, 'one_of': one_of, 'read_only': read_only}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Spec:
    """One parameter as declared by a parameters class."""

    name: str
    field: str
    default: Any
    description: str
    bounds: tuple[float, float] | None
    one_of: Sequence[str]
    read_only: bool

    def check(self, value: Any) -> Any:
        """Return ``value`` in the parameter's type; an int is taken where a float is meant.

        Raises:
            ConfigurationError: The type is wrong, or the value is out of bounds or not a choice.

        """
        checked = self._typed(value)
        if self.one_of and checked not in self.one_of:
            raise ConfigurationError(f'{self.name} is {value!r}, expected one of {list(self.one_of)}')
        if self.bounds and not self.bounds[0] <= checked <= self.bounds[1]:
            low, high = self.bounds
            raise ConfigurationError(f'{self.name} is {value!r}, expected a number from {low} to {high}')
        return checked

    def _typed(self, value: Any) -> Any:
        wanted = type(self.default)
        if wanted is tuple:
            return self._typed_list(value)
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            raise ConfigurationError(f'{self.name} is {value!r}, expected a {TYPE_NAMES[wanted]}')
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigurationError(f'{self.name} is {value!r}, expected a finite number')
        return value

    def _typed_list(self, value: Any) -> tuple[Any, ...]:
        item = float if self.name.endswith('points') else str
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ConfigurationError(f'{self.name} is {value!r}, expected a list of {TYPE_NAMES[item]}s')
        items = tuple(float(v) if item is float and type(v) is int else v for v in value)
        for v in items:
            if type(v) is not item or (isinstance(v, float) and not math.isfinite(v)):
                raise ConfigurationError(f'{self.name} holds {v!r}, expected a list of {TYPE_NAMES[item]}s')
        return items


TYPE_NAMES: dict[type, str] = {bool: 'true or false', int: 'whole number', float: 'number', str: 'string'}


def specs(cls: type, prefix: str = '') -> list[Spec]:
    """List the parameters that a parameters class declares, their names behind ``prefix``."""
    return [
        Spec(
            name=prefix + (f.metadata['name'] or f.name),
            field=f.name,
            default=f.default,
            description=f.metadata['description'],
            bounds=f.metadata['bounds'],
            one_of=f.metadata['one_of'],
            read_only=f.metadata['read_only'],
        )
        for f in dataclasses.fields(cls)
    ]


def from_values(cls: type[P], values: Mapping[str, Any], prefix: str = '') -> P:
    """Build a parameters object from parameter names and values; absent ones take their default.

    Raises:
        ConfigurationError: A value is of the wrong type, out of bounds or contradicts another.

    """
    return cls(**{s.field: s.check(values[s.name]) for s in specs(cls, prefix) if s.name in values})


def unknown_name(name: str, known: Iterable[str]) -> ConfigurationError:
    """Describe a parameter name that nobody declared, with the nearest one that somebody did."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f', did you mean {near[0]!r}?' if near else ''
    return ConfigurationError(f'{name} is not a parameter of this node{hint}')


@dataclasses.dataclass(frozen=True)
class CameraParams:
    """Parameters of the camera node; the names are those of usb_cam where it has them."""

    NODE: ClassVar[str] = 'camera'

    video_device: str = param(
        '/dev/video0',
        'V4L2 device, rtsp:// or http:// URL, GStreamer pipeline, video file, image folder or sim://conveyor',
        read_only=True,
    )
    framerate: float = param(
        30.0, 'Frames per second asked of the source; 0: its own', bounds=(0.0, 1000.0), read_only=True
    )
    image_width: int = param(640, 'Width asked of the source, pixels; 0: its own', bounds=(0, 16384), read_only=True)
    image_height: int = param(480, 'Height asked of the source, pixels; 0: its own', bounds=(0, 16384), read_only=True)
    pixel_format: str = param('', 'FourCC asked of a V4L2 device, such as MJPG or YUYV; empty: its own', read_only=True)
    camera_name: str = param('camera', 'Name of the camera, which its calibration must be for', read_only=True)
    camera_info_url: str = param('', 'Calibration file, as file:///path or path; empty: none', read_only=True)
    frame_id: str = param('camera_optical_frame', 'Optical coordinate frame of the images', read_only=True)
    loop: bool = param(False, 'Start a file or folder again at its end', read_only=True)
    reopen_period: float = param(1.0, 'Seconds between attempts to reopen a lost source', bounds=(0.05, 60.0))
    jpeg_quality: int = param(85, 'JPEG quality of image_raw/compressed', bounds=(1, 100))
    compressed_framerate: float = param(
        0.0, 'Most images per second on image_raw/compressed; 0: every one', bounds=(0.0, 1000.0)
    )


MOST_DETECTIONS = 30_000  # per frame, of any detector


@dataclasses.dataclass(frozen=True)
class DetectorParams:
    """Parameters of the detector node; the names are those of Isaac ROS where it has them."""

    NODE: ClassVar[str] = 'detector'

    model_file_path: str = param(
        '', 'Model file (.onnx, .pt, .xml, .engine); empty: the conveyor model of this package', read_only=True
    )
    backend: str = param(
        'auto',
        'Inference runtime; auto takes the first of these that works here',
        one_of=('auto', *RUNTIMES),
        read_only=True,
    )
    precision: str = param('fp32', 'Numbers that the network computes with', one_of=PRECISIONS, read_only=True)
    engine_file_path: str = param(
        '', 'TensorRT engine to use, built there if missing; empty: kept in the engine cache', read_only=True
    )
    force_engine_update: bool = param(False, 'Build the TensorRT engine anew at start', read_only=True)
    calibration_directory: str = param(
        '',
        'Folder of pictures that int8 is calibrated and an engine validated with; empty: the simulated line, no int8',
        read_only=True,
    )
    validate_engine: bool = param(
        True, "Refuse a TensorRT engine whose boxes differ from the model's in fp32", read_only=True
    )
    dla_core: int = param(
        -1, 'Deep learning accelerator that the TensorRT engine runs on; -1: the GPU', bounds=(-1, 7), read_only=True
    )
    providers: tuple[str, ...] = param(
        (), 'Execution providers of ONNX Runtime, best first; empty: CUDA where it works, else the CPU', read_only=True
    )
    threads: int = param(0, 'CPU threads for inference; 0: all', bounds=(0, 256), read_only=True)
    confidence_threshold: float = param(0.25, 'Drop detections scoring below this', bounds=(0.0, 1.0))
    nms_threshold: float = param(0.45, 'Drop boxes overlapping a better one by more than this IoU', bounds=(0.0, 1.0))
    max_detections: int = param(300, 'Most detections per frame', bounds=(1, MOST_DETECTIONS))
    classes: tuple[str, ...] = param((), 'Labels to keep; empty: all')
    tracking: bool = param(True, 'Give every object an id that it keeps from frame to frame')


OUTPUTS = ('stop', 'conveyor/run', 'cmd_vel_out', 'alarm', 'flagged', 'state', 'events')


@dataclasses.dataclass(frozen=True)
class DecisionParams:
    """Parameters of the decision node apart from its rules.

    Raises:
        ConfigurationError: There is no topic to decide on, or two that one camera would have, no such output, or half
            an image size.

    """

    NODE: ClassVar[str] = 'decision'

    detections_topics: tuple[str, ...] = param(
        ('detections',), 'Topics of vision_msgs/Detection2DArray to decide on, one per camera', read_only=True
    )
    source_timeout: float = param(0.3, 'An image older than this means stop, s', bounds=(0.01, 60.0))
    frozen_timeout: float = param(
        1.0, 'Pictures that have not changed for longer than this mean stop, s; 0: not checked', bounds=(0.0, 3600.0)
    )
    blinded_timeout: float = param(
        0.5, 'Pictures that have shown nothing for longer than this mean stop, s; 0: not checked', bounds=(0.0, 3600.0)
    )
    min_contrast: float = param(
        4.0, 'A picture shows nothing when its contrast is below this, grey levels', bounds=(0.0, 255.0)
    )
    heartbeat_rate: float = param(20.0, 'Rate at which stop is repeated, Hz', bounds=(1.0, 100.0), read_only=True)
    release_consecutive_frames: int = param(
        5, 'Fresh frames in a row that end a stop for lack of vision', bounds=(1, 10000)
    )
    outputs: tuple[str, ...] = param(OUTPUTS, 'Topics that are published', read_only=True)
    latch_file: str = param(
        '',
        'File that keeps latched and operator stops over a restart, one per decision; empty: they are forgotten',
        read_only=True,
    )
    stamped_cmd_vel: bool = param(False, 'cmd_vel_in and cmd_vel_out are TwistStamped', read_only=True)
    image_width: int = param(0, 'Image width of the zones, pixels; 0: from camera_info', bounds=(0, 16384))
    image_height: int = param(0, 'Image height of the zones, pixels; 0: from camera_info', bounds=(0, 16384))
    rules: tuple[str, ...] = param((), 'Names of the rules')

    def __post_init__(self) -> None:
        """Refuse to decide on nothing: it would never stop."""
        topics = self.detections_topics
        if not topics:
            raise ConfigurationError('detections_topics is empty, expected at least one topic to decide on')
        if len(set(topics)) < len(topics):
            raise ConfigurationError(f'detections_topics is {list(topics)}, expected every topic once')
        if len({topic.rpartition('/')[0].strip('/') for topic in topics}) < len(topics):
            raise ConfigurationError(
                f'detections_topics is {list(topics)}, expected one namespace per camera, such as left/detections'
            )
        if bool(self.image_width) != bool(self.image_height):
            raise ConfigurationError(
                f'image_width is {self.image_width} and image_height {self.image_height}, expected both or neither; '
                'give them together, as at start'
            )
        for output in self.outputs:
            if output not in OUTPUTS:
                raise ConfigurationError(f'outputs holds {output!r}, expected some of {list(OUTPUTS)}')


@dataclasses.dataclass(frozen=True)
class BridgeParams:
    """Parameters of the bridge node; the names are those of mqtt_client where it has them.

    Raises:
        ConfigurationError: Two cameras share a namespace.

    """

    NODE: ClassVar[str] = 'bridge'

    broker_host: str = param('127.0.0.1', 'MQTT broker', name='broker.host', read_only=True)
    broker_port: int = param(1883, 'Port of the broker', name='broker.port', bounds=(1, 65535), read_only=True)
    tls_enabled: bool = param(
        False,
        'Use TLS on this machine too; elsewhere it is used unless broker.allow_insecure',
        name='broker.tls.enabled',
        read_only=True,
    )
    tls_ca_certificate: str = param(
        '', "CA certificate file; empty: the system's", name='broker.tls.ca_certificate', read_only=True
    )
    tls_client_certificate: str = param(
        '', 'Client certificate file', name='broker.tls.client_certificate', read_only=True
    )
    tls_client_key: str = param('', 'Client key file', name='broker.tls.client_key', read_only=True)
    allow_insecure: bool = param(
        False, 'Allow plain MQTT to a broker that is not on this machine', name='broker.allow_insecure', read_only=True
    )
    client_id: str = param('', 'MQTT client id; empty: made of the device id', name='client.id', read_only=True)
    credentials_file: str = param(
        '', 'File with user name and password', name='client.credentials_file', read_only=True
    )
    keep_alive_interval: float = param(
        30.0, 'MQTT keep alive, s', name='client.keep_alive_interval', bounds=(1.0, 65535.0), read_only=True
    )
    topic_prefix: str = param('edge_vision', 'First segments of every MQTT topic', read_only=True)
    device_id: str = param('', "Name of this device in topics and events; empty: the host's name", read_only=True)
    spool_directory: str = param(
        '',
        'Directory of the event store; empty: edge_vision/spool in the user data directory',
        name='spool.directory',
        read_only=True,
    )
    spool_max_bytes: int = param(
        1 << 30, 'Most bytes kept on disk', name='spool.max_bytes', bounds=(1 << 16, 1 << 50), read_only=True
    )
    spool_max_age: float = param(
        604800.0, 'Oldest event kept, s', name='spool.max_age', bounds=(1.0, 3.2e8), read_only=True
    )
    max_payload_bytes: int = param(
        131072,
        'Largest picture sent, bytes; larger ones are made to fit. It does not concern events',
        bounds=(4096, 268435455),
        read_only=True,
    )
    max_events_per_second: float = param(
        0.0, 'Most events sent per second; 0: no limit', bounds=(0.0, 1e6), read_only=True
    )
    max_bytes_per_second: float = param(
        0.0, 'Most bytes sent per second; 0: no limit', bounds=(0.0, 1e12), read_only=True
    )
    delivery_order: str = param(
        'oldest_first',
        'What is sent first after an outage; stops_first: the newest stop, the other stops, then the rest',
        name='delivery.order',
        one_of=('oldest_first', 'stops_first'),
        read_only=True,
    )
    image_topics: tuple[str, ...] = param(
        ('image_raw',),
        "Topics of sensor_msgs/Image that evidence is taken from, one per camera, each beside the camera's detections; "
        'every camera in a namespace of its own',
        read_only=True,
    )
    jpeg_quality: int = param(85, 'Quality of evidence pictures', bounds=(1, 100), read_only=True)
    crop_margin: float = param(0.25, 'Margin around a crop, as a share of the box', bounds=(0.0, 10.0), read_only=True)
    blur_outside: bool = param(False, 'Blur everything outside the flagged boxes in evidence pictures', read_only=True)
    price_per_gb: float = param(
        0.05,
        'Price of moving 10⁹ bytes to a cloud, $, for the estimate in the statistics',
        bounds=(0.0, 1e6),
        read_only=True,
    )

    def __post_init__(self) -> None:
        """Refuse cameras that could not be told apart: an event names its camera by the namespace."""
        topics = list(self.image_topics)
        if len({topic[: topic.rfind('/') + 1] for topic in topics}) < len(topics):
            raise ConfigurationError(
                f'image_topics is {topics}, expected one namespace per camera, such as left/image_raw'
            )


CLASSES: dict[str, type] = {cls.NODE: cls for cls in (CameraParams, DetectorParams, DecisionParams, BridgeParams)}
ROS_OWN = ('use_sim_time', 'start_type_description_service', 'qos_overrides.')


def meant_for(cls: type, names: Iterable[str]) -> list[str]:
    """Leave out the names that ROS itself or another node of this package reads.

    A file may give parameters to all nodes (``/**``), so that each is given those of the others.
    """
    others = {spec.name for other in CLASSES.values() if other is not cls for spec in specs(other)}
    return [name for name in names if name not in others and not name.startswith(ROS_OWN)]
