"""Makers of small ONNX models that look like ultralytics' exports, so that tests need no trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Anchor = Sequence[float]  # centre x, centre y, width, height, one score per class


def metadata(labels: Sequence[str], input_size: tuple[int, int], **changes: str) -> dict[str, str]:
    """Make the metadata of an ultralytics export; a change to '' leaves a key out."""
    properties = {
        'description': 'made for a test',
        'stride': '32',
        'task': 'detect',
        'batch': '1',
        'imgsz': str(list(input_size)),
        'names': str(dict(enumerate(labels))),
        'end2end': 'False',
        **changes,
    }
    return {key: value for key, value in properties.items() if value}


def fixed_boxes(
    path: Path,
    anchors: Sequence[Anchor],
    *,
    labels: Sequence[str] = ('dent', 'scratch'),
    input_size: tuple[int, int] = (64, 96),
    batch: int | str = 1,
    free_size: bool = False,
    transposed: bool = False,
    element_type: int = TensorProto.FLOAT,
    properties: Mapping[str, str] | None = None,
) -> Path:
    """Write a model that gives the same anchors for every picture."""
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    output = np.array(anchors, dtype)
    output = output if transposed else output.T
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['mean'], axes=[1, 2, 3], keepdims=1),
        helper.make_node('Squeeze', ['mean', 'last_axis'], ['flat']),
        helper.make_node('Mul', ['flat', 'zero'], ['nothing']),
        helper.make_node('Add', ['anchors', 'nothing'], ['output0']),
    ]
    constants = [
        numpy_helper.from_array(output[None], 'anchors'),
        numpy_helper.from_array(np.array([0], dtype), 'zero'),
        numpy_helper.from_array(np.array([3]), 'last_axis'),
    ]
    size = ('height', 'width') if free_size else input_size
    source = helper.make_tensor_value_info('images', element_type, [batch, 3, *size])
    return write(path, source, nodes, constants, properties or metadata(labels, input_size))


def mean_colours(path: Path, *, input_size: tuple[int, int] = (64, 64)) -> Path:
    """Write a model with one box over the whole input, scored by the means of red, green and blue in 0..1."""
    height, width = input_size
    box = np.array([[[width / 2], [height / 2], [width], [height]]], np.float32)
    nodes = [
        helper.make_node('ReduceMean', ['images'], ['means'], axes=[2, 3], keepdims=0),
        helper.make_node('Unsqueeze', ['means', 'last_axis'], ['scores']),
        helper.make_node('Concat', ['box', 'scores'], ['output0'], axis=1),
    ]
    constants = [numpy_helper.from_array(box, 'box'), numpy_helper.from_array(np.array([2]), 'last_axis')]
    source = helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, *input_size])
    return write(path, source, nodes, constants, metadata(('red', 'green', 'blue'), input_size))


def write(
    path: Path,
    source: onnx.ValueInfoProto,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    properties: Mapping[str, str],
) -> Path:
    """Write a graph from ``source`` to 'output0' with its metadata."""
    result = helper.make_tensor_value_info('output0', source.type.tensor_type.elem_type, None)
    graph = helper.make_graph(nodes, 'made_for_a_test', [source], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
    helper.set_model_props(model, dict(properties))
    onnx.save(model, path)
    return path
