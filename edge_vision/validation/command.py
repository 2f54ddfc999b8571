"""The command ``edge_vision validate``: does a model see on its runtime what it sees in fp32?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..backends import PRECISIONS, RUNTIMES
from ..errors import ConfigurationError, ModelError
from ..runtimes import Options, open_runtime
from . import Agreement, check, compare, reference_runtime, sample_pictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('candidate', metavar='CANDIDATE', type=Path, help='engine or model to be judged')
    parser.add_argument(
        '--reference', metavar='MODEL.onnx', type=Path, help='what it was made from [the .onnx file of its name]'
    )
    parser.add_argument('--pictures', metavar='DIR', type=Path, help='folder of pictures [rendered ones of the line]')
    parser.add_argument('--backend', default='auto', choices=['auto', *RUNTIMES], help='what runs it [%(default)s]')
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS, help='what it computes in [%(default)s]')
    parser.add_argument(
        '--provider', metavar='NAME', action='append', default=[], help='execution provider of ONNX Runtime, repeatable'
    )
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')


def run(args: argparse.Namespace) -> int:
    """Compare and report.

    Returns:
        0 when the candidate agrees, 1 when it does not.

    Raises:
        EdgeVisionError: A file is not usable or a runtime not available.

    """
    reference = reference_runtime(find_reference(args))
    options = Options(
        precision=args.precision, providers=tuple(args.provider), calibration=args.pictures, validate=False
    )
    candidate = open_runtime(args.backend, args.candidate, options)
    agreement = compare(reference, candidate, sample_pictures(args.pictures))
    refusal = judged(agreement, f'{args.candidate.name} on {candidate.name}')
    if args.json:
        figures = {'candidate': str(args.candidate), 'backend': candidate.name, **agreement.as_dict()}
        sys.stdout.write(json.dumps({**figures, 'agrees': not refusal, 'refusal': refusal}, indent=1) + '\n')
    else:
        sys.stdout.write(
            f'{args.candidate.name} on {candidate.name}, {args.precision}; beside it: {reference.name}, fp32\n'
        )
        sys.stdout.write('\n'.join(table(agreement)) + '\n')
        sys.stdout.write(refusal + '\n' if refusal else 'agrees with its reference\n')
    return 1 if refusal else 0


def find_reference(args: argparse.Namespace) -> Path:
    """Return the model that the candidate is compared with.

    Raises:
        ConfigurationError: There is none, or it is nothing that a CPU runs.

    """
    beside: Path = args.candidate.with_suffix('.onnx')
    if args.reference is None and args.candidate.suffix.lower() == '.engine' and not beside.is_file():
        raise ConfigurationError(
            f'{str(args.candidate)!r} has no model {beside.name!r} beside it; '
            'name the one it was made from by --reference'
        )
    reference: Path = args.reference or (beside if beside.is_file() else args.candidate)
    if reference.suffix.lower() not in ('.onnx', '.xml'):
        raise ConfigurationError(
            f'--reference is {str(reference)!r}, expected the .onnx model that {str(args.candidate)!r} was made from'
        )
    return reference


def judged(agreement: Agreement, what: str) -> str:
    """Return why the candidate is refused; empty where it is not."""
    try:
        check(agreement, what)
    except ModelError as error:
        return str(error)
    return ''


def table(agreement: Agreement) -> list[str]:
    """Lay the figures out as lines of text."""
    a = agreement
    rows = [
        ('pictures', f'{a.pictures}'),
        (f'boxes above {a.threshold:.3g}', f'{a.boxes} of the reference, {a.candidate_boxes} of the candidate'),
        ('found', f'{a.found:.2%}'),
        *((f'  {label}', f'{found} of {boxes}') for label, (boxes, found) in a.classes.items()),
        ('spurious', f'{a.spurious:.2%}'),
        ('overlap (IoU)', f'{a.mean_iou:.4f} on average, {a.min_iou:.4f} at least'),
        ('score difference', f'{a.mean_score_difference:.4f} on average, {a.max_score_difference:.4f} at most'),
        ('not finite', f'{a.malformed}'),
    ]
    return [f'{name:<24} {value}' for name, value in rows]
