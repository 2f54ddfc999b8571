"""The demo's line: its processes, run between a source, an observer and a cloud."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import EdgeVisionError
from ..rules import Rule
from ..share import fast_dds_environment
from .cloud import Cloud
from .processes import Child, end
from .report import Run

RECORDED_RATE = 15.0  # pictures per second in the annotated video
VIDEO_TIMEOUT = 180.0  # s for writing it
START_TIMEOUT = 600.0  # s until the first frame is decided: before it, an engine may have to be built
PATIENCE = 10.0  # s after which it is told what is waited for
DELIVERY_TIMEOUT = 10.0  # s for the last events to reach the cloud
NODES = ('camera', 'detector', 'decision', 'bridge')
CLOUD_SOURCE_TIMEOUT = 5.0  # s; with the edge's limit a cloud's answers would all be too old


class Settings(NamedTuple):
    """Checked arguments.

    ``recorded`` is a source that is a file, in which a still is no frozen camera; ``runtime`` has those parameters of
    the detector that stand in place of the file's.
    """

    source: str
    recorded: bool
    model: str
    params_file: Path
    rules: tuple[Rule, ...]
    mode: str
    duration: float
    framerate: float
    runtime: Mapping[str, str]
    round_trip: tuple[float, float] | None
    output: Path
    domain_id: str


class Line:
    """Runs the pipeline between its source, the observer and the cloud."""

    def __init__(self, settings: Settings, cloud: Cloud, host: str, port: int) -> None:
        self._settings, self._cloud, self._broker = settings, cloud, (host, port)

    def run(self, name: str, *, round_trip: tuple[float, float] | None = None) -> Run:
        """Run the line for the duration.

        Args:
            name: Names logs and spool.
            round_trip: Least and greatest delay put into the decision, s; None decides at the edge.

        Raises:
            EdgeVisionError: A process of it failed.

        """
        self._cloud.start_over()
        output = self._settings.output
        seen_file = output / f'{name}.json'
        seen_file.unlink(missing_ok=True)
        shutil.rmtree(output / f'{name}_spool', ignore_errors=True)
        observer = self._start_observer(name, seen_file)
        watchers = [observer]
        if round_trip is None:
            watchers.append(self._start_recorder(name))
        nodes: list[Child] = []
        try:
            nodes = self._start_nodes(name, round_trip)
            self._watch(observer, [*watchers, *nodes])
            end([node for node in nodes if node.name != 'bridge'])
            end(nodes)
            end([observer])
            end(watchers, VIDEO_TIMEOUT)
            run = self._collect(seen_file)
        finally:
            end([*nodes, *watchers])
        return run

    def _environment(self) -> dict[str, str]:
        """Keep the demo's ROS to itself: a domain of its own, on this machine only."""
        environment = {'ROS_DOMAIN_ID': self._settings.domain_id, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        if os.environ.get('ROS_DISTRO') == 'humble':
            environment['ROS_LOCALHOST_ONLY'] = '1'
        return {**environment, **fast_dds_environment()}

    def _start(self, name: str, run_name: str, arguments: Sequence[str], *, pipe: bool = False) -> Child:
        log = self._settings.output / f'{run_name}_{name}.log'
        command = ['edge_vision.nodes', *arguments]
        return Child(name, command, log, self._environment(), pipe=pipe)

    def _start_observer(self, run_name: str, seen_file: Path) -> Child:
        return self._start(
            'observer', run_name, ['observer_node', '--ros-args', '-p', f'output:={seen_file}'], pipe=True
        )

    def _start_recorder(self, run_name: str) -> Child:
        zones = [
            f'{rule.name}: {" ".join(str(v) for v in rule.params.points)}'
            for rule in self._settings.rules
            if rule.params.points
        ]
        arguments = [
            '-p',
            f'output:={self._settings.output / "annotated.mp4"}',
            '-p',
            f'framerate:={RECORDED_RATE}',
            '-p',
            f'zones:={json.dumps(zones or [""])}',
        ]
        return self._start('recorder', run_name, ['recorder_node', '--ros-args', *arguments])

    def _start_nodes(self, run_name: str, round_trip: tuple[float, float] | None) -> list[Child]:
        parameters = self._parameters(run_name, remote=round_trip is not None)
        common = ['--params-file', str(self._settings.params_file)]
        if self._settings.mode == 'composed':
            chosen = [p for node in NODES for p in parameters[node]]
            nodes = [self._start('pipeline', run_name, ['pipeline', '--ros-args', *common, *chosen])]
        else:
            nodes = [
                self._start(node, run_name, [f'{node}_node', '--ros-args', *common, *parameters[node]])
                for node in reversed(NODES)
            ]
        if round_trip is not None:
            delays = ['-p', f'round_trip_min:={round_trip[0]}', '-p', f'round_trip_max:={round_trip[1]}']
            nodes.append(self._start('cloud_link', run_name, ['cloud_link_node', '--ros-args', *delays]))
        return nodes

    def _parameters(self, run_name: str, *, remote: bool) -> dict[str, list[str]]:
        s = self._settings
        host, port = self._broker
        values: dict[str, dict[str, object]] = {
            'camera': {'video_device': s.source, 'framerate': s.framerate, 'compressed_framerate': RECORDED_RATE},
            'detector': {'model_file_path': s.model, **s.runtime},
            'decision': {'frozen_timeout': 0.0} if s.recorded else {},
            'bridge': {
                'broker.host': host,
                'broker.port': port,
                'spool.directory': s.output / f'{run_name}_spool',
                'device_id': 'demo',
            },
        }
        if remote:
            values['decision'] = {
                'detections_topics': '["detections_via_cloud"]',
                'source_timeout': CLOUD_SOURCE_TIMEOUT,
            }
        return {
            node: [word for name, value in chosen.items() for word in ('-p', f'{node}:{name}:={value}')]
            for node, chosen in values.items()
        }

    def _watch(self, observer: Child, children: Sequence[Child]) -> None:
        """Wait for the first decided frame, then for the duration, showing what happens."""
        latest: dict[str, Any] = {}
        threading.Thread(target=_read_lines, args=(observer, latest), daemon=True).start()
        wait_for_decision(latest, children, self._settings.output)
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < self._settings.duration:
            _check_all(children)
            _show(elapsed, self._settings.duration, latest)
            time.sleep(0.25)
        _show_end()

    def _collect(self, seen_file: Path) -> Run:
        if not seen_file.exists():
            raise EdgeVisionError(f'the observer left no record; see the logs in {self._settings.output}')
        seen = json.loads(seen_file.read_text(encoding='utf-8'))
        flagged = {event['id'] for event in seen['events']}
        deadline = time.monotonic() + DELIVERY_TIMEOUT
        while flagged - self._cloud.events.keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Run(seen, self._cloud.events, self._cloud.pictures, self._cloud.duplicated, self._cloud.bytes)


def wait_for_decision(latest: Mapping[str, Any], children: Sequence[Child], logs: Path) -> None:
    """Wait until frames are decided.

    Args:
        latest: What the observer says, kept up to date by another thread.
        children: None of them may end.
        logs: Folder of what they say.

    Raises:
        EdgeVisionError: A process ended, or it takes too long.

    """
    started, told = time.monotonic(), False
    while not latest.get('fps'):
        _check_all(children)
        waited = time.monotonic() - started
        if waited > START_TIMEOUT:
            raise EdgeVisionError(f'no frame was decided within {START_TIMEOUT:.0f} s; see the logs in {logs}')
        if waited > PATIENCE and not told:
            told = True
            print(f'Waiting for source and model (building a TensorRT engine takes minutes); logs: {logs}', flush=True)
        time.sleep(0.05)


def _check_all(children: Sequence[Child]) -> None:
    for child in children:
        child.check()


def _read_lines(observer: Child, latest: dict[str, Any]) -> None:
    assert observer.process.stdout is not None  # noqa: S101  it was asked for
    for line in observer.process.stdout:
        if line.startswith(b'{'):  # Fast DDS 2.14 prints its errors there, too
            latest.update(json.loads(line))


def _show(elapsed: float, duration: float, latest: Mapping[str, Any]) -> None:
    if not sys.stdout.isatty():
        return
    reaction = latest.get('reaction_ms')
    words = [
        f'{elapsed:5.1f}/{duration:.0f} s',
        'STOP' if latest.get('stopped') else 'run ',
        f'{latest.get("fps", 0):3.0f} fps',
        f'decided after {reaction:5.1f} ms' if reaction is not None else 'nothing decided',
        f'{latest.get("events", 0)} events',
    ]
    if 'defects_stopped' in latest:
        words.append(f'{latest["defects_stopped"]} defects stopped, {latest["defects_missed"]} missed')
    print('\r' + '  '.join(words).ljust(100), end='', flush=True)


def _show_end() -> None:
    if sys.stdout.isatty():
        print('\r' + ' ' * 100 + '\r', end='')
