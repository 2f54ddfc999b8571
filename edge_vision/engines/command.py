"""The command ``edge_vision build-engine``: an engine for this machine, and how well it sees."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..backends import PRECISIONS
from ..errors import ConfigurationError, RuntimeUnavailable
from ..runtimes import Options, Runtime, open_runtime
from . import BuildOptions, CachedEngine, Preparation

BAR = 30  # characters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('model', metavar='MODEL', type=Path, help='YOLOv8 detection model (.onnx, .pt)')
    parser.add_argument('--precision', default='fp32', choices=PRECISIONS, help='what it computes in [%(default)s]')
    parser.add_argument('--imgsz', type=positive, nargs='+', metavar='N', help="height and width [the model's]")
    parser.add_argument('--batch', type=positive, default=1, metavar='N', help='pictures at once [%(default)s]')
    parser.add_argument(
        '--workspace', type=positive, default=0, metavar='MIB', help="builder's most device memory, MiB"
    )
    parser.add_argument('--calibration', metavar='DIR', type=Path, help='pictures for int8 and for the comparison')
    parser.add_argument('--dla-core', type=int, default=-1, metavar='N', help='run it on this DLA core [the GPU]')
    parser.add_argument('--output', metavar='FILE', type=Path, help='engine file to write [in the engine cache]')
    parser.add_argument('--force', action='store_true', help='build it even if it is there')
    parser.add_argument('--no-validation', action='store_true', help='do not compare it with the model in fp32')


def positive(text: str) -> int:
    """Read a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of at least 1')
    return value


def run(args: argparse.Namespace) -> int:
    """Build, compare and report.

    Raises:
        EdgeVisionError: The engine cannot be built, or differs too much from its model.

    """
    show = Bar()
    preparation = Preparation.of(args.model, build_options(args), args.output, show)
    engine = preparation.obtain(force=args.force)
    show.end()
    sys.stdout.write('\n'.join(summary(engine)) + '\n')
    verdict = validation(args, preparation, engine)
    show.end()  # one that does not open was built anew
    sys.stdout.write(verdict + '\n')
    return 0


def build_options(args: argparse.Namespace) -> BuildOptions:
    """Turn the arguments into options.

    Raises:
        ConfigurationError: They cannot be options.

    """
    if args.imgsz and len(args.imgsz) > 2:
        raise ConfigurationError(f'--imgsz is {args.imgsz}, expected one number or a height and a width')
    imgsz = (args.imgsz[0], args.imgsz[-1]) if args.imgsz else None
    return BuildOptions(
        precision=args.precision,
        imgsz=imgsz,
        batch=args.batch,
        workspace=args.workspace << 20,
        calibration=args.calibration,
        dla_core=args.dla_core,
    )


def validation(args: argparse.Namespace, preparation: Preparation, engine: CachedEngine) -> str:
    """Compare the engine with its model where this machine can run it.

    Returns:
        What came of it.

    Raises:
        ModelError: The engine differs too much.
        RuntimeUnavailable: Nothing here runs the model in fp32.

    """
    if args.no_validation:
        return 'not validated, as asked'
    try:
        engine = preparation.opened(engine, open_engine)
    except RuntimeUnavailable as error:
        return f'NOT VALIDATED  nothing here can run it: {error.__cause__ or error}'
    engine = preparation.judged(engine, args.calibration)
    return f'validated      {engine.side_car["validation"]["summary"]}'


def open_engine(path: Path) -> Runtime:
    """Open an engine file as the detector does."""
    return open_runtime('tensorrt', path, Options(validate=False))


def summary(engine: CachedEngine) -> list[str]:
    """Lay out what the engine is and what it took."""
    identity, report = engine.side_car['identity'], engine.side_car['report']
    gpu, target = report['peak_gpu_memory'], identity['device'] or 'any device of its library (no GPU here)'
    shape = 'x'.join(map(str, report['input_shape']))
    memory = '' if gpu is None else f', {gpu >> 20} MiB of the GPU'
    return [
        f'engine         {engine.path}' + ('' if engine.built else ' (was there)'),
        f'made of        {engine.side_car["model_file"]}, {shape}, {identity["precision"]}',
        f'made for       {target}, {identity["runtime"]} {identity["runtime_version"]}',
        f'size           {report["size"] / 1e6:.1f} MB',
        f'took           {report["seconds"]:.1f} s, at most {report["peak_memory"] >> 20} MiB of memory{memory}',
    ]


class Bar:
    """Shows on a terminal how far a build is; in a file, every tenth of it."""

    def __init__(self) -> None:
        self.shown = False
        self._last = -1

    def __call__(self, name: str, share: float) -> None:
        """Show what is being done and how much of it is done."""
        terminal = sys.stderr.isatty()
        step = int(share * (100 if terminal else 10))
        if step == self._last:
            return
        self.shown, self._last = True, step
        filled = int(share * BAR)
        line = f'[{"#" * filled}{"." * (BAR - filled)}] {share:4.0%} {name}'
        sys.stderr.write(f'\r{line:<79.79}' if terminal else f'{line}\n')
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self.shown and sys.stderr.isatty():
            sys.stderr.write('\n')
        self.shown = False
