import importlib
import logging
import subprocess
import sys

import numpy as np
import pytest
import yaml
from onnx import TensorProto

import models
from edge_vision.errors import ConfigurationError, ModelError
from edge_vision.runtimes import RUNTIMES, open_runtime
from edge_vision.runtimes.onnxruntime import OnnxRuntime
from edge_vision.runtimes.openvino import ov
from edge_vision.yolov8 import letterbox

ANCHORS = [[48, 32, 20, 10, 0.1, 0.9], [20, 20, 8, 8, 0.6, 0.2], [70, 50, 8, 8, 0.1, 0.05]]
GREY = np.full((48, 64, 3), 128, np.uint8)

backends = pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])


def infer(runtime, image=GREY, min_score=0.25):
    return runtime.infer(image, letterbox((image.shape[1], image.shape[0]), runtime.input_size), min_score)


@backends
@pytest.mark.parametrize(
    'form',
    [
        {},
        {'batch': 4},
        {'batch': 'batch', 'free_size': True},
        {'transposed': True},
        {'element_type': TensorProto.FLOAT16},
    ],
    ids=['plain', 'batch of 4', 'dynamic', 'transposed', 'half precision'],
)
def test_every_form_of_export_gives_the_anchors_above_the_threshold(tmp_path, backend, form):
    runtime = open_runtime(backend, models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, **form))
    anchors = infer(runtime)
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors.T, ANCHORS[:2], atol=1e-3)


@backends
def test_labels_and_input_size_come_from_the_model(tmp_path, backend):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, labels=("driver's cab", 'köper'), input_size=(32, 160))
    runtime = open_runtime(backend, path)
    assert runtime.name == backend
    assert runtime.labels == ("driver's cab", 'köper')
    assert runtime.input_size == (32, 160)


@backends
def test_the_network_sees_red_green_blue_from_0_to_1_on_a_grey_border(tmp_path, backend):
    runtime = open_runtime(backend, models.mean_colours(tmp_path / 'm.onnx'))
    blue_green_red = np.full((32, 64, 3), (51, 102, 255), np.uint8)
    means = infer(runtime, blue_green_red, 0.0)[4:, 0]
    expected = (np.array([255, 102, 51]) + 114) / 2 / 255
    np.testing.assert_allclose(means, expected, atol=1e-5)


@backends
def test_a_result_stays_as_it_was_when_the_next_picture_is_inferred(tmp_path, backend):
    runtime = open_runtime(backend, models.mean_colours(tmp_path / 'm.onnx'))
    first = infer(runtime, np.full((64, 64, 3), 255, np.uint8))
    infer(runtime, np.full((64, 64, 3), 128, np.uint8))
    np.testing.assert_allclose(first[4:, 0], 1.0, atol=1e-5)


def test_auto_takes_openvino_first_and_says_so(tmp_path, caplog):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with caplog.at_level(logging.INFO):
        assert open_runtime('auto', path).name == 'openvino'
    assert [r.getMessage() for r in caplog.records] == ['openvino runs m.onnx, 96x64, 2 classes (first choice)']


def test_auto_takes_what_is_installed_and_says_why(tmp_path, caplog, monkeypatch):
    monkeypatch.delitem(sys.modules, 'edge_vision.runtimes.openvino', raising=False)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with caplog.at_level(logging.INFO):
        assert open_runtime('auto', path).name == 'onnxruntime'
    assert 'openvino is not available, pip install openvino' in caplog.text
    with pytest.raises(ConfigurationError, match='pip install openvino'):
        open_runtime('openvino', path)


def test_a_runtime_that_is_not_chosen_is_not_imported():
    script = 'import sys, edge_vision.detector; print([m for m in ("openvino", "onnxruntime") if m in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', script], text=True).strip() == '[]'


def test_openvino_neither_forks_nor_opens_a_socket(tmp_path):
    script = f"""
import sys
def refuse(event, args):
    if event in ('os.fork', 'os.posix_spawn', 'subprocess.Popen') or event.startswith('socket.'):
        print(event, args, flush=True)
sys.addaudithook(refuse)
from edge_vision.runtimes import open_runtime
open_runtime('openvino', {str(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))!r})
"""
    assert subprocess.check_output([sys.executable, '-c', script], text=True) == ''


