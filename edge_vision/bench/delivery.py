"""How long a picture takes from one process to another, beside one copy of it in memory."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from ..errors import EdgeVisionError
from ..frames import Frame, FrameSlot, Image
from ..share import fast_dds_environment
from .figures import Row, dimensions, percentiles, printed, ratio, text, timed, times

PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
NODE = 'edge_vision.nodes.bench_node'
PATIENCE = 20.0  # s beyond the duration, then a process counts as hung


def deliveries(pictures: Iterable[Image], args: argparse.Namespace) -> Iterator[Row]:
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
    return [float(nanoseconds) / 1e6 for nanoseconds in printed(output)]


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


def cells(row: Row) -> dict[str, str]:
    """Lay one way of delivery out as text."""
    return {
        'picture': dimensions(row),
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
