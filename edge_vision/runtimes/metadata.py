"""What a model says about itself: the metadata that ultralytics writes into what it exports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import ModelError

GRAPH, METADATA_PROPS = 7, 14  # fields of ModelProto in onnx.proto
KEY, VALUE = 1, 2  # fields of StringStringEntryProto
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf wire types


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of a model's metadata that detection needs.

    Attributes:
        labels: Name of every class, in the network's order.
        input_size: Height and width of the network input in pixels.

    """

    labels: tuple[str, ...]
    input_size: tuple[int, int]


def damaged(path: Path) -> ModelError:
    """Describe a file that is not readable as a model."""
    return ModelError(f'model file {str(path)!r} is damaged or not a model, export it again: {EXPORT}')


EXPORT = 'yolo export model=MODEL.pt format=onnx'


def read_onnx(path: Path) -> dict[str, str]:
    """Read the metadata of an ONNX file without loading its weights.

    Raises:
        ModelError: The file is not ONNX, or is cut off.

    """
    properties, has_graph = {}, False
    with path.open('rb') as file:
        try:
            for field, end in fields(file, path.stat().st_size):
                has_graph |= field == GRAPH
                if field == METADATA_PROPS:
                    entry = {key: file.read(stop - file.tell()).decode() for key, stop in fields(file, end)}
                    properties[entry[KEY]] = entry.get(VALUE, '')
        except (ValueError, KeyError) as error:
            raise damaged(path) from error
    if not has_graph:
        raise damaged(path)
    return properties


def fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Walk over the fields of a protobuf message that reaches to the position ``end``.

    Yields:
        Number of the field and the position of its end; the file stands at the start of its content.

    Raises:
        ValueError: The bytes are not a message.

    """
    while file.tell() < end:
        key = varint(file)
        wire = key & 7
        if wire == VARINT:
            varint(file)
            continue
        if wire not in (FIXED64, LENGTH, FIXED32):
            raise ValueError('unknown wire type')
        size = varint(file) if wire == LENGTH else 8 if wire == FIXED64 else 4
        stop = file.tell() + size
        if stop > end:
            raise ValueError('a field reaches beyond its message')
        yield key >> 3, stop
        file.seek(stop)


def varint(file: BinaryIO) -> int:
    """Read one protobuf number of variable length."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError('the file is cut off')
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError('a number has more than ten bytes')


def parse(properties: Mapping[str, str], path: Path) -> Metadata:
    """Check that the metadata is that of a YOLOv8 detection model and take what is needed from it.

    Args:
        properties: As ultralytics writes them: task, names, imgsz and others, each as text.
        path: The model, for the error.

    Raises:
        ModelError: It is another kind of model, or the metadata is missing or not readable.

    """
    shown = repr(str(path))
    task = properties.get('task', 'detect')
    if task != 'detect':
        raise ModelError(f"model file {shown} is made for the task {task!r}, expected a 'detect' model")
    if 'names' not in properties or 'imgsz' not in properties:
        raise ModelError(f'model file {shown} does not name its classes, expected an ultralytics export: {EXPORT}')
    if properties.get('end2end') == 'True' or "'nms': True" in properties.get('args', ''):
        raise ModelError(f'model file {shown} has NMS built in, expected one without; export it with nms=False')
    try:
        names, size = ast.literal_eval(properties['names']), ast.literal_eval(properties['imgsz'])
        labels = tuple(str(names[i]) for i in range(len(names)))
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    except (ValueError, SyntaxError, TypeError, LookupError) as error:
        raise ModelError(f'model file {shown} has unreadable metadata, export it again: {EXPORT}') from error
    return Metadata(labels, (height, width))


def check_input(shape: Sequence[int], path: Path) -> None:
    """Raise ModelError unless the input shape is (N, 3, height, width)."""
    if len(shape) != 4 or shape[1] != 3 or min(shape) < 1:
        raise ModelError(f'model file {str(path)!r} takes input {tuple(shape)}, expected (N, 3, height, width)')


def is_transposed(shape: Sequence[int], labels: Sequence[str], path: Path) -> bool:
    """Tell whether the output has the anchors before their numbers.

    Returns:
        False for (N, 4 + classes, anchors), True for (N, anchors, 4 + classes).

    Raises:
        ModelError: The output is neither.

    """
    rows = 4 + len(labels)
    if len(shape) == 3 and shape[1] == rows:
        return False
    if len(shape) == 3 and shape[2] == rows:
        return True
    raise ModelError(
        f'model file {str(path)!r} is not YOLOv8 detection: with {len(labels)} classes its output should have '
        f'the shape (N, {rows}, anchors), but has {tuple(shape)}'
    )
