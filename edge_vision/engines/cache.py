"""Engines that were built before: named by all that decides what is in them, and checked before they are used.

``<key>.engine`` is the plan as TensorRT gave it, ``<key>.json`` beside it is its side-car. The key is the SHA-256 of
the engine's identity: the model's content, runtime and version, GPU and compute capability, precision, shape and
every other option of the build.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import ConfigurationError
from ..places import ENGINE_CACHE_VARIABLE
from ..runtimes import metadata
from .api import Api
from .builder import BuildOptions, BuildReport, calibration_pictures
from .device import Device

log = logging.getLogger(__name__)

FORMAT = 2  # goes up when the same options give another engine


@dataclass(frozen=True, slots=True)
class CachedEngine:
    """An engine on disk and what is known of it.

    Attributes:
        path: The plan.
        side_car: What stands in the JSON file beside it: ``identity``, ``properties`` (the model's metadata),
            ``labels``, ``input_size``, ``report`` (seconds, memory) and ``validation`` (None: not validated yet).
        runtime: What runs it, where it was opened to be looked at.
        built: It was built just now.

    """

    path: Path
    side_car: Mapping[str, Any]
    runtime: Any = field(default=None, compare=False)
    built: bool = field(default=False, compare=False)


def identify(model: Path, options: BuildOptions, api: Api, device: Device | None) -> dict[str, Any]:
    """Collect all that decides what is in an engine.

    Args:
        model: ONNX file.
        options: Of the build.
        api: What builds.
        device: What it is built for; None: no GPU here.

    Raises:
        ConfigurationError: The calibration folder is not usable.
        ModelError: The model is damaged or not YOLOv8 detection.

    """
    size = options.imgsz or metadata.parse(metadata.read_onnx(model), model).input_size
    pictures = calibration_pictures(options) if options.precision == 'int8' and options.calibration else []
    calibration = hashlib.sha256(''.join(map(digest, pictures)).encode()).hexdigest() if pictures else None
    return {
        'format': FORMAT,
        'model': digest(model),
        'runtime': api.name,
        'runtime_version': api.version,
        'device': device.name if device else None,
        'compute_capability': list(device.compute_capability) if device else None,
        'precision': options.precision,
        'input_size': list(size),
        'batch': options.batch,
        'workspace': options.workspace,
        'dla_core': options.dla_core,
        'calibration': calibration,
    }


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    whole = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            whole.update(block)
    return whole.hexdigest()


def key(identity: Mapping[str, Any]) -> str:
    """Return the name of the engine with this identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def side_car_path(engine: Path) -> Path:
    """Return where the side-car of an engine is."""
    return engine.with_suffix('.json')


def read_side_car(engine: Path) -> dict[str, Any] | None:
    """Read the side-car of an engine; None where it is missing or damaged."""
    try:
        content = json.loads(side_car_path(engine).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    whole = isinstance(content, dict) and isinstance(content.get('identity'), dict) and 'sha256' in content
    return content if whole and isinstance(content.get('properties'), dict) else None


def fitting_side_car(engine: Path) -> dict[str, Any] | None:
    """Read the side-car of an engine if it was written for this very file; else None."""
    side_car = read_side_car(engine)
    return side_car if side_car is not None and side_car['sha256'] == digest(engine) else None


def look(path: Path, identity: Mapping[str, Any]) -> tuple[CachedEngine | None, str]:
    """Look for an engine.

    Returns:
        The engine, or None and why it cannot be used.

    """
    if not path.is_file():
        return None, 'there is none yet'
    side_car = read_side_car(path)
    if side_car is None:
        return None, 'its side-car is missing or damaged'
    if side_car['identity'] != identity:
        return None, difference(side_car['identity'], identity)
    if digest(path) != side_car['sha256']:
        return None, 'it is damaged'
    return CachedEngine(path, side_car), ''


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say in what an engine differs from the one that is wanted."""
    names = [name for name in new if old.get(name) != new[name]] or ['format']
    return 'it was built for ' + ', '.join(f'{n} {show(old.get(n))} instead of {show(new.get(n))}' for n in names)


def show(value: Any) -> str:
    """Show a value of an identity, digests by their beginning."""
    text = repr(value)
    return f'{text[:9]}…' if len(text) > 60 else text


def store(
    path: Path, plan: bytes, identity: Mapping[str, Any], model: Path, report: BuildReport, name: str = ''
) -> CachedEngine:
    """Write an engine and its side-car, so that whatever dies leaves either whole or unusable.

    Raises:
        ConfigurationError: The directory cannot be written.

    """
    properties = metadata.read_onnx(model)
    properties |= {'imgsz': str(identity['input_size']), 'batch': str(report.input_shape[0])}
    if identity['dla_core'] >= 0:
        properties['dla'] = str(identity['dla_core'])
    side_car = {
        'identity': dict(identity),
        'sha256': hashlib.sha256(plan).hexdigest(),
        'model_file': name or model.name,
        'properties': properties,
        'labels': list(metadata.parse(properties, model).labels),
        'input_size': identity['input_size'],
        'report': report.as_dict(),
        'validation': None,
    }
    engine = update(CachedEngine(path, side_car, built=True))  # first: an engine without one may be somebody else's
    with writing(path):
        durable.write(path, plan)
    return engine


def update(engine: CachedEngine, **changes: Any) -> CachedEngine:
    """Write the side-car of an engine anew, with changes.

    Raises:
        ConfigurationError: The directory cannot be written.

    """
    text = json.dumps({**engine.side_car, **changes}, indent=1, sort_keys=True)
    with writing(engine.path):
        durable.write(side_car_path(engine.path), text.encode())
    return replace(engine, side_car=json.loads(text))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on an engine; the system unlocks it when the process dies.

    Raises:
        ConfigurationError: The directory cannot be written.

    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f'{path.name}.lock').open('ab')
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info('waiting for another process that works on %s', path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what to do where an engine cannot be written.

    Raises:
        ConfigurationError: The system refuses.

    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f'engine {str(path)!r} cannot be written: {error.strerror}; '
            f'name a writable directory in {ENGINE_CACHE_VARIABLE}, or another engine file'
        ) from error
