"""The process of ``edge_vision bench`` that stops again and again while its disk is well, slow or full, in turns.

It prints how long each stop took, in ns, as a JSON object of lists, when it ends::

    python -m edge_vision.nodes.bench_stop_node DIRECTORY STATE DURATION

DIRECTORY is where the spool lies, STATE the file that says how that disk behaves, as `edge_vision.bench.disk` has it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter

from ..bench.disk import Disk
from ..detections import Detections, InferenceTimes
from ..events import Event
from ..frames import Frame
from ..picture import Picture
from . import spin
from .bridge_node import BridgeNode
from .decision_node import DecisionNode

SIZE = (640, 480)
STOPS = 20  # in a row while the disk is in one state
PERIOD = 0.01  # s from frame to frame
CLEAR = 10  # frames that release whatever holds
BEHAVIOUR = {'healthy': (0.0, False), 'slow': (0.1, False), 'full': (0.0, True)}  # s per wait for the disk, full
UNREACHABLE = 9  # a port where no broker listens
PATIENCE = 15.0  # s that events may take to disk once it is well again
TIMES = InferenceTimes(1_000_000, 5_000_000)


class Stopping:
    """A decision and its bridge, composed as in the pipeline, fed with frames of its own.

    Args:
        directory: Where the spool lies.
        disk: How it behaves.

    """

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._disk = disk
        self._taken = self._stored = 0
        self._image = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
        self.bridge = BridgeNode(
            composed=True,
            parameter_overrides=[
                Parameter('spool.directory', value=str(directory)),
                Parameter('broker.port', value=UNREACHABLE),
            ],
        )
        rules = {'rules': ['red'], 'red.classes': ['red'], 'red.evidence': 'crop'}
        frames = {'red.trigger_consecutive_frames': 1, 'red.release_consecutive_frames': 1}
        self.decision = DecisionNode(
            composed=True,
            on_event=self._on_event,
            parameter_overrides=[Parameter(name, value=value) for name, value in (rules | frames).items()],
        )

    def _on_event(self, event: Event, frame: Frame | None, announce: Callable[[], None]) -> None:
        def announced() -> None:
            announce()
            self._stored += 1

        self._taken += 1
        self.bridge.accept(event, frame, announced)

    def measure(self, duration: float) -> dict[str, list[int]]:
        """Stop for so many seconds, at least once in each state of the disk; return what each stop took, ns."""
        took: dict[str, list[int]] = {name: [] for name in BEHAVIOUR}
        end = time.monotonic() + duration
        while True:
            for name, (delay, full) in BEHAVIOUR.items():
                self._settle()
                self._disk.behave(delay=delay, full=full)
                for _ in range(STOPS):
                    took[name].append(self._stop())
                    self._go()
                self._disk.behave()
            if time.monotonic() >= end:
                self._settle()
                return took

    def _settle(self) -> None:
        """Show no defect until everything that was flagged is on disk."""
        deadline = time.monotonic() + PATIENCE
        for _ in range(CLEAR):
            self._go()
        while self._stored < self._taken and time.monotonic() < deadline:
            self._go()

    def _stop(self) -> int:
        """Show a defect; return how long the decision took that stopped, ns."""
        started = time.perf_counter_ns()
        self._decide(defects=1)
        took = time.perf_counter_ns() - started
        time.sleep(PERIOD)
        return took

    def _go(self) -> None:
        self._decide(defects=0)
        time.sleep(PERIOD)

    def _decide(self, defects: int) -> None:
        stamp_ns = self.decision.get_clock().now().nanoseconds
        detections = Detections(
            stamp_ns=stamp_ns,
            frame_id='bench_optical_frame',
            xyxy=np.tile(np.array([100, 100, 300, 300], np.float32), (defects, 1)),
            score=np.full(defects, 0.9, np.float32),
            class_id=('red',) * defects,
            image_size=SIZE,
            picture=Picture(changed=True, contrast=50.0),
        )
        self.decision.decide_own(detections, Frame(self._image, stamp_ns, 'bench_optical_frame'), TIMES)


def main() -> int:
    """Measure and print."""
    directory, state, duration = sys.argv[1:]
    took: dict[str, list[int]] = {}

    def make_nodes() -> list[Node]:
        stopping = Stopping(Path(directory), Disk(Path(directory), Path(state)))

        def work() -> None:
            took.update(stopping.measure(float(duration)))
            os.kill(os.getpid(), signal.SIGTERM)

        spin.Worker('bench-stops', work)
        return [stopping.decision, stopping.bridge]

    code = spin.run(make_nodes, [sys.argv[0], '--ros-args', '--log-level', 'fatal'])  # saying it is not measured
    if not code:
        print(f'\n{json.dumps(took)}')
    return code


if __name__ == '__main__':
    sys.exit(main())
