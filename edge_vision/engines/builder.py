"""From an ONNX model to the plan of an engine."""

from __future__ import annotations

import logging
import re
import resource
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import durable
from ..backends import PRECISIONS
from ..capture import list_pictures, read_picture
from ..errors import ConfigurationError, ModelError, RuntimeUnavailable
from ..runtimes import metadata
from . import conversion
from .api import Api, Progress, make_logger, make_monitor

log = logging.getLogger(__name__)

MIB = 1 << 20
STRIDE = 32  # pixels of the network input between the anchors of its coarsest level


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What an engine is to be.

    Attributes:
        precision: 'fp32', 'fp16' or 'int8'.
        imgsz: Height and width of the network input in pixels; None: what the model says.
        batch: Pictures at once; an engine of a model with a free batch takes fewer too.
        workspace: Most device memory that the builder may use, bytes; 0: TensorRT's own limit.
        calibration: Folder of pictures that the ranges of 8-bit integers are taken from.
        dla_core: Core of the deep learning accelerator; -1: the GPU.

    """

    precision: str = 'fp32'
    imgsz: tuple[int, int] | None = None
    batch: int = 1
    workspace: int = 0
    calibration: Path | None = None
    dla_core: int = -1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f'precision is {self.precision!r}, expected one of {list(PRECISIONS)}')
        if self.batch < 1:
            raise ConfigurationError(f'batch is {self.batch}, expected at least 1')
        if self.imgsz is not None and (min(self.imgsz) < STRIDE or any(side % STRIDE for side in self.imgsz)):
            raise ConfigurationError(f'imgsz is {self.imgsz}, expected a height and a width in multiples of {STRIDE}')


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build took.

    Attributes:
        seconds: Parsing, conversion and building.
        peak_memory: Most memory the process held while it built, bytes.
        peak_gpu_memory: Most device memory that TensorRT's allocator held, bytes; None where it does not tell.
        size: Of the plan, bytes.
        input_shape: Of the network; the greatest, where it takes several.

    """

    seconds: float
    peak_memory: int
    peak_gpu_memory: int | None
    size: int
    input_shape: tuple[int, int, int, int]

    def as_dict(self) -> dict[str, Any]:
        """Turn it into plain values."""
        return {**asdict(self), 'input_shape': list(self.input_shape)}


def build(
    model: Path,
    options: BuildOptions,
    api: Api,
    *,
    progress: Progress | None = None,
    timing_cache: Path | None = None,
) -> tuple[bytes, BuildReport]:
    """Build an engine.

    Args:
        model: ONNX file.
        options: What it is to be.
        api: A library that can build.
        progress: Told what is being done and how much of it is done; what it raises ends the build.
        timing_cache: File in which the builder keeps what it timed.

    Raises:
        ConfigurationError: The options do not go with the model or the machine.
        ModelError: TensorRT does not take the model.
        RuntimeUnavailable: TensorRT cannot build on this machine.

    """
    started = time.monotonic()
    forget_peak_memory()
    logger = make_logger(api)
    logger.errors.clear()
    logger.lines.clear()
    builder = make_builder(api, logger)
    network, parser = parse(model, options, api, builder, logger)
    shape = input_shape(model, options, tuple(network.get_input(0).shape))
    config = configure(options, api, builder, network, shape)
    monitor = make_monitor(api, progress) if progress is not None and api.has_progress else None
    if monitor is not None:
        config.progress_monitor = monitor
    cache = use_timing_cache(timing_cache, config) if timing_cache is not None and api.has_timing_cache else None
    memory = builder.build_serialized_network(network, config)
    del parser  # the network borrows its weights until here
    if monitor is not None and monitor.raised is not None:
        raise monitor.raised
    if memory is None:
        raise refused(model, options, api, logger)
    if cache is not None and timing_cache is not None:
        keep_timing_cache(timing_cache, config)
    plan = bytes(memory)
    return plan, BuildReport(
        seconds=round(time.monotonic() - started, 3),
        peak_memory=peak_memory(),
        peak_gpu_memory=peak_gpu_memory(logger.lines),
        size=len(plan),
        input_shape=shape,
    )


