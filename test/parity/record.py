"""Exports YOLOv8n in several forms with ultralytics, and records what ultralytics finds with each.

Needs the same environment as models/train_conveyor.py; writes into test/data/parity/networks::

    PYTHONPATH=.:test/parity python test/parity/record.py

The networks are not trained. Their weights are random, with the batch normalisation fitted to the pictures and the
head scaled so that a few dozen boxes of all sizes score around the threshold: that is what letterboxing, decoding and
NMS are tested with. Dynamic exports are predicted with ``rect=False``, in the size that their metadata names.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(YOLO_OFFLINE='true', YOLO_AUTOINSTALL='false')  # read when ultralytics is imported

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
import ultralytics
import yaml
from networks import FOLDER, drawn, is_weight, rebuild
from onnx import numpy_helper
from ultralytics import YOLO

from edge_vision.frames import Image
from edge_vision.runtimes import open_runtime
from edge_vision.validation import overlaps
from edge_vision.yolov8 import decode, letterbox, nms

PICTURES = FOLDER.parent
SETTINGS: dict[str, Any] = {'conf': 0.25, 'iou': 0.45, 'max_det': 300}
MARGIN = 2e-4  # a picture is left out when a box is so near to another outcome that rounding could decide


class Form(NamedTuple):
    """One export."""

    name: str
    classes: int
    imgsz: tuple[int, int]
    batch: int = 1
    dynamic: bool = False


FORMS = (
    Form('320', 1, (320, 320)),
    Form('416', 3, (416, 416)),
    Form('640', 80, (640, 640)),
    Form('256x416', 3, (256, 416)),
    Form('480x320_batch_4', 3, (480, 320), batch=4),
    Form('320_dynamic', 80, (320, 320), dynamic=True),
)
CLASS_LOGIT = {1: -4.5, 3: -5.7, 80: -8.3}  # mean; fewer anchors per class where there are more classes
VIEWS = (  # picture and x, y, width, height of what is taken from it
    ('320x320.jpg', None),
    ('360x480.jpg', None),
    ('501x377.jpg', None),
    ('640x480.jpg', None),
    ('961x541.jpg', None),
    ('1280x720.jpg', None),
    ('640x480.jpg', (101, 203, 211, 37)),
    ('640x480.jpg', (303, 101, 37, 211)),
)


def view(file: str, crop: Sequence[int] | None) -> Image:
    """Load a picture or a part of it."""
    image = cv2.imread(str(PICTURES / file))
    if crop is None:
        return image
    x, y, width, height = crop
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def make_network(classes: int, folder: Path) -> YOLO:
    """Make a YOLOv8n with drawn weights."""
    description = yaml.safe_load((Path(ultralytics.__file__).parent / 'cfg/models/v8/yolov8.yaml').read_text())
    description.update(nc=classes, scales={'n': description['scales']['n']})
    (folder / 'yolov8n.yaml').write_text(yaml.safe_dump(description))
    model = YOLO(str(folder / 'yolov8n.yaml'), task='detect')
    network = model.model
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if is_weight(name) and parameter.ndim == 4:
                parameter.copy_(torch.from_numpy(drawn(name, tuple(parameter.shape))))
        pixels = [cv2.resize(view(*which), (320, 320)) for which in VIEWS]
        batch = torch.from_numpy(np.stack(pixels)[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
        fit_normalisation(network, batch)
        fit_head(network, batch, CLASS_LOGIT[classes])
    return model


def fit_normalisation(network: torch.nn.Module, batch: torch.Tensor) -> None:
    """Let every channel have mean 0 and variance 1 over the pictures."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    network(batch)
    network.eval()


def fit_head(network: torch.nn.Module, batch: torch.Tensor, class_logit: float) -> None:
    """Spread the scores, and let sides be a few cells long."""
    head = network.model[-1]
    layers = [*((branch[2], class_logit) for branch in head.cv3), *((branch[2], None) for branch in head.cv2)]
    outputs: dict[torch.nn.Module, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda module, _, out: outputs.__setitem__(module, out)) for layer, _ in layers
    ]
    for layer, _ in layers:
        layer.bias.zero_()
    network(batch)
    for hook in hooks:
        hook.remove()
    for layer, mean in layers:
        out = outputs[layer]
        wanted = torch.full((out.shape[1],), mean) if mean is not None else -0.5 * torch.arange(16.0).repeat(4)
        gain = 1.7 / out.std(dim=(0, 2, 3))
        layer.weight.mul_(gain.view(-1, 1, 1, 1))
        layer.bias.copy_(wanted - out.mean(dim=(0, 2, 3)) * gain)


