"""Our boxes are those of ultralytics, for every form of export: sizes, class counts, batches, odd pictures."""

import json

import cv2
import numpy as np
import pytest
from networks import FOLDER, rebuild

from edge_vision.detector import Detector
from edge_vision.frames import Frame
from edge_vision.runtimes import Options, open_runtime

RECORDED = json.loads((FOLDER / 'expected.json').read_text())
FORMS = {form['name']: form for form in RECORDED['forms']}
CPU = {'openvino': Options(), 'onnxruntime': Options(providers=('CPUExecutionProvider',))}

TOLERANCE = (0.5, 0.002, 0.1, 0.1, 0.1, 0.1)  # class, score, left, top, right, bottom in pixels of the picture


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    """Rebuild a network once for both runtimes."""
    built = {}

    def build(form):
        if form['name'] not in built:
            built[form['name']] = rebuild(form['name'], form['classes'], tmp_path_factory.mktemp('network'))
        return built[form['name']]

    return build


def view(picture):
    image = cv2.imread(str(FOLDER.parent / picture['file']))
    x, y, width, height = picture['crop'] or (0, 0, image.shape[1], image.shape[0])
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def test_the_recorded_forms_cover_sizes_class_counts_and_batches():
    assert {320, 416, 640} <= {form['imgsz'][0] for form in FORMS.values()}
    assert any(height != width for height, width in (form['imgsz'] for form in FORMS.values()))
    assert {form['classes'] for form in FORMS.values()} == {1, 3, 80}
    assert {form['batch'] for form in FORMS.values()} == {1, 4}
    assert {form['dynamic'] for form in FORMS.values()} == {False, True}
    for form in FORMS.values():
        assert sum(len(picture['boxes']) for picture in form['pictures']) > 20, form['name']


@pytest.mark.parametrize('backend', CPU)
@pytest.mark.parametrize('name', FORMS)
def test_the_boxes_are_those_that_ultralytics_found_with_the_same_export(network, name, backend):
    form, settings = FORMS[name], RECORDED['settings']
    runtime = open_runtime(backend, network(form), CPU[backend])
    assert runtime.input_size == tuple(form['imgsz'])
    assert len(runtime.labels) == form['classes']
    detector = Detector(
        runtime,
        confidence_threshold=settings['conf'],
        nms_threshold=settings['iou'],
        max_detections=settings['max_det'],
    )
    for picture in form['pictures']:
        found = detector.detect(Frame(view(picture), 0, ''))
        theirs = np.array(picture['boxes'], np.float32).reshape(-1, 6)
        assert len(found) == len(theirs), picture['file']
        ours = np.column_stack([[runtime.labels.index(label) for label in found.class_id], found.score, found.xyxy])
        assert sorted(ours[:, 0]) == sorted(theirs[:, 0]), picture['file']
        apart = np.abs(theirs[:, None, :] - ours[None, :, :]) / TOLERANCE
        nearest = apart.max(axis=2).argmin(axis=1) if len(theirs) else []
        assert sorted(nearest) == list(range(len(theirs))), picture['file']
        assert all((apart[i, j] <= 1.0).all() for i, j in enumerate(nearest)), picture['file']
