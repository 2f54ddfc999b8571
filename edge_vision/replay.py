"""The command ``edge_vision replay``: rules tried on a recording, without ROS and as fast as it can be read.

The recording is looked at as the nodes look at a camera, but on a clock of its own: every frame is decided on at the
moment it was captured. So the same file, model and rules give the same answer on every machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .backends import RUNTIMES
from .capture import DEFAULT_RATE, open_source, video_length
from .configuration import Pipeline, check, read
from .decision import Cause, Decision, Outcome
from .detect import make_directory, save
from .detections import Detections
from .detector import Detector, detector_of
from .drawing import annotate
from .errors import ConfigurationError, EndOfStream
from .frames import Frame
from .params import DecisionParams, DetectorParams
from .rules import Rule, dropped_scores, rules_from_values, unknown_classes
from .runtimes import open_runtime, options_of
from .share import model_file
from .sight import Sight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('video', metavar='VIDEO', help='video file, or folder of pictures')
    parser.add_argument('--params-file', metavar='FILE', required=True, help='ROS parameters with the rules')
    parser.add_argument('--model', metavar='FILE', default='', help="detection model [the parameters file's]")
    parser.add_argument('--backend', choices=['auto', *RUNTIMES], help="what runs it [the parameters file's]")
    parser.add_argument('--framerate', type=float, metavar='HZ', help="pictures per second [the video's own]")
    parser.add_argument('--namespace', default='', help='whose parameters, where the file has several')
    parser.add_argument('--topic', default='', help='topic of detections that the video stands for [the first]')
    parser.add_argument('--json', action='store_true', help='print everything as JSON')
    parser.add_argument('--save', metavar='DIR', type=Path, help='write the picture behind each cause into DIR')


@dataclasses.dataclass(slots=True)
class Held:
    """A cause and the frames that it held for.

    Attributes:
        cause: The cause.
        from_s: When it began, s from the first frame.
        to_s: When it ended; None while it holds.
        detection: Label, score, track and corners of the best box behind it; empty where there is none.

    """

    cause: Cause
    from_s: float
    to_s: float | None = None
    detection: dict[str, Any] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            'name': self.cause.name,
            'action': self.cause.action,
            'reason': self.cause.reason,
            'from_s': round(self.from_s, 3),
            'to_s': None if self.to_s is None else round(self.to_s, 3),
            **self.detection,
        }


class Look(NamedTuple):
    """One frame of the recording and what was decided on it."""

    at_s: float
    frame: Frame
    detections: Detections
    outcome: Outcome


class Replay:
    """Decides on every frame of a recording.

    Args:
        video: Video file, or folder of pictures.
        sight: Looks at the frames.
        params: Parameters of the decision.
        rules: The rules in force.
        topic: Which of ``params.detections_topics`` the recording stands for.
        framerate: Pictures per second; 0: the recording's own.

    Attributes:
        frames: Frames decided on until now.
        stopped: Those among them after which the machine must not move.
        rate: Pictures per second.

    Raises:
        SourceError: The recording cannot be read.
        ConfigurationError: It is no recording.

    """

    def __init__(
        self,
        video: str,
        sight: Sight,
        *,
        params: DecisionParams,
        rules: tuple[Rule, ...],
        topic: str,
        framerate: float = 0.0,
    ) -> None:
        if not Path(video).expanduser().exists() or video.startswith('/dev/'):
            raise ConfigurationError(f'VIDEO is {video!r}, expected an existing video file or folder of pictures')
        self.rate = framerate or video_length(video)[1] or DEFAULT_RATE
        self.frames = self.stopped = 0
        self._source = open_source(video, framerate=math.inf)
        self._sight, self._topic = sight, topic
        self._decision = Decision(dataclasses.replace(params, detections_topics=(topic,)), rules, 0)

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Everything that holds now."""
        return self._decision.causes

    def looks(self) -> Iterator[Look]:
        """Go through the recording.

        Raises:
            SourceError: It cannot be read.
            ModelError: The model failed.

        """
        self._source.open()
        try:
            while True:
                image, _ = self._source.read()
                yield self._look(Frame(image, round(self.frames * 1e9 / self.rate) + 1, ''))
        except EndOfStream:
            return
        finally:
            self._source.close()

    def _look(self, frame: Frame) -> Look:
        detections, _, trusted = self._sight.see(frame)
        if trusted:
            outcome = self._decision.observe(self._topic, detections, frame.stamp_ns, frame.stamp_ns)
        else:
            outcome = self._decision.reject(self._topic, frame.stamp_ns)
        self.frames += 1
        self.stopped += outcome.command.stop
        return Look((frame.stamp_ns - 1) / 1e9, frame, detections, outcome)


def run(args: argparse.Namespace) -> int:
    """Replay a recording and tell what it would have done; nothing but JSON is printed with ``--json``.

    Raises:
        EdgeVisionError: The recording, the parameters or the model are not usable.

    """
    replay, detector, rules = _prepare(args)
    if args.save:
        make_directory(args.save)
    history = [Held(cause, 0.0) for cause in replay.causes]
    zones = {rule.name: rule.zone for rule in rules if rule.zone is not None}
    for look in replay.looks():
        told = list(_follow(look, history))
        if not args.json and told:
            sys.stdout.write('\n'.join(told) + '\n')
            sys.stdout.flush()
        for cause in look.outcome.started:
            if args.save and cause.box >= 0:
                picture = annotate(look.frame.image, look.detections, zones=zones, labels=detector.labels)
                save(args.save / f'{look.at_s:09.3f}_{cause.action}_{cause.name}.jpg', picture)
    _check_length(args.video, replay)
    summary = _summary(args.video, replay, history)
    if args.json:
        sys.stdout.write(json.dumps({**summary, 'causes': [held.record() for held in history]}, indent=1) + '\n')
    else:
        sys.stdout.write('\n'.join(_table(summary)) + '\n')
    return 0


