import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import models
from edge_vision.detector import Detector
from edge_vision.errors import ConfigurationError
from edge_vision.frames import Frame
from edge_vision.runtimes import open_runtime

PARITY = Path(__file__).parent / 'data' / 'parity'
MODELS = Path(__file__).parents[1] / 'models'

backends = pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])


def frame(width=96, height=64, value=128):
    return Frame(np.full((height, width, 3), value, np.uint8), 1_700_000_000_123_456_789, 'camera_optical_frame')


@pytest.fixture
def make_detector(tmp_path):
    def make(anchors, backend='onnxruntime', labels=('dent', 'scratch'), **settings):
        path = models.fixed_boxes(tmp_path / 'm.onnx', anchors, labels=labels)
        return Detector(open_runtime(backend, path), **settings)

    return make


@backends
def test_detections_carry_the_frame_and_are_in_its_pixels_best_first(make_detector, backend):
    detector = make_detector([[24, 24, 16, 16, 0.5, 0.1], [72, 40, 32, 16, 0.0, 0.75]], backend)
    image = frame(192, 96)  # fills the width of the 96x64 input, 8 rows of border above and below
    found = detector.detect(image)
    assert (found.stamp_ns, found.frame_id, found.image_size) == (image.stamp_ns, image.frame_id, (192, 96))
    assert found.class_id == ('scratch', 'dent')
    assert found.score.tolist() == pytest.approx([0.75, 0.5])
    assert found.xyxy.dtype == np.float32
    np.testing.assert_allclose(found.xyxy, [[112, 48, 176, 80], [32, 16, 64, 48]], atol=1e-4)


def test_boxes_are_clipped_to_the_camera_image(make_detector):
    found = make_detector([[0, 0, 40, 40, 0.5, 0.1]]).detect(frame())
    assert found.xyxy.tolist() == [[0, 0, 20, 20]]


def test_a_frame_without_objects_gives_empty_detections_of_that_frame(make_detector):
    found = make_detector([[24, 24, 16, 16, 0.1, 0.1]]).detect(frame())
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)
    assert found.stamp_ns == frame().stamp_ns


def test_overlapping_boxes_of_one_class_become_one(make_detector):
    anchors = [[30, 30, 20, 20, 0.6, 0.1], [31, 30, 20, 20, 0.9, 0.1], [30, 31, 20, 20, 0.1, 0.7]]
    found = make_detector(anchors).detect(frame())
    assert found.class_id == ('dent', 'scratch')
    assert found.score.tolist() == pytest.approx([0.9, 0.7])


def test_thresholds_can_be_replaced_between_frames(make_detector):
    detector = make_detector([[30, 30, 20, 20, 0.6, 0.1], [34, 30, 20, 20, 0.4, 0.1], [70, 30, 8, 8, 0.1, 0.2]])
    counts = []
    for name, value in [
        ('confidence_threshold', 0.1),
        ('nms_threshold', 0.9),
        ('max_detections', 1),
        ('classes', ('scratch',)),
        ('classes', ()),
    ]:
        setattr(detector, name, value)
        counts.append(len(detector.detect(frame())))
    assert counts == [2, 3, 1, 1, 1]


def test_only_the_wanted_classes_are_kept_and_counted(make_detector):
    anchors = [[24, 24, 16, 16, 0.9, 0.1], [72, 40, 32, 16, 0.0, 0.5]]
    found = make_detector(anchors, classes=('scratch',), max_detections=1).detect(frame())
    assert found.class_id == ('scratch',)


def test_an_unknown_class_is_refused_with_the_labels_of_the_model(make_detector):
    with pytest.raises(ConfigurationError, match="'rust', expected labels of the model: dent, scratch"):
        make_detector([[0, 0, 1, 1, 0, 0]], classes=('dent', 'rust'))


@backends
@pytest.mark.parametrize('bad', [np.nan, np.inf], ids=['nan', 'inf'])
@pytest.mark.parametrize('position', [0, 2, 4], ids=['centre', 'width', 'score'])
def test_a_box_that_is_not_finite_is_dropped_and_counted(make_detector, backend, bad, position):
    broken = [24, 24, 16, 16, 0.9, 0.1]
    broken[position] = bad
    detector = make_detector([broken, [72, 40, 32, 16, 0.0, 0.5]], backend)
    for _ in range(2):
        assert detector.detect(frame()).class_id == ('scratch',)
    assert detector.malformed == 2


@backends
@pytest.mark.parametrize('labels', [('one',), ('a', 'b', 'c'), tuple(f'class {i}' for i in range(80))], ids=len)
def test_any_number_of_classes_is_decoded(make_detector, backend, labels):
    scores = np.linspace(0.1, 0.8, len(labels)) if len(labels) > 1 else [0.8]
    found = make_detector([[30, 30, 20, 20, *scores]], backend, labels=labels).detect(frame())
    assert found.class_id == (labels[-1],)


def iou(a, b):
    corner, opposite = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(opposite - corner, 0))
    return shared / (np.prod(np.subtract(a[2:], a[:2])) + np.prod(np.subtract(b[2:], b[:2])) - shared)


@backends
def test_the_shipped_model_finds_what_ultralytics_found_with_it(backend):
    recorded = json.loads((PARITY / 'expected.json').read_text())
    model = MODELS / recorded['model']['file']
    assert hashlib.sha256(model.read_bytes()).hexdigest() == recorded['model']['sha256']
    settings = recorded['settings']
    detector = Detector(
        open_runtime(backend, model),
        confidence_threshold=settings['conf'],
        nms_threshold=settings['iou'],
        max_detections=settings['max_det'],
    )
    assert recorded['pictures']
    for picture in recorded['pictures']:
        image = cv2.imread(str(PARITY / picture['file']))
        assert image.shape[:2] == (picture['height'], picture['width'])
        found = detector.detect(Frame(image, 0, ''))
        ours = list(zip(found.class_id, found.score.tolist(), found.xyxy.tolist(), strict=True))
        assert len(ours) == len(picture['boxes']), picture['file']
        for theirs in picture['boxes']:
            same = [box for box in ours if box[0] == theirs['class_id'] and iou(box[2], theirs['xyxy']) >= 0.95]
            assert any(abs(score - theirs['score']) <= 0.02 for _, score, _ in same), (picture['file'], theirs)
