"""The command ``edge_vision bench``: how long the frame path takes on this machine, and what cannot be taken away.

A machine that does other work measures its other work. So every figure stands beside a floor of the same run: for
the way between two processes and for the look at the picture itself the copying of the same picture once, for the
detector its bare network, for the steps of a GPU copies of the same bytes, for the decision bare comparisons of its
numbers, for the spool a plain file, for stops while the disk is in trouble those while it is well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backends import RUNTIMES
from ..errors import ConfigurationError
from ..frames import Image
from ..runtimes import open_runtime
from ..share import model_file
from ..simulator.source import ConveyorSource
from . import decision, delivery, detector, gpu, mqtt, picture, spool
from .figures import show, shown

SIZES = ((640, 480), (1920, 1080))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add('--size', metavar='WxH', action='append', type=size, help='picture, repeatable [640x480 and 1920x1080]')
    add('--framerate', type=positive, default=30.0, help='pictures per second between the processes [%(default)s]')
    add('--duration', type=positive, default=5.0, help='seconds per line of the report [%(default)s]')
    add(
        '--reliability',
        default='both',
        choices=['reliable', 'best_effort', 'both'],
        help='what the subscriber asks for: reliable as the detector does, or best effort as rqt does [%(default)s]',
    )
    add(
        '--model',
        metavar='FILE',
        type=Path,
        help='YOLOv8 detection model (.onnx, .xml, .engine) [the one of the conveyor]',
    )
    add('--backend', default='auto', choices=['auto', *RUNTIMES], help='what runs it [%(default)s]')
    add('--json', metavar='FILE', type=Path, help='write the figures to FILE, too')


def size(text: str) -> tuple[int, int]:
    """Read a width and a height in pixels."""
    width, _, height = text.partition('x')
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 640x480')
    return int(width), int(height)


def positive(text: str) -> float:
    """Read a number above 0."""
    value = float(text)
    if not 0.0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return value


def run(args: argparse.Namespace) -> int:
    """Measure and report.

    Raises:
        EdgeVisionError: ROS is absent, a process failed, or a file is not usable.

    """
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigurationError('rclpy is not installed; source a ROS 2 distro or run scripts/setup')
    runtime = open_runtime(args.backend, model_file(args.model))
    pictures = [draw(wanted) for wanted in args.size or SIZES]
    report: dict[str, Any] = {'machine': machine(), 'framerate': args.framerate, 'duration': args.duration}
    if args.json:
        save(args.json, report)  # finds out now whether it can
    show(', '.join(f'{name} {value}' for name, value in report['machine'].items()))
    show(f'{args.framerate:g} pictures/s for {args.duration:g} s per line; times are p50 and p99 in ms')
    report['delivery'] = list(shown(delivery.deliveries(pictures, args), delivery.cells))
    report['detector'] = list(shown(detector.detections(runtime, pictures, args.duration), detector.cells))
    report['gpu'] = list(shown(gpu.steps(runtime, args), gpu.cells))
    report['picture'] = list(shown(picture.looks(pictures, args.duration), picture.cells))
    report['decision'] = list(shown(decision.decisions(args.duration), decision.cells))
    report['spool'] = list(shown(spool.insertions(args.duration), spool.cells))
    report['mqtt'] = list(shown(mqtt.sendings(args.duration), mqtt.cells))
    report['stops'] = list(shown(spool.stops(args.duration), spool.stop_cells))
    if args.json:
        save(args.json, report)
    return 0


def machine() -> dict[str, Any]:
    """Say where and under which load this runs."""
    load = round(os.getloadavg()[0], 1)
    rmw = os.environ.get('RMW_IMPLEMENTATION') or 'default'
    return {'architecture': platform.machine(), 'cpus': os.cpu_count(), 'load': load, 'rmw': rmw}


def draw(wanted: tuple[int, int]) -> Image:
    """Draw the conveyor."""
    source = ConveyorSource(image_width=wanted[0], image_height=wanted[1])
    source.open()
    try:
        return source.read()[0]
    finally:
        source.close()


def save(path: Path, report: Mapping[str, Any]) -> None:
    """Write the figures.

    Raises:
        ConfigurationError: The file cannot be written.

    """
    try:
        path.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    except OSError as error:
        raise ConfigurationError(f'--json is {str(path)!r}, which cannot be written: {error.strerror}') from error