def _prepare(args: argparse.Namespace) -> tuple[Replay, Detector, tuple[Rule, ...]]:
    if not args.video:
        raise ConfigurationError('VIDEO is empty, expected a video file or folder of pictures')
    if args.framerate is not None and not 0.0 < args.framerate < math.inf:
        raise ConfigurationError(f'--framerate is {args.framerate!r}, expected a number above 0')
    pipe = _pipeline(Path(args.params_file), args.namespace)
    params, rules = pipe.params(DecisionParams), rules_from_values(pipe.values(DecisionParams))
    topics = {name.strip('/'): name for name in params.detections_topics}
    topic = topics.get(args.topic.strip('/'), '') if args.topic else params.detections_topics[0]
    if not topic:
        raise ConfigurationError(f'--topic is {args.topic!r}, expected one of {list(params.detections_topics)}')
    wanted = pipe.params(DetectorParams)
    model = model_file(args.model or wanted.model_file_path)
    detector = detector_of(open_runtime(args.backend or wanted.backend, model, options_of(wanted)), wanted)
    replay = Replay(
        args.video,
        Sight(detector, tracking=wanted.tracking),
        params=params,
        rules=rules,
        topic=topic,
        framerate=args.framerate or 0.0,
    )
    _warn(*unknown_classes(rules, detector.reported), *dropped_scores(rules, wanted.confidence_threshold))
    if not any(rule.params.enabled for rule in rules):
        _warn('no rules are in force: nothing that is seen will stop anything')
    return replay, detector, rules


def _warn(*sentences: str) -> None:
    for sentence in sentences:
        sys.stderr.write(f'edge_vision: warning: {sentence}\n')


def _pipeline(path: Path, namespace: str) -> Pipeline:
    """Read what the nodes of one namespace are given, and check it as they would."""
    found = {pipe.namespace.strip('/'): pipe for pipe in read(path)}
    pipe = found.get(namespace.strip('/')) if namespace or len(found) > 1 else next(iter(found.values()))
    if pipe is None:
        names = [pipe.namespace for pipe in found.values()]
        raise ConfigurationError(f'--namespace is {namespace!r}, expected one of {names}: {str(path)!r} is for them')
    wrong = check(pipe)
    if wrong:
        raise ConfigurationError(f'--params-file {str(path)!r}: {wrong[0]}')
    return pipe


def _check_length(video: str, replay: Replay) -> None:
    """Warn of a file that ends before its header says so."""
    duration_s, rate = video_length(video)
    if replay.frames < math.floor(0.9 * duration_s * rate):
        _warn(
            f'{video!r} ends after {replay.frames} frames, its header says {round(duration_s * rate)}: is it cut off?'
        )


def _follow(look: Look, history: list[Held]) -> Iterator[str]:
    """Enter what began and ended with a frame into the history, and tell of it."""
    for cause in look.outcome.ended:
        held = next(held for held in reversed(history) if held.cause.key == cause.key)
        held.to_s = look.at_s
        yield f'{look.at_s:9.3f} s  {cause.action:<8}  ends    {cause.name}, after {look.at_s - held.from_s:.3f} s'
    for cause in look.outcome.started:
        history.append(Held(cause, look.at_s, detection=_detection(look.detections, cause.box)))
        yield f'{look.at_s:9.3f} s  {cause.action:<8}  begins  {cause.name}: {cause.reason}'


def _detection(detections: Detections, box: int) -> dict[str, Any]:
    if box < 0:
        return {}
    return {
        'class_id': detections.class_id[box],
        'score': round(float(detections.score[box]), 5),
        'track_id': detections.track_id[box],
        'xyxy': [round(v, 3) for v in detections.xyxy[box].tolist()],
    }


def _summary(video: str, replay: Replay, history: list[Held]) -> dict[str, Any]:
    """Count how often and for how long each cause held."""
    duration_s = replay.frames / replay.rate
    names: dict[str, dict[str, Any]] = {}
    for held in history:
        figures = names.setdefault(held.cause.name, {'action': held.cause.action, 'times': 0, 'held_s': 0.0})
        figures['times'] += 1
        end_s = duration_s if held.to_s is None else held.to_s
        figures['held_s'] = round(figures['held_s'] + end_s - held.from_s, 3)
    return {
        'video': video,
        'frames': replay.frames,
        'framerate': replay.rate,
        'duration_s': round(duration_s, 3),
        'stopped_s': round(replay.stopped / replay.rate, 3),
        'held': names,
    }


def _table(summary: dict[str, Any]) -> Iterator[str]:
    yield ''
    frames = '1 frame' if summary['frames'] == 1 else f'{summary["frames"]} frames'
    yield f'{frames}, {summary["duration_s"]:.1f} s at {summary["framerate"]:g} per second'
    yield f'stopped for {summary["stopped_s"]:.1f} s ({summary["stopped_s"] / summary["duration_s"]:.0%} of it)'
    for name, held in summary['held'].items():
        times = 'once' if held['times'] == 1 else f'{held["times"]} times'
        yield f'  {held["action"]:<8}  {name:<24}  {times}, {held["held_s"]:.1f} s'
