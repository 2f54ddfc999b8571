"""The command ``edge_vision doctor``: what this machine can do, and how to mend what it cannot.

It changes nothing, needs no rights, and speaks to no one but the configured broker. Libraries are looked at by
processes of their own: one that crashes or hangs is a line of the page. Only the standard library is imported here,
so that there is a page where nothing is installed yet.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .. import configuration, places
from ..backends import RUNTIMES
from ..configuration import Pipeline
from ..errors import ConfigurationError
from ..params import BridgeParams, CameraParams, DecisionParams, DetectorParams, specs
from . import cameras, cloud, inference, machine, programs, ros
from .findings import FAIL, Finding, Group, ok, problem
from .page import as_dict, page

P = TypeVar('P')

LIBRARIES = ('opencv', 'cuda', *RUNTIMES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--params-file', metavar='FILE', type=Path, help='judge by what these parameters ask for')
    parser.add_argument('--model', metavar='FILE', help='YOLOv8 detection model [the one of the parameters]')
    parser.add_argument('--json', action='store_true', help='print JSON')


def run(args: argparse.Namespace) -> int:
    """Examine and report.

    Returns:
        0, or 1 when something does not work that the configured pipeline needs.

    Raises:
        ConfigurationError: The parameters file cannot be read.

    """
    groups = examine(args.params_file, args.model or '')
    if args.json:
        content = json.dumps(as_dict(groups), indent=1) + '\n'
    else:
        color = sys.stdout.isatty() and 'NO_COLOR' not in os.environ and os.environ.get('TERM') != 'dumb'
        width = shutil.get_terminal_size((100, 24)).columns
        content = page(title(args.params_file), groups, width=width, color=color)
    sys.stdout.write(content.encode(sys.stdout.encoding or 'utf-8', 'replace').decode(sys.stdout.encoding or 'utf-8'))
    return int(any(finding.status == FAIL for group in groups for finding in group.findings))


def title(params_file: Path | None) -> str:
    """Head the page."""
    stamp = time.strftime('%Y-%m-%d %H:%M %Z')
    by = str(params_file) if params_file else 'the defaults; --params-file FILE judges by yours'
    return f'{platform.node()}, {stamp}, judged by {by}'


def examine(params_file: Path | None = None, model: str = '') -> list[Group]:
    """Look at the whole machine.

    Args:
        params_file: What the user wants to run; None: nothing in particular.
        model: Model in place of the one of the parameters.

    Raises:
        ConfigurationError: The parameters file cannot be read.

    """
    pipelines = configuration.read(params_file) if params_file else (Pipeline(),)
    with ThreadPoolExecutor(max_workers=16) as pool:
        return Examination(pool, pipelines, params_file, model).groups()


class Examination:
    """All that is looked at, at the same time, and put together in the order of the page."""

    def __init__(
        self, pool: ThreadPoolExecutor, pipelines: Sequence[Pipeline], params_file: Path | None, model: str
    ) -> None:
        self._pool, self._pipelines, self._params_file = pool, pipelines, params_file
        self._detectors = {
            p: replace(d, model_file_path=model or d.model_file_path) for p, d in self._given(DetectorParams)
        }
        self._bridges = dict(self._given(BridgeParams))
        self._model_chosen = bool(model)
        self._ros = pool.submit(listed, 'ROS', ros.probe)
        self._libraries = {name: pool.submit(programs.child, name) for name in LIBRARIES}
        self._smi = pool.submit(inference.ask_gpu)
        self._brokers = {p: self._ask_broker(p) for p in self._bridges}
        self._models = {p: pool.submit(self._look_at_model, p, d) for p, d in self._detectors.items()}
        self._machine = pool.submit(listed, 'machine', machine.probe)

    def groups(self) -> list[Group]:
        """Wait for all of it."""
        parts: dict[str, Callable[[], Iterable[Finding]]] = {
            'Configuration': self._configuration,
            'Machine': self._machine.result,
            'ROS': self._ros.result,
            'Cameras': self._cameras,
            'Inference': self._inference,
            'Way to the cloud': self._cloud,
        }
        groups = [Group(name, listed(name, part)) for name, part in parts.items()]
        return [group for group in groups if group.findings]

    def _given(self, cls: type[P]) -> Iterator[tuple[int, P]]:
        """Give the parameters of a node of every pipeline, unless `configuration.check` refuses them."""
        for position, pipe in enumerate(self._pipelines):
            try:
                yield position, pipe.params(cls)
            except ConfigurationError:
                continue

    def _ask_broker(self, position: int) -> Future[dict[str, Any]]:
        known = {spec.name for spec in specs(BridgeParams)}
        given = self._pipelines[position].values(BridgeParams)
        return self._pool.submit(programs.child, 'broker', {name: given[name] for name in known & given.keys()})

    def _look_at_model(self, position: int, detector: DetectorParams) -> dict[str, Any]:
        """Ask for the model; it is opened unless TensorRT would do that."""
        cuda = self._libraries['cuda'].result()
        facts = {'cuda': cuda, 'tensorrt': self._libraries['tensorrt'].result() if 'name' in cuda else {}}
        arguments = {
            'path': detector.model_file_path,
            'open': inference.opens_on_cpu(detector, facts),
            'backend': detector.backend,
            'precision': detector.precision,
            'threads': detector.threads,
            'providers': detector.providers,
            'classes': detector.classes,
            'confidence_threshold': detector.confidence_threshold,
            'rules': self._pipelines[position].values(DecisionParams),
        }
        return programs.child('model', arguments, programs.MODEL_TIMEOUT)

    def _where(self, position: int) -> str:
        return f'{self._pipelines[position].namespace.strip("/")}: ' if len(self._pipelines) > 1 else ''

    def _needed(self, position: int, node: str) -> bool:
        return node in self._pipelines[position].configured

    def _configuration(self) -> Iterator[Finding]:
        if self._params_file is None:
            return
        for position, pipe in enumerate(self._pipelines):
            where, wrong = self._where(position), configuration.check(pipe)
            for sentence in wrong:
                yield problem('parameters', f'{where}{sentence}', f'correct {self._params_file}', needed=True)
            if not wrong:
                yield ok('parameters', f'{where}{configuration.summary(pipe)}')
                yield from self._rules(position, where)

    def _rules(self, position: int, where: str) -> Iterator[Finding]:
        given = self._pipelines[position].values(DecisionParams)
        if not any(given.get(f'{rule}.enabled', True) for rule in given.get('rules', ())):
            found = f'{where}none in force: nothing that is seen will stop anything'
            yield problem('rules', found, f'name them in {self._params_file}: rules: [...] of decision', needed=False)
        looked = self._models[position].result()
        for sentence in looked.get('unknown_classes', ()):
            found = f'{where}{sentence}: it never acts on that'
            way_out = f"correct it or the detector's classes in {self._params_file}, or take the model it is made for"
            yield problem('rules', found, way_out, needed=True)
        for sentence in looked.get('dropped_scores', ()):
            way_out = f'raise min_score or lower confidence_threshold in {self._params_file}'
            yield problem('rules', f'{where}{sentence}', way_out, needed=False)

    def _cameras(self) -> Iterator[Finding]:
        yield from cameras.probe()
        found = self._libraries['opencv'].result()
        parts = inference.built_with(found.get('build', ''))
        for position, params in self._given(CameraParams):
            needed = 'video_device' in self._pipelines[position].given.get(CameraParams.NODE, {})
            finding = cameras.source(params, 'source', needed=needed, opencv=parts)
            yield replace(finding, found=self._where(position) + finding.found)

    def _inference(self) -> Iterator[Finding]:
        facts: dict[str, dict[str, Any]] = {name: future.result() for name, future in self._libraries.items()}
        yield from inference.libraries(facts, self._smi.result(), inference.wanted_by(list(self._detectors.values())))
        for position, detector in self._detectors.items():
            if inference.works_on_gpu(facts):
                facts['engine'] = programs.child('engine', self._engine_arguments(detector))
            needed = self._model_chosen or self._needed(position, DetectorParams.NODE)
            yield from inference.model(
                self._models[position].result(),
                detector,
                facts,
                self._where(position),
                needed=needed,
                named_by='--model' if self._model_chosen else 'model_file_path',
            )

    @staticmethod
    def _engine_arguments(detector: DetectorParams) -> dict[str, Any]:
        return {
            'path': detector.model_file_path,
            'engine': detector.engine_file_path,
            'precision': detector.precision,
            'calibration': detector.calibration_directory,
            'dla_core': detector.dla_core,
        }

    def _cloud(self) -> Iterator[Finding]:
        for position, bridge in self._bridges.items():
            needed, where = self._needed(position, BridgeParams.NODE), self._where(position)
            yield cloud.broker(self._brokers[position].result(), bridge, where, needed=needed)
            yield cloud.spool(bridge, self._pipelines[position].namespace, where, needed=needed)
        wanted = inference.wanted_by(list(self._detectors.values()))
        yield cloud.engine_cache(places.engine_directory(), needed=wanted.tensorrt)


def listed(name: str, probe: Callable[[], Iterable[Finding]]) -> tuple[Finding, ...]:
    """Run a probe to its end; one that fails is a finding and leaves the rest of the page alone."""
    findings: list[Finding] = []
    try:
        findings.extend(probe())
    except Exception as error:  # noqa: BLE001  whatever this machine has come up with
        findings.append(problem(name.lower(), f'could not be looked at: {error!r}', 'please report this', needed=False))
    return tuple(findings)
