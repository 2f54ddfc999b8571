"""The command ``edge_vision bench``: how long the frame path takes on this machine, and what cannot be taken away.

A machine that does other work measures its other work. So every figure stands beside a floor of the same run: for
the way between two processes the copying of the same picture once, for the detector its bare network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .detector import Detector
from .errors import ConfigurationError, EdgeVisionError
from .frames import Frame, FrameSlot, Image
from .runtimes import RUNTIMES, Runtime, open_runtime
from .share import CONVEYOR_MODEL, fast_dds_environment, share_file
from .simulator.source import ConveyorSource
from .yolov8 import Canvas, decode, letterbox, nms

SIZES = ((640, 480), (1920, 1080))
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
NODE = 'edge_vision.nodes.bench_node'
PATIENCE = 20.0  # s beyond the duration, then a process counts as hung

Figures = dict[str, float]


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
    add('--model', metavar='FILE', type=Path, help='YOLOv8 detection model (.onnx, .xml) [the one of the conveyor]')
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
    runtime = find_runtime(args)
    pictures = [picture(wanted) for wanted in args.size or SIZES]
    report: dict[str, Any] = {'machine': machine(), 'framerate': args.framerate, 'duration': args.duration}
    if args.json:
        save(args.json, report)  # finds out now whether it can
    show(', '.join(f'{name} {value}' for name, value in report['machine'].items()))
    show(f'{args.framerate:g} pictures/s for {args.duration:g} s per line; times are p50 and p99 in ms')
    report['delivery'] = list(shown(deliveries(pictures, args), delivery_cells))
    report['detector'] = list(shown(detections(runtime, pictures, args.duration), detector_cells)) if runtime else []
    if args.json:
        save(args.json, report)
    return 0


def machine() -> dict[str, Any]:
    """Say where and under which load this runs."""
    load = round(os.getloadavg()[0], 1)
    rmw = os.environ.get('RMW_IMPLEMENTATION') or 'default'
    return {'architecture': platform.machine(), 'cpus': os.cpu_count(), 'load': load, 'rmw': rmw}


def picture(wanted: tuple[int, int]) -> Image:
    """Draw the conveyor."""
    source = ConveyorSource(image_width=wanted[0], image_height=wanted[1])
    source.open()
    try:
        return source.read()[0]
    finally:
        source.close()


def deliveries(pictures: Iterable[Image], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Send each picture between two processes in every way that was asked for."""
    reliabilities = ['reliable', 'best_effort'] if args.reliability == 'both' else [args.reliability]
    for image in pictures:
        height, width = image.shape[:2]
        copy, slot = percentiles(copies(image)), percentiles(hand_offs(image))
        for reliability in reliabilities:
            for profile, environment in profiles().items():
                sent, received = deliver((width, height), reliability, environment, args)
                latency = percentiles(received)
                yield {
                    'size': [width, height],
                    'reliability': reliability,
                    'profile': profile,
                    'sent': len(sent),
                    'received': len(received),
                    'lost_percent': 100.0 * (1.0 - len(received) / len(sent)),
                    'latency_ms': latency,
                    'publish_ms': percentiles(sent),
                    'floor': {'copy_ms': copy, 'slot_ms': slot},
                    'latency_per_copy': ratio(latency, copy),
                }


def profiles() -> dict[str, Mapping[str, str]]:
    """Name the environments to compare: without a Fast DDS profile, and with the shipped one or the user's own."""
    without = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    if not os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps').startswith('rmw_fastrtps'):
        return {'none': without}
    shipped = fast_dds_environment()
    return {'none': without, 'shipped' if shipped else 'own': {**os.environ, **shipped}}


def deliver(
    wanted: tuple[int, int], reliability: str, environment: Mapping[str, str], args: argparse.Namespace
) -> tuple[Sequence[float], Sequence[float]]:
    """Send pictures from one process to another.

    Returns:
        How long each call to publish took, ms, and how old each picture was that arrived, ms.

    Raises:
        EdgeVisionError: A process failed.

    """
    topic = f'/edge_vision_bench_{os.getpid()}/image_raw'
    ros = ['--ros-args', '-r', f'image_raw:={topic}']
    asked = ['-p', f'qos_overrides.{topic}.subscription.reliability:={reliability}']
    sending = ['publish', *(str(number) for number in (*wanted, args.framerate, args.duration))]
    with child(['receive', *ros, *asked], environment) as receiver, child([*sending, *ros], environment) as sender:
        sent = ending(sender, args.duration + PATIENCE)
        return sent, ending(receiver, PATIENCE)


