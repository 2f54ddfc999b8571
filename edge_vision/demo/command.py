"""``edge_vision demo``: the whole pipeline, watched from outside, and what came of it."""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .. import configuration
from ..backends import PRECISIONS, RUNTIMES
from ..capture import masked, video_length
from ..doctor.ros import HIGHEST_DOMAIN, SHARED_MEMORY
from ..errors import ConfigurationError
from ..params import DecisionParams
from ..rules import Rule, rules_from_values
from ..share import model_file, share_file
from .cloud import Cloud
from .line import CLOUD_SOURCE_TIMEOUT, Line, Settings
from .pictures import Stop, contact_sheet
from .processes import Child, end
from .report import COMMAND_WINDOW_NS, Run, figures, stop_events, stop_reactions, table, yearly_bill

SIMULATOR = 'sim://conveyor'
FRAMERATES = {'composed': 60.0, 'separate': 30.0}
DOMAINS = range(1, HIGHEST_DOMAIN)
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250  # of RTPS 2.5, section 9.6.2.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument('--source', default=SIMULATOR, help='device, URL, file or sim://conveyor (default)')
    parser.add_argument(
        '--model', default='', help='YOLOv8 detection model; default: the conveyor model of this package'
    )
    parser.add_argument('--params-file', default='', help='ROS parameters with the rules; default: config/demo.yaml')
    parser.add_argument('--mode', choices=('composed', 'separate'), default='composed', help='one process or four')
    parser.add_argument('--duration', type=float, default=0.0, help='seconds; default: 25, or the length of a file')
    parser.add_argument('--framerate', type=float, default=0.0, help="default: 60, separate 30, a file's own")
    parser.add_argument('--seed', type=int, default=1, help='seed of the simulated line')
    parser.add_argument('--backend', choices=('auto', *RUNTIMES), help="what runs it; default: the parameters file's")
    parser.add_argument(
        '--precision', choices=PRECISIONS, help="what it computes in; default: the parameters file's, fp32 if none"
    )
    parser.add_argument(
        '--cloud-delay',
        default='50-500',
        metavar='MS',
        help='round trip of the compared cloud, ms, as 200 or 50-500; none: no comparison',
    )
    parser.add_argument('--price-per-gb', type=float, default=0.05, help='price of moving a GB to a cloud, $')
    parser.add_argument('--broker', default='', metavar='HOST:PORT', help='MQTT broker; default: one of its own')
    parser.add_argument('--broker-port', type=int, default=0, help='port of its own broker; default: any free one')
    parser.add_argument('--report', default='', metavar='FILE.json', help='write the figures there')
    parser.add_argument('--output', default='edge_vision_demo', metavar='DIR', help='where pictures and logs go')