def openvino_folder(tmp_path, **changes):
    model = ov.Core().read_model(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    ov.save_model(model, tmp_path / 'm.xml')
    content = {'task': 'detect', 'imgsz': [64, 96], 'names': {0: 'dent', 1: 'scratch'}, **changes}
    (tmp_path / 'metadata.yaml').write_text(yaml.safe_dump(content))
    return tmp_path / 'm.xml'


@pytest.mark.parametrize('backend', ['auto', 'openvino'])
def test_openvino_reads_its_own_kind_of_model_with_its_yaml(tmp_path, backend):
    runtime = open_runtime(backend, openvino_folder(tmp_path))
    assert runtime.labels == ('dent', 'scratch')
    np.testing.assert_allclose(infer(runtime).T, ANCHORS[:2], atol=1e-2)


@pytest.mark.parametrize(
    ('yaml_text', 'reason'),
    [(None, 'no metadata.yaml'), ('a: [', 'damaged'), ('just text', 'damaged'), ('task: pose', "task 'pose'")],
)
def test_an_openvino_model_without_usable_yaml_is_refused(tmp_path, yaml_text, reason):
    path = openvino_folder(tmp_path)
    if yaml_text is None:
        (tmp_path / 'metadata.yaml').unlink()
    else:
        (tmp_path / 'metadata.yaml').write_text(yaml_text)
    with pytest.raises(ModelError, match=reason):
        open_runtime('openvino', path)


@backends
@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'task': 'segment'}, "task 'segment'"),
        ({'names': ''}, 'does not name its classes'),
        ({'imgsz': ''}, 'does not name its classes'),
        ({'names': '{0: '}, 'unreadable metadata'),
        ({'names': '{1: "a", 2: "b"}'}, 'unreadable metadata'),
        ({'imgsz': '[64]'}, 'unreadable metadata'),
        ({'names': str({0: 'a', 1: 'b', 2: 'c'})}, r'should have the shape \(N, 7, anchors\), but has \(1, 6, 3\)'),
        ({'end2end': 'True'}, 'NMS built in'),
        ({'args': "{'nms': True, 'batch': 1}"}, 'NMS built in'),
    ],
)
def test_a_model_that_is_not_yolov8_detection_is_refused(tmp_path, backend, changes, reason):
    properties = models.metadata(('dent', 'scratch'), (64, 96), **changes)
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, properties=properties)
    with pytest.raises(ModelError, match=reason) as refusal:
        open_runtime(backend, path)
    assert '\n' not in str(refusal.value)


@backends
@pytest.mark.parametrize(
    ('pattern', 'kept'),
    [(b'', None), (b'not a model', None), (b'\x08\x07', None), (b'%s', 500), (b'%s', -1)],
    ids=['empty', 'text', 'no graph', 'cut off', 'last byte missing'],
)
def test_a_damaged_file_is_refused(tmp_path, backend, pattern, kept):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    path.write_bytes(pattern.replace(b'%s', path.read_bytes())[:kept])
    with pytest.raises(ModelError, match='damaged or not a model') as refusal:
        open_runtime(backend, path)
    assert '\n' not in str(refusal.value)


@backends
def test_a_graph_that_cannot_run_is_refused(tmp_path, backend):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    path.write_bytes(path.read_bytes().replace(b'ReduceMean', b'ReduceLean'))
    with pytest.raises(ModelError, match='damaged or not a model'):
        open_runtime(backend, path)


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('m.pt', 'yolo export model=.*m.pt format=onnx'),
        ('m.engine', 'no TensorRT runtime here'),
        ('m.tflite', "ends in '.tflite', expected one of"),
        ('missing.onnx', 'does not exist'),
        ('.', 'does not exist'),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_way_out(tmp_path, name, reason):
    if name not in {'missing.onnx', '.'}:
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ModelError, match=reason):
        open_runtime('auto', tmp_path / name)


def test_onnxruntime_refuses_an_openvino_model(tmp_path):
    with pytest.raises(ConfigurationError, match=r'onnxruntime reads \.onnx files'):
        open_runtime('onnxruntime', openvino_folder(tmp_path))


@pytest.mark.parametrize(
    ('backend', 'precision', 'reason'),
    [
        ('tensorflow', 'fp32', r"backend is 'tensorflow', expected one of \['auto', 'openvino', 'onnxruntime'\]"),
        ('auto', 'fp64', "precision is 'fp64'"),
        ('openvino', 'int8', "precision is 'int8'"),
        ('onnxruntime', 'fp16', "precision is 'fp16'"),
    ],
)
def test_an_unknown_choice_is_refused(tmp_path, backend, precision, reason):
    with pytest.raises(ConfigurationError, match=reason):
        open_runtime(backend, models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), precision=precision)


def test_a_provider_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="no provider 'MoonExecutionProvider'"):
        OnnxRuntime(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), providers=['MoonExecutionProvider'])


@backends
def test_the_number_of_threads_can_be_chosen(tmp_path, backend):
    runtime = open_runtime(backend, models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), threads=1)
    assert infer(runtime).shape == (6, 2)


def test_every_row_of_the_table_names_a_runtime_of_that_name():
    for name, entry in RUNTIMES.items():
        assert getattr(importlib.import_module(f'edge_vision.runtimes.{entry.module}'), entry.class_name).name == name
