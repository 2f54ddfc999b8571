"""The command line: ``edge_vision <command>``, the same as ``ros2 run edge_vision <command>``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .errors import EdgeVisionError


class Command(NamedTuple):
    """A command and where it is; imported only when it is called.

    Attributes:
        module: Module of this package; it has ``add_arguments(parser)`` and ``run(args) -> int``.
        help: One line.

    """

    module: str
    help: str


COMMANDS = {
    'demo': Command('demo.command', 'run the whole pipeline on a simulated line or a source, and report'),
    'detect': Command('detect', 'detect objects in images'),
    'doctor': Command('doctor.command', 'say what this machine can do, and how to mend what it cannot'),
    'build-engine': Command('engines.command', 'build a TensorRT engine of a model for this machine, and validate it'),
    'validate': Command('validation.command', 'compare what a model or engine detects with the same model in fp32'),
    'replay': Command('replay', 'try rules on a recording: what they would have done, and when'),
    'bench': Command('bench', 'measure the frame path on this machine'),
    'cloud-sink': Command('cloud_sink', 'take events and pictures from a broker, each once, and report'),
}
NODES = {
    'camera_node': 'publish frames of a camera, stream, file or the simulator',
    'detector_node': 'detect objects in images',
    'decision_node': 'turn detections into stop and alarm commands',
    'bridge_node': 'relay flagged events to an MQTT broker',
    'pipeline': 'all four nodes in one process',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Command and its arguments; None takes the process's.

    Returns:
        Exit code: 0 done, 1 it failed, 2 the arguments are not usable.

    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv and argv[0] in NODES:
        return _run_node(argv[0], argv)
    try:
        return _run_command(argv)
    except ModuleNotFoundError as error:
        return _missing(error)
    except (EdgeVisionError, OSError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130


def _run_command(argv: Sequence[str]) -> int:
    args = _parser(argv[:1]).parse_args(argv)
    code = int(args.run(args))
    sys.stdout.flush()
    return code


def _failed(error: EdgeVisionError | OSError) -> int:
    """Say in one line what went wrong; nothing where nobody reads the output any more."""
    sentence = str(error)
    if isinstance(error, OSError) and not isinstance(error, EdgeVisionError):
        sentence = f'{error.filename!r}: {error.strerror}' if error.filename else f'output: {error.strerror}'
        if error.filename is None:  # and what is left of the output is not to be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        print(f'edge_vision: error: {sentence}', file=sys.stderr)
    return 1


def _parser(chosen: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='edge_vision', description='Vision that must act now.')
    subparsers = parser.add_subparsers(metavar='command', required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.help, description=f'{command.help[0].upper()}{command.help[1:]}.'
        )
        if name in chosen:
            module = importlib.import_module(f'.{command.module}', __package__)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    for name, text in NODES.items():
        subparsers.add_parser(name, help=f'{text} (takes --ros-args)')
    return parser


def _run_node(name: str, argv: Sequence[str]) -> int:
    if any(arg in ('-h', '--help') for arg in argv):
        print(
            f'usage: edge_vision {name} [--ros-args -p name:=value --params-file FILE -r old:=new ...]\n\n{NODES[name]}'
        )
        return 0
    if argv[1:2] not in ([], ['--ros-args']):
        print(f'edge_vision: error: arguments are {argv[1:]}, expected --ros-args before all of them', file=sys.stderr)
        return 2
    try:
        spin = importlib.import_module('.nodes.spin', __package__)
        module = importlib.import_module(f'.nodes.{name}', __package__)
    except ModuleNotFoundError as error:
        return _missing(error)
    return int(spin.run(module.make_nodes, argv))


def _missing(error: ModuleNotFoundError) -> int:
    """Say which package of others is missing; one of this package's own is a fault of ours."""
    if (error.name or '').startswith('edge_vision'):
        raise error
    way_out = 'source a ROS 2 distro, pip install -r requirements/run.txt, or run scripts/setup'
    print(f'edge_vision: error: {error.name} is not installed or too old; {way_out}', file=sys.stderr)
    return 1


def _command(name: str) -> Callable[[], int]:
    def run() -> int:
        return main([name, *sys.argv[1:]])

    return run


demo = _command('demo')
detect = _command('detect')
doctor = _command('doctor')
build_engine = _command('build-engine')
validate = _command('validate')
replay = _command('replay')
bench = _command('bench')
cloud_sink = _command('cloud-sink')
camera_node = _command('camera_node')
detector_node = _command('detector_node')
decision_node = _command('decision_node')
bridge_node = _command('bridge_node')
pipeline = _command('pipeline')

if __name__ == '__main__':
    sys.exit(main())
