"""``python -m edge_vision.doctor.child PROBE``: looks at a library that could crash or hang, and prints what it found.

Libraries are imported by name here: to find out whether they can be is the purpose.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ..backends import RUNTIMES
from ..share import model_file

Found = dict[str, Any]

MESSAGES = ('diagnostic_msgs', 'geometry_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs')
TENSORRT_PROVIDER = 'TensorrtExecutionProvider'
ROS_PACKAGES = (*(f'{name}.msg' for name in MESSAGES[:-1]), 'std_srvs.srv', 'vision_msgs.msg', 'cv_bridge')


def ros(_arguments: Mapping[str, Any]) -> Found:
    """Import what the nodes import, and name the middleware."""
    importlib.import_module('rclpy')
    missing = [name.partition('.')[0] for name in ROS_PACKAGES if trouble(name)]
    implementation = importlib.import_module('rclpy.utilities').get_rmw_implementation_identifier()
    return {'version': version('ros-rclpy', 'rclpy'), 'rmw': implementation, 'missing': missing}


def opencv(_arguments: Mapping[str, Any]) -> Found:
    """Import OpenCV and read what it was built with."""
    cv2 = importlib.import_module('cv2')
    numpy = importlib.import_module('numpy')
    return {'version': cv2.__version__, 'numpy': numpy.__version__, 'build': cv2.getBuildInformation()}


def openvino(_arguments: Mapping[str, Any]) -> Found:
    """Import OpenVINO and ask it for its devices."""
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]  # it would report to a web service
    library = importlib.import_module('openvino')
    core = library.Core()
    return {
        'version': version('openvino'),
        'devices': list(core.available_devices),
        'capabilities': list(core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')),
    }


def onnxruntime(_arguments: Mapping[str, Any]) -> Found:
    """Import ONNX Runtime and ask it for its execution providers."""
    library = importlib.import_module('onnxruntime')
    return {'version': library.__version__, 'providers': list(library.get_available_providers())}


def tensorrt(_arguments: Mapping[str, Any]) -> Found:
    """Find the TensorRT library that would be used."""
    api = importlib.import_module('edge_vision.engines.api').find()
    return {'name': api.name, 'version': api.version, 'can_build': api.can_build}


def cuda(_arguments: Mapping[str, Any]) -> Found:
    """Ask CUDA for the GPU, and whether the kernels can be compiled for it."""
    found: Found = {'version': version('cuda-bindings', 'cuda-python')}
    importlib.import_module('cuda')
    gpu = importlib.import_module('edge_vision.cuda').gpu()
    gpu.use()
    importlib.import_module('edge_vision.cuda.kernels').kernels()
    device = gpu.device
    found['name'] = device.name
    found['compute_capability'] = list(device.compute_capability)
    found['integrated'] = device.integrated
    found['total_memory'] = device.total_memory
    return found


def broker(arguments: Mapping[str, Any]) -> Found:
    """Connect to the broker of a bridge's parameters."""
    params = importlib.import_module('edge_vision.params')
    broker_of = importlib.import_module('edge_vision.doctor.broker')
    settings = broker_of.settings(params.from_values(params.BridgeParams, arguments))
    return {'protocol': broker_of.knock(settings), 'tls': settings.uses_tls}


def model(arguments: Mapping[str, Any]) -> Found:
    """Read what a model says about itself, open it where that is asked for, and compare the rules with it."""
    path = model_file(arguments.get('path'))
    try:
        found = described(path)
        if arguments.get('open'):
            found |= opened(path, arguments)
    except OSError as error:
        return {'trouble': f'model file {str(path)!r} cannot be read: {error.strerror}', 'kind': type(error).__name__}
    return found | misfits(arguments, found['labels'])


def described(path: Path) -> Found:
    """Read what a model says about itself, without loading it."""
    importlib.import_module('edge_vision.runtimes').check_file(path)
    found: Found = {'name': path.name, 'suffix': path.suffix.lower(), 'labels': [], 'input_size': None}
    properties = properties_of(path)
    if properties is not None:
        said = importlib.import_module('edge_vision.runtimes.metadata').parse(properties, path)
        found |= {'labels': said.labels, 'input_size': said.input_size}
    return found


def opened(path: Path, arguments: Mapping[str, Any]) -> Found:
    """Open a model as the detector would, but never with TensorRT: that would build an engine.

    Returns:
        The runtime and what it says of the model, or why none takes it.

    """
    runtimes = importlib.import_module('edge_vision.runtimes')
    backend, providers = arguments['backend'], tuple(arguments['providers'])
    RUNTIMES.pop('tensorrt')  # of this process only
    try:
        if TENSORRT_PROVIDER in providers:
            backend, providers = 'onnxruntime', without_tensorrt(providers)
        options = runtimes.Options(precision=arguments['precision'], threads=arguments['threads'], providers=providers)
        runtime = runtimes.open_runtime(backend, path, options)
        importlib.import_module('edge_vision.detector').Detector(runtime, classes=arguments['classes'])
    except importlib.import_module('edge_vision.errors').EdgeVisionError as error:
        return {'refusal': sentence(error), 'kind': type(error).__name__}
    return {'runtime': runtime.name, 'labels': runtime.labels, 'input_size': runtime.input_size}


