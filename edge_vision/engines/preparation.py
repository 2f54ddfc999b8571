"""From a model to an engine that may be used: found or built, opened, and compared with the model it was made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigurationError, ModelError, RuntimeUnavailable
from ..places import engine_directory
from ..runtimes import Runtime
from ..validation import DEFAULT_TOLERANCE, check, compare, reference_runtime, sample_pictures
from . import cache, onnx_export
from .api import Api, Progress, check_device, find
from .builder import BuildOptions, build
from .cache import CachedEngine
from .device import Device

log = logging.getLogger(__name__)

DEFAULTS = BuildOptions()


class Wanted(NamedTuple):
    """An engine that may or may not be there.

    Attributes:
        model: The ONNX file that it is made of.
        identity: All that decides what is in it.
        path: Where it is kept.
        name: Of the model's file, as it was given.

    """

    model: Path
    identity: Mapping[str, Any]
    path: Path
    name: str


def this_device() -> Device | None:
    """Return the GPU of this machine; None where there is none that works."""
    try:
        return find_device()
    except RuntimeUnavailable as error:
        log.debug('no GPU: %s', error)
        return None


def find_device() -> Device:
    """Return the GPU of this machine.

    Raises:
        RuntimeUnavailable: There is none that works, or cuda-python is not installed.

    """
    try:
        from ..cuda import device  # noqa: PLC0415  cuda takes `Device` from here
    except ImportError as error:
        raise RuntimeUnavailable(
            f'cuda-python is not installed (no {error.name}), see requirements/tensorrt.txt'
        ) from error
    return device()


def machine() -> tuple[Api, Device | None]:
    """Return the library that builds here, and the GPU; None only where the library builds for any.

    Raises:
        RuntimeUnavailable: There is no such library, or it does not know the GPU or needs one.

    """
    api, device = find(to_build=True), None
    try:
        device = find_device()
    except RuntimeUnavailable as error:
        if api.name != 'tensorrt_rtx':
            raise RuntimeUnavailable(f'{api} builds for the GPU that is here, and sees none: {error}') from error
    check_device(api, device)
    return api, device


def wanted(
    model: Path,
    options: BuildOptions,
    api: Api,
    device: Device | None,
    place: Path | None = None,
    *,
    may_export: bool = True,
) -> Wanted:
    """Tell which engine a model needs here, without building it.

    Args:
        model: .onnx or .pt.
        options: What the engine is to be.
        api: What builds it.
        device: What it is for.
        place: File it is kept in; None: the cache directory.
        may_export: Export a checkpoint that has not been exported yet, which takes a while; else that is an error.

    Raises:
        EdgeVisionError: The model or the options are not usable.

    """
    source = as_onnx(model, options, may_export=may_export)
    identity = cache.identify(source, options, api, device)
    path = place or engine_directory() / f'{cache.key(identity)}.engine'
    return Wanted(source, identity, path, model.name)


def as_onnx(model: Path, options: BuildOptions, *, may_export: bool = True) -> Path:
    """Return the ONNX file of a model; of a checkpoint, one that is exported once and kept beside the engines.

    Raises:
        ConfigurationError: Ultralytics is not installed, or the directory cannot be written.
        ModelError: The file is missing or cannot be exported.

    """
    if not model.is_file():
        raise ModelError(f'model file {str(model)!r} does not exist, expected an .onnx or .pt file')
    if model.suffix.lower() == '.onnx':
        return model
    if model.suffix.lower() != '.pt':
        raise ModelError(f'model file {str(model)!r} ends in {model.suffix!r}, an engine is built from .onnx or .pt')
    what = json.dumps([cache.digest(model), options.imgsz, options.batch, onnx_export.OPSET])
    target = engine_directory() / f'{hashlib.sha256(what.encode()).hexdigest()}.onnx'
    if not may_export and not target.is_file():
        raise ModelError(
            f'model file {str(model)!r} has not been exported to ONNX yet; edge_vision build-engine does it'
        )
    with cache.locked(target):
        if not target.is_file():
            with cache.writing(target):
                onnx_export.export(model, target, imgsz=options.imgsz, batch=options.batch)
    return target


@dataclass(frozen=True, slots=True)
class Preparation:
    """What makes the engine of a model usable, in three steps: `obtain`, `opened`, `judged`.

    Attributes:
        api: What builds it.
        want: Which one it is.
        options: What it is to be.
        progress: Told what is being done and how much of it is done.

    """

    api: Api
    want: Wanted
    options: BuildOptions
    progress: Progress | None = None

    @classmethod
    def of(
        cls, model: Path, options: BuildOptions = DEFAULTS, place: Path | None = None, progress: Progress | None = None
    ) -> Preparation:
        """Tell which engine a model needs on this machine; `machine` and `wanted` say what is taken and raised."""
        api, device = machine()
        return cls(api, wanted(model, options, api, device, place), options, progress)

    def obtain(self, *, force: bool = False) -> CachedEngine:
        """Find the engine, or build it; of several processes that want the same one, one builds.

        Args:
            force: Build it anew.

        Raises:
            ConfigurationError: The options do not go with the model, or the directory cannot be written.
            ModelError: TensorRT does not take the model.
            RuntimeUnavailable: TensorRT cannot build on this machine.

        """
        want = self.want
        with cache.locked(want.path):
            engine, reason = cache.look(want.path, want.identity)
            if engine is not None and not force:
                return engine
            check_place(want.path, force=force)
            log.info(
                'building %s (%s, %s) with %s: %s; on a Jetson this takes minutes',
                want.path,
                want.name,
                self.options.precision,
                self.api,
                reason or 'asked to build it anew',
            )
            timing_cache = engine_directory() / timing_cache_name(want.identity)
            plan, report = build(want.model, self.options, self.api, progress=self.progress, timing_cache=timing_cache)
            log.info('built in %.1f s, at most %d MiB of memory', report.seconds, report.peak_memory >> 20)
            return cache.store(want.path, plan, want.identity, want.model, report, want.name)

    def opened(self, engine: CachedEngine, open_engine: Callable[[Path], Runtime]) -> CachedEngine:
        """Open the engine; one that does not open is built anew, once.

        Returns:
            The engine, with what ``open_engine`` made of it in ``runtime``.

        Raises:
            EdgeVisionError: What ``open_engine`` or `obtain` raises.

        """
        try:
            runtime = open_engine(engine.path)
        except ModelError as error:
            log.warning('%s does not open, building it anew: %s', engine.path, error)
            engine = self.obtain(force=True)
            runtime = open_engine(engine.path)
        return dataclasses.replace(engine, runtime=runtime)

    def judged(self, engine: CachedEngine, pictures: Path | None) -> CachedEngine:
        """Compare an opened engine with its model, unless its side-car says how that went.

        Args:
            engine: As `opened` gives it.
            pictures: Folder of pictures to compare on; None: rendered ones of the simulated line.

        Raises:
            ModelError: It differs too much; its side-car says so from now on.
            RuntimeUnavailable: Nothing here runs the model in fp32.

        """
        terms = {'tolerance': dataclasses.asdict(DEFAULT_TOLERANCE), 'pictures': str(pictures) if pictures else None}
        known = engine.side_car['validation']
        if known is None or known['terms'] != terms:
            known = {'terms': terms, **judge(engine.path, engine.runtime, self.want.model, pictures)}
            with cache.locked(engine.path):
                engine = cache.update(engine, validation=known)
        if not known['accepted']:
            raise refusal_of(known)
        return engine


def check_place(path: Path, *, force: bool) -> None:
    """Keep files that are no engines, or were not built here, from being written over.

    Raises:
        ConfigurationError: There is one, or the name is not that of an engine.

    """
    if path.suffix != '.engine':
        raise ConfigurationError(f'engine file {str(path)!r} ends in {path.suffix!r}, expected .engine')
    there = [file for file in (path, cache.side_car_path(path)) if file.exists()]
    ours = path.parent == engine_directory() or cache.read_side_car(path) is not None
    if there and not ours and not force:
        raise ConfigurationError(
            f'{str(there[0])!r} was made by something else and is not written over: engine {path.name!r} has no '
            'side-car of ours; give it as the model, delete it, or set force_engine_update'
        )


def timing_cache_name(identity: Mapping[str, Any]) -> str:
    """Name the file of what the builder timed, one for each library version and device."""
    parts = [identity[name] for name in ('runtime', 'runtime_version', 'device', 'compute_capability')]
    return f'timing-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.cache'


def vouch_for(engine: Path, runtime: Runtime, pictures: Path | None) -> None:
    """Compare an engine that was given as a file with its model, as far as anything is known of that.

    The verdict in its side-car counts; else an ONNX file of the same name beside it is its model; else nothing can be
    compared, and a warning says so.

    Args:
        engine: The file.
        runtime: What has opened it.
        pictures: Folder of pictures to compare on; None: rendered ones of the simulated line.

    Raises:
        ModelError: It differs too much.

    """
    side_car = cache.fitting_side_car(engine)
    verdict = side_car['validation'] if side_car is not None else None
    model = engine.with_suffix('.onnx')
    if verdict is None and model.is_file():
        verdict = judge(engine, runtime, model, pictures)
    if verdict is None:
        log.warning(
            '%s is used without a comparison with its model, which is not known; edge_vision validate makes one', engine
        )
    elif not verdict['accepted']:
        raise refusal_of(verdict)


def refusal_of(verdict: Mapping[str, Any]) -> ModelError:
    """Say why an engine is not used."""
    return ModelError(f'{verdict["refusal"]}, or set validate_engine to false to use it as it is')


def judge(engine: Path, runtime: Runtime, model: Path, pictures: Path | None) -> dict[str, Any]:
    """Compare an opened engine with its model in fp32.

    Returns:
        Whether it is accepted, the reason where it is not, and all figures.

    """
    reference = reference_runtime(model, runtime.input_size)
    agreement = compare(reference, runtime, sample_pictures(pictures))
    refusal = ''
    try:
        check(agreement, f'engine {str(engine)!r}')
    except ModelError as error:
        refusal = str(error)
    log.info('%s compared with its model on %s: %s', engine.name, reference.name, agreement)
    return {
        'accepted': not refusal,
        'refusal': refusal,
        'reference': reference.name,
        'figures': agreement.as_dict(),
        'summary': str(agreement),
    }