def make_builder(api: Api, logger: Any) -> Any:
    """Make the builder.

    Raises:
        RuntimeUnavailable: There is no GPU and this library needs one to build.

    """
    try:
        return api.module.Builder(logger)
    except Exception as error:
        reason = '; '.join(logger.errors) or str(error)
        raise RuntimeUnavailable(
            f'{api} cannot build engines on this machine: {reason}; '
            'it needs an NVIDIA GPU and a driver that is new enough'
        ) from error


def parse(model: Path, options: BuildOptions, api: Api, builder: Any, logger: Any) -> tuple[Any, Any]:
    """Read the model into a network, converted to the precision first unless the builder chooses it.

    Returns:
        The network and the parser, which must outlive it.

    Raises:
        ConfigurationError: The precision takes what is not there.
        ModelError: TensorRT does not take the model.

    """
    by_flags = precision_by_flags(options, api)
    as_it_is = options.precision == 'fp32' or (options.precision == 'fp16' and by_flags)
    content = model.read_bytes() if as_it_is else converted(model, options)
    flag = 'EXPLICIT_BATCH' if by_flags else 'STRONGLY_TYPED'
    bit = getattr(api.module.NetworkDefinitionCreationFlag, flag, None)  # newer ones know nothing else
    network = builder.create_network(0 if bit is None else 1 << int(bit))
    parser = api.module.OnnxParser(network, logger)
    if not parser.parse(content):
        reasons = '; '.join(str(parser.get_error(i)) for i in range(parser.num_errors)) or '; '.join(logger.errors)
        raise ModelError(f'model file {str(model)!r} cannot be parsed by {api}: {reasons}')
    if network.num_inputs != 1 or network.num_outputs != 1:
        raise ModelError(
            f'model file {str(model)!r} has {network.num_inputs} inputs and {network.num_outputs} outputs, '
            'expected one of each, as ultralytics exports YOLOv8 detection'
        )
    return network, parser


def precision_by_flags(options: BuildOptions, api: Api) -> bool:
    """Tell whether the builder chooses the precision: where nothing else is known, and for an accelerator.

    DLA is documented with flags where there are any; later libraries hold its networks to their types, too.
    """
    return api.has_precision_flags and (options.dla_core >= 0 or not api.strongly_typed)


def converted(model: Path, options: BuildOptions) -> bytes:
    """Convert the model to half precision or 8-bit integers; one that is of that kind already stays as it is.

    Raises:
        ConfigurationError: A package or the calibration pictures are missing.
        ModelError: The model is not a detector.

    """
    with conversion.needed(options.precision):
        import onnx  # noqa: PLC0415
    proto = onnx.load(model)
    if conversion.is_quantised(proto):
        if options.precision == 'int8':
            return model.read_bytes()
        raise ConfigurationError(
            f"precision is {options.precision!r}, but model file {str(model)!r} is quantised, expected 'int8' with it"
        )
    if options.precision == 'fp16' and proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        return model.read_bytes()
    if options.precision == 'int8':
        pictures = (read_picture(path) for path in calibration_pictures(options))
        fix_shape(proto, input_shape(model, options, shape_of(proto)))
        return bytes(conversion.to_int8(proto, pictures).SerializeToString())
    return bytes(conversion.to_half(proto).SerializeToString())


def shape_of(proto: Any) -> tuple[int, ...]:
    """Return the input shape of an ONNX model, -1 where it is free."""
    return tuple(d.dim_value or -1 for d in proto.graph.input[0].type.tensor_type.shape.dim)