def strip(exported: Path, form: Form) -> dict[str, Any]:
    """Keep the export without its weights; return gains and biases."""
    model = onnx.load(exported)
    kept = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if is_weight(tensor.name):
            unit = drawn(tensor.name, values.shape)
            axes = (1, 2, 3)
            kept[tensor.name] = ((values * unit).sum(axes) / (unit * unit).sum(axes)).astype(np.float16)
        elif tensor.name.endswith('.bias'):
            kept[tensor.name] = values.astype(np.float16)
        else:
            continue
        tensor.ClearField('raw_data')
    (FOLDER / f'{form.name}.onnx.gz').write_bytes(gzip.compress(model.SerializeToString(), 9, mtime=0))
    return kept


def record(path: Path, form: Form) -> list[dict[str, Any]]:
    """Predict every picture that is not too close to call."""
    views = [which for which in VIEWS if is_clear(path, view(*which))]
    views = views[: len(views) // form.batch * form.batch]
    model = YOLO(str(path), task='detect')
    pictures = []
    for i in range(0, len(views), form.batch):
        images = [view(*which) for which in views[i : i + form.batch]]
        results = model.predict(images, imgsz=form.imgsz, rect=False, device='cpu', verbose=False, **SETTINGS)
        pictures += [noted(*which, result) for which, result in zip(views[i : i + form.batch], results, strict=True)]
    return pictures


def is_clear(path: Path, image: Image) -> bool:
    """Tell whether no score, overlap or number of boxes is so near to its threshold that rounding decides."""
    runtime = open_runtime('onnxruntime', path)
    height, width = image.shape[:2]
    boxes = decode(runtime.infer(image, letterbox((width, height), runtime.input_size), SETTINGS['conf'] - MARGIN))
    iou = overlaps(boxes.xyxy, boxes.xyxy)[boxes.label[:, None] == boxes.label]
    near = (np.abs(boxes.score - SETTINGS['conf']) < MARGIN).any() or (np.abs(iou - SETTINGS['iou']) < MARGIN).any()
    return not near and len(nms(boxes, SETTINGS['iou'], SETTINGS['max_det'])) < SETTINGS['max_det']


def noted(file: str, crop: Sequence[int] | None, result: Any) -> dict[str, Any]:
    """Note every box as class, score, left, top, right, bottom."""
    rows = zip(result.boxes.cls, result.boxes.conf, result.boxes.xyxy, strict=True)
    boxes = [[int(label), round(float(score), 5), *(round(float(v), 3) for v in xyxy)] for label, score, xyxy in rows]
    return {'file': file, 'crop': crop, 'boxes': boxes}


def main() -> None:
    """Make the networks, export, predict, and write all of it down."""
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    forms = []
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for classes in sorted({form.classes for form in FORMS}):
            kept: dict[str, Any] = {}
            for form in (form for form in FORMS if form.classes == classes):
                exported = make_network(classes, Path(name)).export(
                    format='onnx', imgsz=form.imgsz, batch=form.batch, dynamic=form.dynamic, opset=17
                )
                again = strip(Path(exported), form)
                assert not kept or all(np.array_equal(kept[key], again[key]) for key in again)
                kept = again
                np.savez_compressed(FOLDER / f'{classes}_classes.npz', **kept)
                pictures = record(rebuild(form.name, classes, Path(name)), form)
                forms.append({**form._asdict(), 'pictures': pictures})
    versions = {
        'ultralytics': ultralytics.__version__,
        'torch': torch.__version__,
        'onnx': onnx.__version__,
        'onnxruntime': onnxruntime.__version__,
        'numpy': np.__version__,
        'opencv': cv2.__version__,
    }
    recorded = json.dumps({'versions': versions, 'settings': SETTINGS, 'forms': forms}, separators=(',', ':'))
    (FOLDER / 'expected.json').write_text(recorded.replace('},{', '},\n{') + '\n')


if __name__ == '__main__':
    main()