def run(args: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0 when everything ran; 1 when a defect was missed, a stop had no reason or an event was not delivered once.

    Raises:
        EdgeVisionError: An argument is not usable or a process failed.

    """
    settings = check(args)
    say = _printer()
    children: list[Child] = []
    try:
        host, port = _broker(args, settings, children)
        cloud = Cloud(host, port)
        line = Line(settings, cloud, host, port)
        shown = masked(settings.source)
        say(f'{shown} at {settings.framerate:g} Hz, {settings.mode}; ROS_DOMAIN_ID={settings.domain_id}')
        edge = line.run('edge')
        report = figures(edge, mode=settings.mode, model=Path(settings.model).name)
        if settings.round_trip is not None:
            say(f'The same line again, decided in a cloud {args.cloud_delay} ms away')
            remote = line.run('cloud', round_trip=settings.round_trip)
            report['cloud'] = _compared(figures(remote, mode=settings.mode, model=''), settings.round_trip)
        cloud.close()
    finally:
        end(children)
    jpeg_bytes = _mean_jpeg_bytes(settings.output / 'annotated.mp4', edge)
    avoided = yearly_bill(jpeg_bytes, report['fps'], args.price_per_gb)
    report['yearly_bill'] = {
        'avoided': round(avoided, 2),
        'price_per_gb': args.price_per_gb,
        'jpeg_bytes': round(jpeg_bytes),
    }
    sheet = _write_sheet(settings, edge, report)
    if args.report:
        Path(args.report).write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
    say(table(report))
    pictures = [str(sheet), str(settings.output / 'annotated.mp4')]
    say('\nPictures: ' + ', '.join(name for name in pictures if Path(name).exists()))
    return _verdict(report, say)


def check(args: argparse.Namespace) -> Settings:
    """Check every argument before anything is started.

    Raises:
        ConfigurationError: One is not usable.

    """
    for value, name in ((args.duration, '--duration'), (args.framerate, '--framerate')):
        if not 0 <= value < float('inf'):
            raise ConfigurationError(f'{name} is {value!r}, expected a number above 0')
    simulated = args.source.startswith('sim://')
    source = f'{SIMULATOR}?seed={args.seed}' if args.source == SIMULATOR else args.source
    model = model_file(args.model)
    if not model.is_file():
        raise ConfigurationError(
            f'--model is {str(model)!r}, which is not a file; export one with: yolo export format=onnx'
        )
    params_file = Path(args.params_file or share_file('config/demo.yaml'))
    length, own_rate = video_length(args.source)
    output = Path(args.output).resolve()
    _make_directory(output)
    if args.report:
        _check_writable(Path(args.report))
    return Settings(
        source=source,
        model=str(model.resolve()),
        params_file=params_file.resolve(),
        rules=read_rules(params_file),
        mode=args.mode,
        duration=args.duration or length or 25.0,
        recorded=Path(args.source).is_file() or Path(args.source).is_dir(),
        framerate=args.framerate or (FRAMERATES[args.mode] if simulated else own_rate),
        runtime={name: value for name in ('backend', 'precision') if (value := getattr(args, name))},
        round_trip=read_round_trip(args.cloud_delay) if simulated else None,
        output=output,
        domain_id=os.environ.get('ROS_DOMAIN_ID') or str(unused_domain()),
    )


def unused_domain(memory: Path = SHARED_MEMORY) -> int:
    """Choose a ROS domain of which Fast DDS has no shared memory: what killed processes leave can make others deaf."""
    ports = [path.name.removeprefix('fastdds_port') for path in memory.glob('fastdds_port*')]
    used = {(int(port) - FIRST_PORT) // PORTS_PER_DOMAIN for port in ports if port.isdigit()}
    return random.SystemRandom().choice([domain for domain in DOMAINS if domain not in used] or DOMAINS)


def _make_directory(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ConfigurationError(f'--output is {str(output)!r}, which cannot be written: {error.strerror}') from error


def _check_writable(path: Path) -> None:
    try:
        with path.open('a', encoding='utf-8'):
            pass
    except OSError as error:
        raise ConfigurationError(f'--report is {str(path)!r}, which cannot be written: {error.strerror}') from error


def read_rules(params_file: Path) -> tuple[Rule, ...]:
    """Read the decision node's rules from a ROS parameters file, for the pictures and to refuse bad ones early."""
    (pipe,) = configuration.read(params_file)[:1]
    pipe.params(DecisionParams)
    return rules_from_values(pipe.values(DecisionParams))


def read_round_trip(text: str) -> tuple[float, float] | None:
    """Read ``200``, ``50-500`` or ``none``; returns seconds."""
    if text.lower() in ('none', '0', 'off'):
        return None
    low, dash, high = text.partition('-')
    try:
        bounds = float(low) / 1000, float(high if dash else low) / 1000
    except ValueError:
        bounds = (-1.0, -1.0)
    if not 0 <= bounds[0] <= bounds[1] <= CLOUD_SOURCE_TIMEOUT / 2:
        raise ConfigurationError(f'--cloud-delay is {text!r}, expected milliseconds as 200 or 50-500, or none')
    return bounds


def _broker(args: argparse.Namespace, settings: Settings, children: list[Child]) -> tuple[str, int]:
    if args.broker:
        host, _, port = args.broker.rpartition(':')
        if not host or not port.isdecimal():
            raise ConfigurationError(f'--broker is {args.broker!r}, expected HOST:PORT')
        return host, int(port)
    command = ['edge_vision.demo.broker', '--port', str(args.broker_port)]
    broker = Child('broker', command, settings.output / 'broker.log', {}, pipe=True)
    children.append(broker)
    assert broker.process.stdout is not None  # noqa: S101  it was asked for
    first = broker.process.stdout.readline().decode()
    if not first.startswith('listening on '):
        broker.wait()
        broker.check()
    return '127.0.0.1', int(first.rpartition(':')[2])


def _printer() -> Callable[[str], None]:
    def say(text: str) -> None:
        print(text, flush=True)

    return say


def _compared(remote: Mapping[str, Any], round_trip: tuple[float, float]) -> dict[str, Any]:
    kept = ('duration_s', 'defects_total', 'defects_stopped', 'defects_missed', 'false_stops', 'stop_reaction_ms')
    return {'round_trip_ms': [bound * 1000 for bound in round_trip], **{name: remote[name] for name in kept}}


def _mean_jpeg_bytes(video: Path, edge: Run) -> float:
    """Weigh the pictures of the run as JPEG: the frames sent as evidence, else frames of the recorded video."""
    sizes = [len(picture) for picture in edge.pictures.values()]
    recorded = cv2.VideoCapture(str(video)) if not sizes and video.exists() else None
    while recorded is not None and len(sizes) < 10:
        readable, image = recorded.read()
        if not readable:
            break
        sizes.append(len(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]))
    return sum(sizes) / len(sizes) if sizes else 0.0