def fix_shape(proto: Any, shape: tuple[int, int, int, int]) -> None:
    """Give the input a fixed shape, with which calibration knows all others."""
    for dimension, value in zip(proto.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = value


def calibration_pictures(options: BuildOptions) -> list[Path]:
    """List the pictures of the calibration folder, in the order of their names.

    Raises:
        ConfigurationError: There is no such folder.
        SourceError: It has no pictures.

    """
    way_out = 'expected a folder with some hundred pictures of what the camera will see'
    directory = options.calibration
    if directory is None:
        raise ConfigurationError(f"precision is 'int8' without calibration pictures, {way_out}")
    if not directory.is_dir():
        raise ConfigurationError(f'calibration directory {str(directory)!r} does not exist, {way_out}')
    return list_pictures(directory)[: conversion.MOST_PICTURES]


def configure(options: BuildOptions, api: Api, builder: Any, network: Any, shape: tuple[int, int, int, int]) -> Any:
    """Turn the options into the builder's configuration.

    Raises:
        ConfigurationError: The options do not go with the machine.

    """
    trt = api.module
    source = network.get_input(0)
    config = builder.create_builder_config()
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if precision_by_flags(options, api):
        for flag in typing_flags(options.precision, half_input=source.dtype == trt.float16):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if options.dla_core >= 0:
        use_dla(options, api, builder, config)
    if -1 in tuple(source.shape):
        profile = builder.create_optimization_profile()
        least = (1 if source.shape[0] == -1 else shape[0], *shape[1:])
        profile.set_shape(source.name, least, shape, shape)
        config.add_optimization_profile(profile)
    return config


def typing_flags(precision: str, *, half_input: bool) -> tuple[str, ...]:
    """Name the builder's flags for a precision."""
    if precision == 'int8':
        return ('INT8', 'FP16')  # what is not quantised is computed in half precision
    return ('FP16',) if precision == 'fp16' or half_input else ()


def use_dla(options: BuildOptions, api: Api, builder: Any, config: Any) -> None:
    """Run what can run there on the deep learning accelerator, the rest on the GPU.

    Raises:
        ConfigurationError: There is no such core, or the precision is not one of it.

    """
    trt = api.module
    if options.dla_core >= builder.num_DLA_cores:
        raise ConfigurationError(
            f'dla_core is {options.dla_core}, but this machine has {builder.num_DLA_cores} DLA cores; -1 uses the GPU'
        )
    if options.precision != 'fp16':
        raise ConfigurationError(f"precision is {options.precision!r} with dla_core, expected 'fp16'")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def input_shape(model: Path, options: BuildOptions, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Fill what the model leaves free in its input shape.

    Raises:
        ConfigurationError: What is asked for contradicts the model.
        ModelError: The input is not that of a detector.

    """
    height, width = options.imgsz or metadata.parse(metadata.read_onnx(model), model).input_size
    wanted = (options.batch, 3, height, width)
    metadata.check_input([want if have == -1 else have for have, want in zip(shape, wanted, strict=False)], model)
    if options.imgsz is not None and any(
        have not in (-1, want) for have, want in zip(shape[2:], wanted[2:], strict=True)
    ):
        raise ConfigurationError(
            f'imgsz is {options.imgsz}, but model file {str(model)!r} takes {tuple(shape[2:])} only; '
            'export it with that imgsz or with dynamic=True'
        )
    if options.batch != 1 and shape[0] not in (-1, options.batch):
        raise ConfigurationError(
            f'batch is {options.batch}, but model file {str(model)!r} takes {shape[0]} pictures only; '
            'export it with that batch or with dynamic=True'
        )
    batch, _, height, width = (want if have == -1 else have for have, want in zip(shape, wanted, strict=True))
    return batch, 3, height, width


def refused(model: Path, options: BuildOptions, api: Api, logger: Any) -> ModelError:
    """Describe why no engine came out."""
    reason = '; '.join(logger.errors) or 'it gives no reason'
    return ModelError(f'{api} built no {options.precision} engine of model file {str(model)!r}: {reason}')


def use_timing_cache(path: Path, config: Any) -> Any:
    """Give the builder what it timed before; a damaged file, or one of another device, counts as none."""
    content = path.read_bytes() if path.is_file() else b''
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b'')
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def keep_timing_cache(path: Path, config: Any) -> None:
    """Write down what the builder has timed; without it the next build is slower, so no error ends this one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        log.warning('the timing cache %s cannot be written: %s', path, error.strerror)


def forget_peak_memory() -> None:
    """Start measuring the peak of this process's memory anew, where the kernel lets it."""
    try:
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    except OSError as error:
        log.debug('the peak of memory counts from the start of the process: %s', error)


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes."""
    try:
        status = Path('/proc/self/status').read_text(encoding='ascii', errors='replace')
        return int(status.split('VmHWM:')[1].split()[0]) << 10
    except (OSError, LookupError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def peak_gpu_memory(lines: Iterable[str]) -> int | None:
    """Find in the builder's log how much device memory its allocator held at most, in bytes."""
    for line in reversed(list(lines)):
        found = re.search(r'Peak memory usage of TRT CPU/GPU memory allocators: CPU \d+ MiB, GPU (\d+) MiB', line)
        if found:
            return int(found[1]) * MIB
    return None
