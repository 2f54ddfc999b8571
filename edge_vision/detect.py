"""The command ``edge_vision detect``: boxes for pictures, on the terminal, as JSON, or drawn."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from .backends import PRECISIONS, RUNTIMES
from .capture import read_picture
from .detections import Detections
from .detector import Detector
from .drawing import annotate
from .errors import ConfigurationError
from .frames import Frame, Image
from .runtimes import Options, open_runtime


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('images', metavar='IMAGE', nargs='+', type=Path, help='picture file')
    parser.add_argument('--model', metavar='FILE', required=True, help='YOLOv8 detection model, as a file or engine')
    parser.add_argument('--backend', default='auto', choices=['auto', *RUNTIMES], help='what runs it [%(default)s]')
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS, help='what it computes in [%(default)s]')
    parser.add_argument(
        '--provider', metavar='NAME', action='append', default=[], help='execution provider of ONNX Runtime, repeatable'
    )
    parser.add_argument('--confidence', type=share, default=0.25, help='drop boxes scoring below this [%(default)s]')
    parser.add_argument('--nms', type=share, default=0.45, help='drop boxes overlapping more than this [%(default)s]')
    parser.add_argument('--json', action='store_true', help='print a JSON list per picture, in the order given')
    parser.add_argument('--save', metavar='DIR', type=Path, help='write the pictures with the boxes drawn into DIR')


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 to 1')
    return value


def run(args: argparse.Namespace) -> int:
    """Detect in every picture and report; nothing is printed before all of them are done with ``--json``.

    Raises:
        EdgeVisionError: A picture, the model or the directory is not usable.

    """
    targets = saved_paths(args.images, args.save) if args.save else []
    runtime = open_runtime(args.backend, args.model, Options(precision=args.precision, providers=tuple(args.provider)))
    detector = Detector(runtime, confidence_threshold=args.confidence, nms_threshold=args.nms)
    found = []
    for i, path in enumerate(args.images):
        image = read_picture(path)
        started = time.perf_counter()
        detections = detector.detect(Frame(image, time.time_ns(), ''))
        took_ms = (time.perf_counter() - started) * 1e3
        found.append(records(detections))
        if targets:
            save(targets[i], annotate(image, detections, labels=detector.labels))
        if not args.json:
            sys.stdout.write('\n'.join(table(path, detections, took_ms)) + '\n')
    if args.json:
        sys.stdout.write('[' + ',\n '.join(json.dumps(boxes) for boxes in found) + ']\n')
    return 0


def records(detections: Detections) -> list[dict[str, Any]]:
    """Turn detections into plain values: label, score, and left, top, right, bottom in pixels."""
    rows = zip(detections.class_id, detections.score.tolist(), detections.xyxy.tolist(), strict=True)
    return [
        {'class_id': class_id, 'score': round(score, 5), 'xyxy': [round(v, 3) for v in xyxy]}
        for class_id, score, xyxy in rows
    ]


def table(path: Path, detections: Detections, took_ms: float) -> Iterator[str]:
    """Lay detections out as lines of text."""
    width, height = detections.image_size or (0, 0)
    noun = 'object' if len(detections) == 1 else 'objects'
    yield f'{path}  {width}x{height}  {len(detections)} {noun}  {took_ms:.1f} ms'
    for class_id, score, xyxy in zip(detections.class_id, detections.score, detections.xyxy, strict=True):
        corners = ' '.join(f'{v:7.1f}' for v in xyxy)
        yield f'  {class_id:<20} {score:.3f}  {corners}'


def saved_paths(images: Sequence[Path], directory: Path) -> list[Path]:
    """Name the drawn pictures, never over a picture that was read, and make their directory.

    Raises:
        ConfigurationError: The directory is not writable, or two pictures would get the same name.

    """
    targets = [directory / f'{path.stem}_detections{path.suffix}' for path in images]
    for i, target in enumerate(targets):
        if target in targets[:i]:
            raise ConfigurationError(f'--save would write {str(target)!r} twice, expected pictures of different names')
    make_directory(directory)
    return targets


def make_directory(directory: Path) -> None:
    """Make the directory that pictures are saved in.

    Raises:
        ConfigurationError: It cannot be made.

    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f'--save is {str(directory)!r}, which cannot be made: {error.strerror}') from error


def save(path: Path, image: Image) -> None:
    """Write a picture.

    Raises:
        ConfigurationError: The file cannot be written.

    """
    try:
        written = cv2.imwrite(str(path), image)
    except cv2.error:
        written = False
    if not written:
        raise ConfigurationError(f'--save cannot write {str(path)!r}, expected a writable directory')