def _write_sheet(settings: Settings, edge: Run, report: Mapping[str, Any]) -> Path:
    reactions = stop_reactions(edge)
    began = min((stamp for stamp, _ in edge.seen['decided']), default=0)
    stops = []
    for event in stop_events(edge):
        data = event['data']
        picture = edge.pictures.get(event['id'])
        stops.append(
            Stop(
                image=_decode(picture) if data['evidence']['kind'] == 'frame' else None,
                rule=data['rule'],
                class_id=data['class_id'],
                score=data['score'],
                xyxy=_xyxy(data['bbox']),
                reaction_ms=reactions.get(event['id']),
                at_s=(data['stamp_ns'] - began) / 1e9,
                note=_outcome(edge.seen['truth'], data['stamp_ns']),
            )
        )
    path = settings.output / 'stops.png'
    cv2.imwrite(
        str(path),
        contact_sheet(_title(stops), _subtitles(report), stops, settings.rules),
    )
    return path


def _title(stops: Sequence[Stop]) -> str:
    """Count the stops, and the objects where several were behind one stop."""
    began = sum(stop.reaction_ms is not None for stop in stops)
    title = f'{began} stop{"s" * (began != 1)}'
    return title if began == len(stops) else f'{title} for {len(stops)} objects'


def _outcome(truth: Mapping[str, Any], stamp_ns: int) -> str:
    """Say how the part ended that a frame stopped the simulated line for."""
    parts = {part['part_id']: part for part in truth.get('parts', ())}
    for stop in truth.get('stops', ()):
        part = parts.get(stop['part_id'])
        if part is not None and 0 <= stop['stamp_ns'] - stamp_ns <= COMMAND_WINDOW_NS:
            stopped = part['outcome'] == 'stopped'
            return f'{part["gate_margin_mm"]:.0f} mm before the gate' if stopped else 'too late: it reached the gate'
    return ''


def _subtitles(report: Mapping[str, Any]) -> list[str]:
    how = f'{report["model"]} on {report["backend"]}, {report["mode"]}'
    p50 = report['stop_reaction_ms']['p50']
    took = f'half of them within {p50:.1f} ms' if p50 is not None else 'none timed'
    lines = [f'{how}: from frame to stop command as seen in another process, {took}']
    if 'cloud' in report and report['cloud']['stop_reaction_ms']['p50'] is not None:
        cloud = report['cloud']
        missed = f'{cloud["defects_missed"]} of {cloud["defects_total"]} defects missed'
        lines.append(f'decided in a cloud: {cloud["stop_reaction_ms"]["p50"]:.0f} ms, {missed}')
    return lines


def _decode(picture: bytes | None) -> Any:
    return None if picture is None else cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)


def _xyxy(bbox: Mapping[str, float]) -> tuple[float, float, float, float]:
    x, y, half_x, half_y = bbox['center_x'], bbox['center_y'], bbox['size_x'] / 2, bbox['size_y'] / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _verdict(report: Mapping[str, Any], say: Callable[[str], None]) -> int:
    faults = []
    if report['defects_missed']:
        faults.append(f'{report["defects_missed"]} defects were missed')
    if report['false_stops']:
        faults.append(f'{report["false_stops"]} stops had no reason')
    undelivered = report['events_flagged'] - report['events_delivered']
    if undelivered:
        faults.append(f'{undelivered} events were not delivered')
    if report['events_duplicated']:
        faults.append(f'{report["events_duplicated"]} events were delivered twice')
    if faults:
        say('\nNot good: ' + ', '.join(faults) + '.')
    return int(bool(faults))