@contextmanager
def child(arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run one of the two processes; it does not outlive this."""
    command = [sys.executable, '-m', NODE, *arguments]
    process = subprocess.Popen(  # noqa: S603  our own module
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ending(process: subprocess.Popen[str], timeout: float) -> Sequence[float]:
    """Close a process's input, wait for its end and read its figures, in ms.

    Raises:
        EdgeVisionError: It failed or does not end.

    """
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise EdgeVisionError(f'a process of the bench still runs after {timeout:.0f} s, try a lower load') from error
    if process.returncode:
        raise EdgeVisionError(f'a process of the bench ended with exit code {process.returncode}, see its own message')
    return [float(nanoseconds) / 1e6 for nanoseconds in json.loads(output)]


def copies(image: Image, count: int = 50) -> list[float]:
    """Time the copying of a picture, in ms."""
    target = np.empty_like(image)
    return [timed(lambda: np.copyto(target, image)) for _ in range(count)]


def hand_offs(image: Image, count: int = 100) -> list[float]:
    """Time the way of a picture through the slot from thread to thread, in ms."""
    slot = FrameSlot()
    took: list[float] = []

    def take() -> None:
        while (frame := slot.take()) is not None:
            took.append((time.monotonic_ns() - frame.stamp_ns) / 1e6)

    taker = threading.Thread(target=take, name='bench-take')
    taker.start()
    for _ in range(count):
        slot.put(Frame(image, time.monotonic_ns(), ''))
        time.sleep(0.002)
    slot.close()
    taker.join()
    return took


def find_runtime(args: argparse.Namespace) -> Runtime | None:
    """Load the model; say so where none was given and there is no shipped one.

    Raises:
        EdgeVisionError: The model that was given is not usable.

    """
    try:
        model = args.model or share_file(CONVEYOR_MODEL)
    except ConfigurationError as error:
        show(f'detector not measured: {error}')
        return None
    return open_runtime(args.backend, model)


def detections(runtime: Runtime, pictures: Iterable[Image], duration: float) -> Iterator[dict[str, Any]]:
    """Time the stages of the detector on each picture."""
    for image in pictures:
        figures = {name: percentiles(took) for name, took in stages(runtime, image, duration).items()}
        yield {
            'size': [image.shape[1], image.shape[0]],
            'backend': runtime.name,
            'input_size': list(runtime.input_size),
            **figures,
            'detect_per_network': ratio(figures['detect_ms'], figures['network_ms']),
        }


def stages(runtime: Runtime, image: Image, duration: float) -> dict[str, list[float]]:
    """Time the network on a picture of its own size, the steps around it, and the whole detector, in turns."""
    height, width = runtime.input_size
    canvas = Canvas(np.empty((height, width, 3), np.uint8))
    detector = Detector(runtime)
    frame = Frame(image, 0, '')
    geometry, own_geometry = letterbox(frame.size, runtime.input_size), letterbox((width, height), runtime.input_size)
    canvas.draw(image, geometry)
    fitting = canvas.pixels.copy()
    anchors = runtime.infer(image, geometry, detector.confidence_threshold)

    def after() -> None:
        boxes = decode(anchors)
        geometry.to_image(boxes.take(nms(boxes, detector.nms_threshold, detector.max_detections)).xyxy)

    steps: dict[str, Callable[[], object]] = {
        'network_ms': lambda: runtime.infer(fitting, own_geometry, detector.confidence_threshold),
        'letterbox_ms': lambda: canvas.draw(image, geometry),
        'infer_ms': lambda: runtime.infer(image, geometry, detector.confidence_threshold),
        'decode_ms': after,
        'detect_ms': lambda: detector.detect(frame),
    }
    took: dict[str, list[float]] = {name: [] for name in steps}
    end = time.monotonic() + duration
    while time.monotonic() < end:
        for name, step in steps.items():
            took[name].append(timed(step))
    return took


def timed(step: Callable[[], object]) -> float:
    """Time one call, in ms."""
    started = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - started) / 1e6


def percentiles(times: Sequence[float]) -> Figures | None:
    """Give the middle and the slow end of the times; None when there are none."""
    if not times:
        return None
    p50, p99 = np.percentile(times, [50, 99])
    return {'p50': float(p50), 'p99': float(p99)}


def ratio(figures: Figures | None, floor: Figures | None) -> float | None:
    """Compare the middles."""
    return figures['p50'] / floor['p50'] if figures and floor else None


def shown(
    rows: Iterable[dict[str, Any]], cells: Callable[[dict[str, Any]], dict[str, str]]
) -> Iterator[dict[str, Any]]:
    """Print each row when it is there, the first one below a heading."""
    for i, row in enumerate(rows):
        named = cells(row)
        if i == 0:
            show('', aligned(named))
        show(aligned(named.values()))
        yield row


def delivery_cells(row: dict[str, Any]) -> dict[str, str]:
    """Lay one way of delivery out as text."""
    return {
        'picture': 'x'.join(map(str, row['size'])),
        'subscriber': row['reliability'],
        'profile': row['profile'],
        'received': f'{row["received"]}/{row["sent"]}',
        'lost': f'{row["lost_percent"]:.1f} %',
        'publish': text(row['publish_ms']),
        'latency': text(row['latency_ms']),
        'copy': text(row['floor']['copy_ms']),
        'slot': text(row['floor']['slot_ms']),
        'latency/copy': times(row['latency_per_copy']),
    }


def detector_cells(row: dict[str, Any]) -> dict[str, str]:
    """Lay the stages of the detector out as text."""
    return {
        'picture': 'x'.join(map(str, row['size'])),
        'backend': row['backend'],
        'network': text(row['network_ms']),
        'letterbox': text(row['letterbox_ms']),
        'infer': text(row['infer_ms']),
        'decode': text(row['decode_ms']),
        'detect': text(row['detect_ms']),
        'detect/network': times(row['detect_per_network']),
    }


def text(figures: Figures | None) -> str:
    """Write the two percentiles."""
    return f'{figures["p50"]:.2f} {figures["p99"]:.2f}' if figures else '-'


def times(factor: float | None) -> str:
    """Write a ratio."""
    return f'{factor:.1f}x' if factor is not None else '-'


def aligned(cells: Iterable[str]) -> str:
    """Put cells into columns."""
    return ''.join(f'{cell:<15}' for cell in cells).rstrip()


def show(*lines: str) -> None:
    """Print lines as soon as they are there."""
    sys.stdout.write('\n'.join(lines) + '\n')
    sys.stdout.flush()


def save(path: Path, report: Mapping[str, Any]) -> None:
    """Write the figures.

    Raises:
        ConfigurationError: The file cannot be written.

    """
    try:
        path.write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    except OSError as error:
        raise ConfigurationError(f'--json is {str(path)!r}, which cannot be written: {error.strerror}') from error
