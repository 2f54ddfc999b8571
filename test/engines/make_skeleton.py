"""Makes test/data/yolov8n_*.onnx.gz, graphs of YOLOv8n without weights: python make_skeleton.py (takes ultralytics).

They are what ``yolo export model=yolov8n.pt format=onnx opset=17 simplify=False`` gives, with and without
``dynamic=True``; `engine_models.yolov8n` fills them with random weights. Made with ultralytics 8.4.190, torch 2.14.1.
"""

import gzip
import tempfile
from pathlib import Path

import onnx
from onnx import numpy_helper
from ultralytics import YOLO

SMALL = 64  # bytes; what is kept: shapes, and the weights of the expectation over a box's distances


def make(name, **options):
    """Export an untrained YOLOv8n and write its graph."""
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Path(directory, 'yolov8n.pt')
        YOLO('yolov8n.yaml').save(checkpoint)
        exported = YOLO(checkpoint).export(format='onnx', imgsz=640, opset=17, simplify=False, device='cpu', **options)
        model = onnx.load(exported)
    for tensor in model.graph.initializer:
        if numpy_helper.to_array(tensor).nbytes > SMALL:
            tensor.ClearField('raw_data')
    for node in model.graph.node:
        node.ClearField('doc_string')
        node.ClearField('metadata_props')
    model.graph.ClearField('value_info')
    target = Path(__file__).parent.parent / 'data' / name
    target.write_bytes(gzip.compress(model.SerializeToString(), mtime=0))


make('yolov8n_640.onnx.gz')
make('yolov8n_dynamic.onnx.gz', dynamic=True)
