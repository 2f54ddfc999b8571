"""Finds the files that are installed beside the code: models, configurations, launch files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .errors import ConfigurationError

PACKAGE = 'edge_vision'
CONVEYOR_MODEL = 'models/conveyor_yolov8_320.onnx'


def share_file(name: str) -> Path:
    """Find a file of this package, such as ``models/x.onnx``.

    Looks into the ament prefixes of the environment, the Python environment and the source tree, in this order.

    Raises:
        ConfigurationError: It is in none of them.

    """
    prefixes = [*os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep), sys.prefix]
    places = [Path(prefix) / 'share' / PACKAGE for prefix in prefixes if prefix]
    places.append(Path(__file__).resolve().parent.parent)
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ConfigurationError(f'{name} of {PACKAGE} is in none of {[str(p) for p in places]}; install the package again')


def model_file(given: str | Path | None) -> Path:
    """Return the model asked for; that of this package where none was.

    Raises:
        ConfigurationError: None was asked for, and the one of this package is not installed.

    """
    return Path(given).expanduser() if given else share_file(CONVEYOR_MODEL)


def fast_dds_environment() -> dict[str, str]:
    """Return the variable that gives Fast DDS the shipped profile; empty where the user has set one.

    The variable has another name since Fast DDS 3 (Kilted). Other middlewares read neither. Humble's
    ``ROS_LOCALHOST_ONLY`` would not confine the profile's transports, so there it is left out.
    """
    distro = os.environ.get('ROS_DISTRO')
    if distro == 'humble' and os.environ.get('ROS_LOCALHOST_ONLY') == '1':
        return {}
    old, new = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
    if os.environ.get(old) or os.environ.get(new):
        return {}
    name = old if distro in ('humble', 'iron', 'jazzy') else new
    return {name: str(share_file('config/fastdds.xml'))}