def without_tensorrt(providers: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out the provider that builds an engine when it is opened; what it is named with is checked all the same."""
    library = importlib.import_module('onnxruntime')
    runtime = importlib.import_module('edge_vision.runtimes.onnxruntime')
    runtime.check_providers(providers, library.get_available_providers())
    return tuple(name for name in providers if name != TENSORRT_PROVIDER)


def misfits(arguments: Mapping[str, Any], labels: Sequence[str]) -> Found:
    """Find what rules ask for and the detector does not report; rules that are wrong are told elsewhere.

    Args:
        arguments: Rules, and the detector's classes and threshold.
        labels: The model's labels; none where they are not known.

    """
    detector, rules = importlib.import_module('edge_vision.detector'), importlib.import_module('edge_vision.rules')
    try:
        in_force = rules.rules_from_values(arguments.get('rules', {}))
    except importlib.import_module('edge_vision.errors').ConfigurationError:
        return {}
    reported = detector.kept(labels, arguments.get('classes', ()))
    return {
        'unknown_classes': rules.unknown_classes(in_force, reported) if reported else [],
        'dropped_scores': rules.dropped_scores(in_force, arguments.get('confidence_threshold', 0.0)),
    }


def properties_of(path: Path) -> Mapping[str, str] | None:
    """Read a model's metadata; None where it has none or reading it takes a library."""
    if path.suffix.lower() == '.onnx':
        read: Mapping[str, str] = importlib.import_module('edge_vision.runtimes.metadata').read_onnx(path)
        return read
    if path.suffix.lower() == '.engine':
        inside: Mapping[str, str] | None = importlib.import_module('edge_vision.engines.files').read(path).properties
        return inside
    return None


def engine(arguments: Mapping[str, Any]) -> Found:
    """Look for the engine that the detector would use."""
    preparation = importlib.import_module('edge_vision.engines.preparation')
    options = importlib.import_module('edge_vision.engines.builder').BuildOptions(
        precision=arguments['precision'],
        calibration=Path(arguments['calibration']).expanduser() if arguments['calibration'] else None,
        dla_core=arguments['dla_core'],
    )
    place = Path(arguments['engine']).expanduser() if arguments['engine'] else None
    api = preparation.find(to_build=True)
    path = model_file(arguments.get('path'))
    want = preparation.wanted(path, options, api, preparation.this_device(), place, may_export=False)
    kept, reason = preparation.cache.look(want.path, want.identity)
    return {
        'model': str(path),
        'path': str(want.path),
        'reason': reason,
        'validation': kept.side_car.get('validation') if kept else None,
    }


PROBES: dict[str, Callable[[Mapping[str, Any]], Found]] = {
    'ros': ros,
    'opencv': opencv,
    'openvino': openvino,
    'onnxruntime': onnxruntime,
    'tensorrt': tensorrt,
    'cuda': cuda,
    'broker': broker,
    'model': model,
    'engine': engine,
}


def runtime(name: str) -> Found:
    """Import an inference runtime that no other probe is about."""
    importlib.import_module(f'edge_vision.runtimes.{RUNTIMES[name].module}')
    return {}


def trouble(module: str) -> str:
    """Say why a module cannot be imported; '' where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # noqa: BLE001  whatever is wrong with a library of others
        return sentence(error)
    return ''


def version(*packages: str) -> str:
    """Find the version of the first package that is installed; '' where none is, or it does not say."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ''


def sentence(error: BaseException) -> str:
    """Say in one line what an exception says."""
    return ' '.join(str(error).split()) or type(error).__name__


def main(argv: list[str]) -> int:
    """Run a probe and print one line of JSON.

    Returns:
        0, whether or not there was trouble: that is in the answer.

    """
    logging.disable()
    try:
        found = PROBES[argv[0]](json.loads(argv[1])) if argv[0] in PROBES else runtime(argv[0])
    except ModuleNotFoundError as error:
        found = {'trouble': sentence(error), 'missing_module': error.name or ''}
    except Exception as error:  # noqa: BLE001  whatever is wrong with a library of others
        found = {'trouble': sentence(error), 'kind': type(error).__name__}
    sys.stdout.write('\n' + json.dumps(found) + '\n')  # on a line of its own: libraries print, too
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
