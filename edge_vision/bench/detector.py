"""How long the stages of the detector take, beside its bare network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..detector import Detector
from ..frames import Frame, Image
from ..runtimes import Runtime
from ..yolov8 import Canvas, decode, letterbox, nms
from .figures import Row, dimensions, in_turns, percentiles, ratio, text, times


def detections(runtime: Runtime, pictures: Iterable[Image], duration: float) -> Iterator[Row]:
    """Time the stages of the detector on each picture."""
    for image in pictures:
        figures = {name: percentiles(took) for name, took in stages(runtime, image, duration).items()}
        yield {
            'size': [image.shape[1], image.shape[0]],
            'backend': runtime.name,
            'input_size': list(runtime.input_size),
            **figures,
            'detect_per_network': ratio(figures['detect_ms'], figures['network_ms']),
        }


def stages(runtime: Runtime, image: Image, duration: float) -> dict[str, list[float]]:
    """Time the network on a picture of its own size, the steps around it, and the whole detector, in turns."""
    height, width = runtime.input_size
    canvas = Canvas(np.empty((height, width, 3), np.uint8))
    detector = Detector(runtime)
    frame = Frame(image, 0, '')
    geometry, own_geometry = letterbox(frame.size, runtime.input_size), letterbox((width, height), runtime.input_size)
    canvas.draw(image, geometry)
    fitting = canvas.pixels.copy()
    anchors = runtime.infer(image, geometry, detector.confidence_threshold)

    def after() -> None:
        boxes = decode(anchors)
        geometry.to_image(boxes.take(nms(boxes, detector.nms_threshold, detector.max_detections)).xyxy)

    steps: dict[str, Callable[[], object]] = {
        'network_ms': lambda: runtime.infer(fitting, own_geometry, detector.confidence_threshold),
        'letterbox_ms': lambda: canvas.draw(image, geometry),
        'infer_ms': lambda: runtime.infer(image, geometry, detector.confidence_threshold),
        'decode_ms': after,
        'detect_ms': lambda: detector.detect(frame),
    }
    return in_turns(steps, duration)


def cells(row: Row) -> dict[str, str]:
    """Lay the stages of the detector out as text."""
    return {
        'picture': dimensions(row),
        'backend': row['backend'],
        'network': text(row['network_ms']),
        'letterbox': text(row['letterbox_ms']),
        'infer': text(row['infer_ms']),
        'decode': text(row['decode_ms']),
        'detect': text(row['detect_ms']),
        'detect/network': times(row['detect_per_network']),
    }
