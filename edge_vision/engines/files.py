"""Reads engine files: plain plans as trtexec and the cache write them, and ultralytics' with its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..runtimes import metadata
from . import cache

LENGTH = 4  # bytes of the number that stands before ultralytics' header
LONGEST_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class EngineFile:
    """An engine and what is known of its model.

    Attributes:
        plan: What TensorRT takes.
        properties: The model's metadata, as `edge_vision.runtimes.metadata.parse` takes it.
        dla_core: Core of the deep learning accelerator that it was built for; -1: the GPU.

    """

    plan: memoryview
    properties: Mapping[str, str]
    dla_core: int


def read(path: Path) -> EngineFile:
    """Read an engine file, and the metadata from its header, its side-car or the ONNX file beside it.

    Raises:
        ModelError: It is empty, or nothing says what its classes are.

    """
    content = memoryview(path.read_bytes())
    header, start = read_header(content)
    plan = content[start:]
    if not plan:
        raise ModelError(f'engine file {str(path)!r} has no engine in it, build it again')
    properties = as_text(header) if header is not None else beside(path)
    if properties is None:
        raise ModelError(
            f'engine file {str(path)!r} does not name its classes, expected a header of ultralytics, a side-car '
            f'{cache.side_car_path(path).name!r} or the model {path.with_suffix(".onnx").name!r} beside it'
        )
    core = properties.get('dla', '').removeprefix('dla:')
    return EngineFile(plan, properties, int(core) if core.isdigit() else -1)


def read_header(content: memoryview) -> tuple[dict[str, Any] | None, int]:
    """Read the header of ultralytics: a little-endian length, then JSON.

    Returns:
        The header and where the plan begins; None and 0 where there is no header.

    """
    length = int.from_bytes(content[:LENGTH], 'little')
    end = LENGTH + length
    if not 2 <= length <= min(LONGEST_HEADER, len(content) - LENGTH) or content[LENGTH] != ord('{'):
        return None, 0
    try:
        header = json.loads(bytes(content[LENGTH:end]))
    except ValueError:
        return None, 0
    return (header, end) if isinstance(header, dict) else (None, 0)


def as_text(header: Mapping[str, Any]) -> dict[str, str]:
    """Turn the values of a header into the text that an ONNX file carries; JSON has made the class numbers text."""
    properties = {name: value if isinstance(value, str) else repr(value) for name, value in header.items()}
    names = header.get('names')
    if isinstance(names, dict) and all(number.isdigit() for number in names):
        properties['names'] = repr({int(number): name for number, name in names.items()})
    return properties


def beside(path: Path) -> dict[str, str] | None:
    """Find the metadata in the side-car of an engine, or in a model of the same name."""
    side_car = cache.fitting_side_car(path)
    if side_car is not None:
        return {str(name): str(value) for name, value in side_car['properties'].items()}
    model = path.with_suffix('.onnx')
    return metadata.read_onnx(model) if model.is_file() else None
