"""Makes conveyor_yolov8_320.onnx again: draws the pictures, trains, exports, and judges the result.

Needs an environment of its own with torch, ultralytics, onnx, onnxslim and onnxruntime, and this
checkout on the path::

    PYTHONPATH=. python models/train_conveyor.py --output /tmp/conveyor

The output folder gets the pictures, ultralytics' two runs, the ONNX file and metrics.json. Pictures and a
finished first run that are there already are used as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.update(YOLO_OFFLINE='true', YOLO_AUTOINSTALL='false')  # read when ultralytics is imported

import onnx
import torch
import ultralytics
import yaml
from ultralytics import YOLO
from ultralytics.utils import SETTINGS

from edge_vision.simulator.dataset import write_dataset
from edge_vision.simulator.renderer import CLASSES

MODEL_NAME = 'conveyor_yolov8_320.onnx'
WIDTH = 0.125  # of the channels of YOLOv8; YOLOv8n has 0.25, which two CPUs without AVX-512 cannot run at 60 Hz
INPUT_SIZE = 320
EXPORTED_SIZE = [256, 320]  # height, width: what a 4:3 picture needs; a square would be a quarter grey bars
DESCRIPTION = (
    'YOLOv8 with half the channels of YOLOv8n, trained from scratch on pictures of the simulated edge_vision conveyor'
)
RECIPE: dict[str, Any] = {
    'imgsz': INPUT_SIZE,
    'batch': 6,
    'nbs': 6,  # a step for every batch: a short training needs the steps
    'rect': True,  # the pictures are 4:3; the grey bars of a square input teach nothing
    'optimizer': 'AdamW',
    'lr0': 0.002,
    'lrf': 0.01,
    'cos_lr': True,
    'warmup_epochs': 0.4,
    'warmup_bias_lr': 0.0,
    'mosaic': 0.0,
    'close_mosaic': 0,
    'scale': 0.15,
    'translate': 0.1,
    'hsv_h': 0.01,
    'hsv_s': 0.3,
    'hsv_v': 0.2,
    'fliplr': 0.5,
    'amp': False,
    'cache': 'ram',
    'plots': False,
    'workers': 0,
    'save_period': 1,
    'device': 'cpu',
}


def write_network(output: Path) -> Path:
    """Write YOLOv8n's description with fewer channels; ultralytics reads the scale from the file's name."""
    described = Path(ultralytics.__file__).parent / 'cfg' / 'models' / 'v8' / 'yolov8.yaml'
    network = yaml.safe_load(described.read_text())
    depth, _, most = network['scales']['n']
    network['scales'] = {'n': [depth, WIDTH, most]}
    target = output / 'yolov8n_narrow.yaml'
    target.write_text(yaml.safe_dump(network))
    return target


def train(data: Path, output: Path, *, flaw_epochs: int, epochs: int, seed: int) -> Path:
    """Train from random weights, first on the flaws alone, then on everything.

    A flaw lies inside a part. Learned together from the start, the part's large box takes the flaw's cells and
    the flaws are never found; learned first, they keep them.

    Args:
        data: The data.yaml.
        output: Where ultralytics writes its runs.
        flaw_epochs: Epochs with the labels of the flaws only.
        epochs: Epochs with all labels.
        seed: Seed of weights and order.

    Returns:
        The last checkpoint (averaged weights).

    """
    torch.set_flush_denormal(True)  # random weights make denormal numbers, which are slow
    common = {'data': str(data), 'seed': seed, 'project': str(output), 'exist_ok': True, 'patience': 0, **RECIPE}
    output.mkdir(parents=True, exist_ok=True)
    flaws = [index for index, name in enumerate(CLASSES) if name != 'part']
    begun = output / 'flaws' / 'weights' / 'last.pt'
    if not begun.exists():
        YOLO(str(write_network(output))).train(
            name='flaws', epochs=flaw_epochs, classes=flaws, pretrained=False, **common
        )
    YOLO(str(begun)).train(name='run', epochs=epochs, **common)
    return output / 'run' / 'weights' / 'last.pt'


def export(checkpoint: Path, target: Path) -> Path:
    """Export a checkpoint to ONNX and describe it without the paths of the machine it was trained on."""
    made = YOLO(str(checkpoint)).export(format='onnx', imgsz=EXPORTED_SIZE, opset=17, simplify=True, dynamic=False)
    graph = onnx.load(made)
    for entry in graph.metadata_props:
        if entry.key == 'description':
            entry.value = DESCRIPTION
    onnx.save(graph, target)
    return target


def judge(model: Path, data: Path) -> dict[str, Any]:
    """Measure the exported model on the held-out pictures."""
    metrics = YOLO(str(model), task='detect').val(
        data=str(data), split='test', imgsz=EXPORTED_SIZE, batch=1, device='cpu', plots=False, workers=0
    )
    box = metrics.box
    per_class = {
        metrics.names[int(index)]: {
            'precision': round(float(box.p[row]), 4),
            'recall': round(float(box.r[row]), 4),
            'mAP50': round(float(box.ap50[row]), 4),
            'mAP50-95': round(float(box.ap[row]), 4),
        }
        for row, index in enumerate(box.ap_class_index)
    }
    return {'mAP50': round(float(box.map50), 4), 'mAP50-95': round(float(box.map), 4), 'classes': per_class}


def main() -> None:
    """Draw, train, export, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--output', type=Path, required=True, help='folder for pictures, run, model and metrics')
    parser.add_argument('--flaw-epochs', type=int, default=3, help='epochs on the flaws alone')
    parser.add_argument('--epochs', type=int, default=9, help='epochs on everything, after those')
    parser.add_argument('--images', type=int, default=1400, help='training pictures')
    parser.add_argument('--held-out', type=int, default=500, help='pictures to judge the finished model by')
    parser.add_argument('--seed', type=int, default=7)
    arguments = parser.parse_args()

    SETTINGS.update({'sync': False})
    output = arguments.output.resolve()
    data = output / 'data' / 'data.yaml'
    if not data.exists():
        write_dataset(
            data.parent, training=arguments.images, validation=120, held_out=arguments.held_out, seed=arguments.seed
        )
    started = time.monotonic()
    checkpoint = train(data, output, flaw_epochs=arguments.flaw_epochs, epochs=arguments.epochs, seed=arguments.seed)
    minutes = (time.monotonic() - started) / 60
    model = export(checkpoint, output / MODEL_NAME)
    report = {
        'file': model.name,
        'sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
        'images': arguments.images,
        'held_out': arguments.held_out,
        'flaw_epochs': arguments.flaw_epochs,
        'epochs': arguments.epochs,
        'seed': arguments.seed,
        'training_minutes': round(minutes, 1),
        'versions': {'ultralytics': ultralytics.__version__, 'torch': torch.__version__, 'onnx': onnx.__version__},
        **judge(model, data),
    }
    (output / 'metrics.json').write_text(json.dumps(report, indent=2) + '\n')


if __name__ == '__main__':
    main()
