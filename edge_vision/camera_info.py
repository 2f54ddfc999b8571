"""Reads camera calibration files as camera_calibration writes them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import yaml

from .errors import ConfigurationError


class Calibration(NamedTuple):
    """Intrinsics of a camera; field names are those of sensor_msgs/CameraInfo.

    Attributes:
        camera_name: The camera it was made for.
        width: Pixels.
        height: Pixels.
        distortion_model: plumb_bob, rational_polynomial or equidistant.
        d: Distortion coefficients.
        k: Camera matrix, 9 numbers by rows.
        r: Rectification matrix, 9 numbers by rows.
        p: Projection matrix, 12 numbers by rows.

    """

    camera_name: str
    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]


def load_calibration(url: str) -> Calibration:
    """Read a calibration.

    Args:
        url: ``file:///path/camera.yaml`` or a plain path.

    Raises:
        ConfigurationError: Not a file, or not a calibration.

    """
    parsed = urlparse(url)
    if parsed.scheme not in ('', 'file'):
        raise ConfigurationError(f'camera_info_url is {url!r}, expected file:///path/camera.yaml or a path')
    try:
        content = yaml.safe_load(Path(parsed.path).read_text(encoding='utf-8'))
        return Calibration(
            str(content['camera_name']),
            int(content['image_width']),
            int(content['image_height']),
            str(content['distortion_model']),
            _numbers(content, 'distortion_coefficients', None),
            _numbers(content, 'camera_matrix', 9),
            _numbers(content, 'rectification_matrix', 9),
            _numbers(content, 'projection_matrix', 12),
        )
    except OSError as error:
        raise ConfigurationError(f'camera_info_url is {url!r}, which cannot be read: {error.strerror}') from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f'camera_info_url is {url!r}, expected a calibration as camera_calibration writes it, but: {error!r}'
        ) from error


def _numbers(content: dict[str, dict[str, list[float]]], key: str, count: int | None) -> tuple[float, ...]:
    numbers = tuple(float(x) for x in content[key]['data'])
    if count is not None and len(numbers) != count:
        raise ValueError(f'{key} has {len(numbers)} numbers instead of {count}')
    return numbers
