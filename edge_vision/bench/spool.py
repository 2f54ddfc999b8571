"""How many events per second reach the disk, beside a plain file; and how long stops take while the disk is in trouble.

What cannot be taken away is that the bytes of the events are written and that the disk is waited for. The floor does
this with a plain file, for as many events at once. A stop waits for no disk: while the disk is slow or full it should
take as long as in between, when it is well.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

from ..errors import EdgeVisionError
from ..events import BBox, Event, Evidence, event_id
from ..spool import Spool
from .disk import Disk, build
from .figures import Row, in_turns, percentiles, printed, ratio, show, text, times

BATCH = 64  # events that are stored at once
EVENTS = 100_000  # that go through the spool while its memory is watched
TARGET_PER_SECOND = 5000
TARGET_RATIO = 1.05
NODE = 'edge_vision.nodes.bench_stop_node'
PATIENCE = 60.0  # s beyond the duration, then the process counts as hung


def insertions(duration: float) -> Iterator[Row]:
    """Time the storing of events and the floor, in turns, and watch the memory."""
    with tempfile.TemporaryDirectory(prefix='edge_vision_bench_') as folder, Spool(Path(folder) / 'spool') as spool:
        events = make_events()
        with (Path(folder) / 'plain').open('wb', buffering=0) as file:
            steps = {
                'bulk': lambda: spool.append_many((event, None) for event in islice(events, BATCH)),
                'single': lambda: spool.append(next(events)),
                'file': writing(file.fileno(), events),
            }
            took = in_turns(steps, duration)
        rates = {name: 1e3 * len(ms) / sum(ms) for name, ms in took.items()}
        before, after = memory(spool, events)
    yield {
        'batch': BATCH,
        'bulk_per_second': BATCH * rates['bulk'],
        'target_per_second': TARGET_PER_SECOND,
        'single_per_second': rates['single'],
        'floor': {'file_per_second': BATCH * rates['file']},
        'file_per_bulk': rates['file'] / rates['bulk'],
        'events': EVENTS,
        'rss_mib': [before, after],
    }


def make_events() -> Iterator[Event]:
    """Make events as a rule does, for ever."""
    for i in count():
        stamp_ns = 1_795_620_896_000_000_000 + i
        yield Event(
            id=event_id(stamp_ns),
            camera='line1/left',
            rule='scratch',
            action='stop',
            phase='new',
            stamp_ns=stamp_ns,
            device_id='bench',
            class_id='scratch',
            score=0.9,
            bbox=BBox(320.0, 240.0, 64.0, 48.0),
            image=(640, 480),
            latency_ms={'capture_to_infer': 1.0, 'infer': 20.0, 'decide': 0.1, 'capture_to_command': 21.1},
            evidence=Evidence('crop'),
            frames=2,
        )


def writing(file: int, events: Iterator[Event]) -> Callable[[], object]:
    """Return a step that writes the next events to a file and waits for the disk."""

    def step() -> None:
        os.write(file, ''.join(event.to_json() for event in islice(events, BATCH)).encode())
        os.fsync(file)

    return step


def memory(spool: Spool, events: Iterator[Event]) -> tuple[float, float]:
    """Send events through a spool; return the resident MiB after the first tenth and after the last."""
    resident = []
    for part in (EVENTS // 10, EVENTS - EVENTS // 10):
        for _ in range(max(1, part // BATCH)):
            spool.append_many((event, None) for event in islice(events, BATCH))
            spool.acknowledge([stored.seq for stored in spool.pending(limit=BATCH)])
        resident.append(resident_mib())
    return resident[0], resident[1]


def resident_mib() -> float:
    """Read how much memory this process has."""
    return int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1]) * resource.getpagesize() / (1 << 20)


def stops(duration: float) -> Iterator[Row]:
    """Time stops while the disk of the bridge is well, slow and full, in turns.

    Raises:
        EdgeVisionError: The process that stops failed.

    """
    with tempfile.TemporaryDirectory(prefix='edge_vision_bench_') as folder:
        library = build(Path(folder))
        if library is None:
            show('', 'stops with a slow and a full disk not measured: there is no C compiler cc')
            return
        took = {name: [ns / 1e6 for ns in each] for name, each in stopped(Path(folder), library, duration).items()}
    healthy = percentiles(took['healthy'])
    for disk in ('slow', 'full'):
        stop = percentiles(took[disk])
        yield {
            'disk': disk,
            'stops': len(took[disk]),
            'stop_ms': stop,
            'floor': {'healthy_ms': healthy},
            'stop_per_healthy': ratio(stop, healthy),
            'target_ratio': TARGET_RATIO,
        }


def stopped(folder: Path, library: Path, duration: float) -> dict[str, list[int]]:
    """Run the process that stops; return what each stop took, ns, by the state of the disk."""
    directory, state = folder / 'spool', folder / 'state'
    environment = {**os.environ, **Disk(directory, state).environment(library)}
    command = [sys.executable, '-m', NODE, str(directory), str(state), str(duration)]
    try:
        output = subprocess.run(  # noqa: S603  our own module
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=duration + PATIENCE, check=True
        ).stdout
    except subprocess.SubprocessError as error:
        raise EdgeVisionError(f'the process that stops failed: {error}') from error
    took: dict[str, list[int]] = printed(output)
    return took


def cells(row: Row) -> dict[str, str]:
    """Lay the storing out as text."""
    before, after = row['rss_mib']
    return {
        'at once': str(row['batch']),
        'bulk/s': f'{row["bulk_per_second"]:.0f}',
        'target/s': f'{row["target_per_second"]}',
        'file/s': f'{row["floor"]["file_per_second"]:.0f}',
        'file/bulk': times(row['file_per_bulk']),
        'single/s': f'{row["single_per_second"]:.0f}',
        'events': str(row['events']),
        'memory': f'{before:.1f} {after:.1f} MiB',
    }


def stop_cells(row: Row) -> dict[str, str]:
    """Lay stops with a disk in trouble out as text."""
    factor = row['stop_per_healthy']
    return {
        'disk': row['disk'],
        'stops': str(row['stops']),
        'stop': text(row['stop_ms']),
        'healthy': text(row['floor']['healthy_ms']),
        'stop/healthy': f'{factor:.2f}x',
        'target': f'{row["target_ratio"]:.2f}x',
    }
