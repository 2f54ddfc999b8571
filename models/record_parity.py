"""Records what ultralytics itself finds in a few held-out pictures, for the test of our own decoding.

Needs the same environment as train_conveyor.py::

    PYTHONPATH=. python models/record_parity.py

Writes the pictures and expected.json into test/data/parity.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

os.environ.update(YOLO_OFFLINE='true', YOLO_AUTOINSTALL='false')  # read when ultralytics is imported

import cv2
import numpy as np
import onnxruntime
import torch
import ultralytics
from ultralytics import YOLO

from edge_vision.simulator.dataset import HELD_OUT, make_picture

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {'conf': 0.25, 'iou': 0.45, 'max_det': 300}
INPUT_SIZE = (256, 320)  # height, width
SEED = 1001
SIZES = ((640, 480), (320, 320), (501, 377), (360, 480), (961, 541), (1280, 720))


def record(model: YOLO, picture: Path) -> dict[str, Any]:
    """Predict one picture and note every box."""
    result = model.predict(
        str(picture), imgsz=INPUT_SIZE, agnostic_nms=False, device='cpu', save=False, verbose=False, **SETTINGS
    )[0]
    height, width = result.orig_shape
    boxes = [
        {
            'class_id': result.names[int(index)],
            'score': round(float(score), 5),
            'xyxy': [round(float(value), 3) for value in xyxy],
        }
        for index, score, xyxy in zip(result.boxes.cls, result.boxes.conf, result.boxes.xyxy, strict=True)
    ]
    return {'file': picture.name, 'width': width, 'height': height, 'boxes': boxes}


def main() -> None:
    """Draw the pictures, predict, and write both down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', type=Path, default=ROOT / 'models' / 'conveyor_yolov8_320.onnx')
    parser.add_argument('--output', type=Path, default=ROOT / 'test' / 'data' / 'parity')
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    model = YOLO(str(arguments.model), task='detect')
    pictures = []
    for index, (width, height) in enumerate(SIZES):
        image, _ = make_picture(SEED, index, HELD_OUT, (width, height))
        picture = arguments.output / f'{width}x{height}.jpg'
        cv2.imwrite(str(picture), image, (cv2.IMWRITE_JPEG_QUALITY, 90))
        pictures.append(record(model, picture))
    expected = {
        'versions': {
            'ultralytics': ultralytics.__version__,
            'torch': torch.__version__,
            'onnxruntime': onnxruntime.__version__,
            'numpy': np.__version__,
            'opencv': cv2.__version__,
        },
        'model': {
            'file': arguments.model.name,
            'sha256': hashlib.sha256(arguments.model.read_bytes()).hexdigest(),
        },
        'settings': SETTINGS,
        'pictures': pictures,
    }
    (arguments.output / 'expected.json').write_text(json.dumps(expected, indent=1) + '\n')


if __name__ == '__main__':
    main()
