"""The inference runtimes by name, best first; only the standard library is imported here."""

from __future__ import annotations

from typing import NamedTuple

PRECISIONS = ('fp32', 'fp16', 'int8')


class Entry(NamedTuple):
    """One row of the table.

    Attributes:
        module: In `edge_vision.runtimes`.
        class_name: The class in it.
        install: How to get its library.
        suffixes: Of the model files that it reads.

    """

    module: str
    class_name: str
    install: str
    suffixes: tuple[str, ...]


TENSORRT = 'see requirements/tensorrt.txt'

RUNTIMES = {  # in the order in which 'auto' tries them
    'tensorrt': Entry('tensorrt', 'TensorRtRuntime', TENSORRT, ('.onnx', '.pt', '.engine')),
    'openvino': Entry('openvino', 'OpenVinoRuntime', 'pip install openvino', ('.onnx', '.xml')),
    'onnxruntime': Entry('onnxruntime', 'OnnxRuntime', 'pip install onnxruntime', ('.onnx',)),
}
