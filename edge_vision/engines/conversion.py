"""Makes an ONNX model compute in half precision or in 8-bit integers; the builder is held to its types.

What follows the last convolutions (the decoding of boxes and scores) stays in fp32: half precision knows pixels above
512 only to half a pixel, and one 8-bit scale for boxes up to 640 and scores up to 1 leaves nothing of the scores,
which is how quantised detectors come to detect nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigurationError, ModelError
from ..frames import Image
from ..yolov8 import Canvas, Floats, letterbox

if TYPE_CHECKING:
    import onnx

MOST_PICTURES = 300  # more of them change no range, and each takes a while
QUANTISED = ('QuantizeLinear', 'DequantizeLinear')
PACKAGES = 'pip install onnx onnxruntime'


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn weights, input and tensors into half precision; the output stays fp32.

    Raises:
        ConfigurationError: A package that this takes is not installed.

    """
    with needed('fp16'):
        from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415
    outputs = [output.name for output in model.graph.output]
    half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=outputs, node_block_list=decoding(model))
    sort(half.graph)  # its casts were put at the end
    return half


def sort(graph: onnx.GraphProto) -> None:
    """Put the nodes of a graph into an order in which each comes after those whose outputs it takes."""
    makers = {output: i for i, node in enumerate(graph.node) for output in node.output}
    needs = {i: {makers[name] for name in node.input if name in makers} for i, node in enumerate(graph.node)}
    nodes = [graph.node[i] for i in TopologicalSorter(needs).static_order()]
    graph.ClearField('node')
    graph.node.extend(nodes)


def to_int8(model: onnx.ModelProto, pictures: Iterator[Image]) -> onnx.ModelProto:
    """Put a pair of quantisation nodes before every convolution, with ranges taken from pictures.

    Args:
        model: In fp32, with a fixed input shape.
        pictures: BGR pictures of what the model will see, shape (height, width, 3), uint8.

    Raises:
        ConfigurationError: A package that this takes is not installed, or there are no pictures.

    """
    with needed('int8'):
        import onnx  # noqa: PLC0415
        from onnxruntime import quantization  # noqa: PLC0415
    batch, _, height, width = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    reader = Reader(model.graph.input[0].name, pictures, (batch, height, width))
    with tempfile.TemporaryDirectory() as directory, quiet():
        source, result = Path(directory, 'fp32.onnx'), Path(directory, 'int8.onnx')
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            result,
            reader,
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=decoding(model),
            per_channel=True,
            extra_options={
                'ActivationSymmetric': True,  # TensorRT knows no zero points
                'WeightSymmetric': True,
                'QuantizeBias': False,
                'OpTypesToExcludeOutputQuantization': ['Conv'],
            },
        )
        quantised = onnx.load(result)
    if not reader.count:
        raise ConfigurationError('calibration pictures are missing, expected a folder with pictures the model will see')
    quantised.metadata_props.MergeFrom(p for p in model.metadata_props if p.key not in keys(quantised))
    return quantised


def keys(model: onnx.ModelProto) -> set[str]:
    """Name the entries of a model's metadata."""
    return {entry.key for entry in model.metadata_props}


class Reader:
    """Gives the calibration one network input after the other, as its ``CalibrationDataReader`` does.

    Args:
        name: Of the network input.
        pictures: BGR, shape (height, width, 3), uint8; no more than `MOST_PICTURES` are taken.
        shape: Batch, height and width of the network input.

    """

    def __init__(self, name: str, pictures: Iterator[Image], shape: tuple[int, int, int]) -> None:
        self.count = 0
        self._name = name
        self._pictures = itertools.islice(pictures, MOST_PICTURES)
        self._shape = shape

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input; None after the last."""
        for image in self._pictures:
            self.count += 1
            return {self._name: network_input(image, self._shape)}
        return None

    def __iter__(self) -> Iterator[dict[str, Floats]]:
        return iter(self.get_next, None)


def network_input(image: Image, shape: tuple[int, int, int]) -> Floats:
    """Letterbox a picture as the detector does, into every place of a batch.

    Args:
        image: BGR, shape (height, width, 3), uint8.
        shape: Batch, height and width of the network input.

    Returns:
        RGB planes of 0..1, shape (batch, 3, height, width).

    """
    batch, *size = shape
    canvas = Canvas(np.empty((*size, 3), np.uint8))
    canvas.draw(image, letterbox((image.shape[1], image.shape[0]), (size[0], size[1])))
    planes = canvas.pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return np.repeat(planes[None], batch, axis=0)


def decoding(model: onnx.ModelProto) -> list[str]:
    """Name the nodes between the last convolutions and the output; convolutions to one channel belong to them.

    The expectation over the distances of a box's sides is such a convolution.

    Raises:
        ModelError: The graph is not that of a detector.

    """
    widths = {weights.name: weights.dims[0] for weights in model.graph.initializer if weights.dims}
    makers = {output: node for node in model.graph.node for output in node.output}
    waiting = [output.name for output in model.graph.output]
    names: dict[str, None] = {}
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in names or (node.op_type == 'Conv' and widths.get(node.input[1]) != 1):
            continue
        if not node.name:
            raise ModelError('the nodes of the model have no names, expected an ultralytics export')
        names[node.name] = None
        waiting += node.input
    if len(names) == len(model.graph.node):
        raise ModelError('the model has no convolutions before its output, expected a YOLOv8 detection model')
    return list(names)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Tell whether a model was quantised before it was exported."""
    return any(node.op_type in QUANTISED for node in model.graph.node)


@contextlib.contextmanager
def needed(precision: str) -> Iterator[None]:
    """Say what to install where an import fails.

    Raises:
        ConfigurationError: A package is missing.

    """
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f'precision is {precision!r}, which takes a conversion of the model that needs {error.name}; {PACKAGES}'
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the quantiser tells about itself out of the log: it logs straight into the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
