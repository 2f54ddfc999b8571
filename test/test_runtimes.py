import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from onnx import TensorProto

import models
from edge_vision import runtimes
from edge_vision.backends import RUNTIMES, Entry
from edge_vision.errors import ConfigurationError, ModelError, RuntimeUnavailable
from edge_vision.params import DetectorParams
from edge_vision.runtimes import Options, open_runtime, options_of
from edge_vision.runtimes.onnxruntime import TENSORRT, ort, provider_options
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


@pytest.fixture
def without(monkeypatch):
    """Make libraries or runtimes not importable."""

    def hide(*names):
        for name in names:
            module = f'edge_vision.runtimes.{RUNTIMES[name].module}'
            monkeypatch.delitem(sys.modules, module, raising=False)
            monkeypatch.setitem(sys.modules, name if name in ('openvino', 'onnxruntime') else module, None)

    return hide


def test_auto_takes_the_first_that_works_and_says_why_in_one_line(tmp_path, caplog, without):
    without('tensorrt')
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with caplog.at_level(logging.INFO):
        assert open_runtime('auto', path).name == 'openvino'
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith('openvino runs m.onnx, 96x64, 2 classes (tensorrt: not installed (no ')
    assert line.endswith(', see requirements/tensorrt.txt)')


def test_auto_goes_on_until_something_is_installed(tmp_path, caplog, without):
    without('tensorrt', 'openvino')
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with caplog.at_level(logging.INFO):
        assert open_runtime('auto', path).name == 'onnxruntime'
    assert 'openvino: not installed (no openvino), pip install openvino' in caplog.text
    with pytest.raises(RuntimeUnavailable, match='pip install openvino'):
        open_runtime('openvino', path)


def test_auto_with_nothing_installed_names_everything_that_could_be(tmp_path, without):
    without(*RUNTIMES)
    ways = [rf'{name}: not installed \(no \S+\), {re.escape(entry.install)}' for name, entry in RUNTIMES.items()]
    with pytest.raises(RuntimeUnavailable, match='; '.join(ways) + '$'):
        open_runtime('auto', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))


@pytest.fixture
def make_first(tmp_path, monkeypatch, without):
    """Put a runtime before all others that fails as it is told."""
    without('tensorrt')

    def make(error):
        source = f"""
from edge_vision.errors import *
def FirstRuntime(path, options):
    raise {error}
"""
        (tmp_path / 'first_of_a_test.py').write_text(source)
        monkeypatch.setattr(runtimes, '__path__', [*runtimes.__path__, str(tmp_path)])
        monkeypatch.delitem(sys.modules, 'edge_vision.runtimes.first_of_a_test', raising=False)
        row = Entry('first_of_a_test', 'FirstRuntime', 'pip install first', ('.onnx',))
        monkeypatch.setattr(runtimes, 'RUNTIMES', {'first': row, **RUNTIMES})

    return make


def test_auto_passes_over_a_runtime_that_cannot_work_on_this_machine_and_says_why(tmp_path, caplog, make_first):
    make_first("RuntimeUnavailable('no GPU was found')")
    with caplog.at_level(logging.INFO):
        assert open_runtime('auto', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)).name != 'first'
    assert '(first: no GPU was found' in caplog.messages[-1]


def test_a_named_runtime_that_cannot_work_on_this_machine_is_an_error(tmp_path, make_first):
    make_first("RuntimeUnavailable('no GPU was found')")
    with pytest.raises(RuntimeUnavailable, match=r"'first' cannot be used for .*: first: no GPU was found"):
        open_runtime('first', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))


@pytest.mark.parametrize('error', [ModelError, ConfigurationError])
def test_auto_never_hides_that_a_runtime_that_works_here_failed(tmp_path, make_first, error):
    make_first(f"{error.__name__}('the engine found nothing')")
    with pytest.raises(error, match=r'^the engine found nothing$'):
        open_runtime('auto', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))


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
        ('m.tflite', "ends in '.tflite', expected one of"),
        ('missing.onnx', 'does not exist'),
        ('.', "ends in ''"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_way_out(tmp_path, name, reason):
    if name not in {'missing.onnx', '.'}:
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(ModelError, match=reason):
        open_runtime('auto', tmp_path / name)


@pytest.mark.parametrize(
    ('name', 'way_out'),
    [('m.pt', 'yolo export model=.*m.pt format=onnx'), ('m.engine', 'give the ONNX file it was built from')],
)
@pytest.mark.parametrize('backend', ['auto', 'openvino', 'onnxruntime'])
def test_what_only_tensorrt_reads_is_refused_without_it_with_the_way_out(tmp_path, without, name, way_out, backend):
    without('tensorrt')
    (tmp_path / name).write_bytes(b'x')
    with pytest.raises(RuntimeUnavailable, match=rf'reads \.onnx.*{way_out}'):
        open_runtime(backend, tmp_path / name)


def test_onnxruntime_refuses_an_openvino_model(tmp_path):
    with pytest.raises(ConfigurationError, match=r'onnxruntime: reads \.onnx files'):
        open_runtime('onnxruntime', openvino_folder(tmp_path))


@pytest.mark.parametrize(
    ('backend', 'precision', 'reason'),
    [
        ('tensorflow', 'fp32', f"backend is 'tensorflow', expected one of {re.escape(str(['auto', *RUNTIMES]))}"),
        ('auto', 'fp64', "precision is 'fp64'"),
        ('openvino', 'int8', "precision is 'int8'"),
        ('onnxruntime', 'fp16', "precision is 'fp16'"),
    ],
)
def test_an_unknown_choice_is_refused(tmp_path, backend, precision, reason):
    with pytest.raises(ConfigurationError, match=reason):
        open_runtime(backend, models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), Options(precision=precision))


CPU, CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'


def test_a_provider_that_is_not_there_is_refused(tmp_path):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with pytest.raises(ConfigurationError, match=f"no provider 'MoonExecutionProvider' here, .*{CPU}"):
        open_runtime('onnxruntime', path, Options(providers=('MoonExecutionProvider', CPU)))


def test_a_provider_after_the_cpu_is_refused_as_it_would_never_run_anything(tmp_path):
    last = ort.get_available_providers()[0]
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with pytest.raises(ConfigurationError, match=f"expected '{CPU}' last"):
        open_runtime('onnxruntime', path, Options(providers=(CPU, last)))


def test_the_tensorrt_provider_keeps_engines_by_the_content_of_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'cache'))
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    first = provider_options(TENSORRT, path)['trt_engine_cache_path']
    assert Path(first).is_relative_to(tmp_path / 'cache')
    assert Path(first).is_dir()
    assert provider_options(TENSORRT, path)['trt_engine_cache_path'] == first
    models.fixed_boxes(path, ANCHORS[:2])
    assert provider_options(TENSORRT, path)['trt_engine_cache_path'] != first
    (tmp_path / 'file').touch()
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'file'))
    with pytest.raises(ConfigurationError, match='name a writable directory in EDGE_VISION_ENGINE_CACHE'):
        provider_options(TENSORRT, path)


def test_providers_mean_onnxruntime(tmp_path):
    path, options = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), Options(providers=(CPU,))
    assert open_runtime('auto', path, options).name == 'onnxruntime'
    with pytest.raises(RuntimeUnavailable, match='openvino: has no providers, which are those of onnxruntime'):
        open_runtime('openvino', path, options)


@pytest.fixture
def idle_cuda(monkeypatch):
    """List a provider that does not start: onnxruntime leaves it out of the session, as it does without a driver."""
    listed = ort.get_available_providers()
    if CUDA in listed:
        pytest.skip('this onnxruntime has CUDA')
    monkeypatch.setattr(ort, 'get_available_providers', lambda: [CUDA, *listed])


@pytest.mark.usefixtures('idle_cuda')
@pytest.mark.filterwarnings('ignore:Specified provider')
def test_a_provider_that_was_asked_for_and_does_not_start_is_an_error(tmp_path):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with pytest.raises(RuntimeUnavailable, match=f"provider '{CUDA}' does not start on this machine"):
        open_runtime('onnxruntime', path, Options(providers=(CUDA, CPU)))


@pytest.mark.usefixtures('idle_cuda')
@pytest.mark.filterwarnings('ignore:Specified provider')
def test_the_cpu_stands_in_for_cuda_that_nobody_asked_for_and_says_so(tmp_path, caplog):
    runtime = open_runtime('onnxruntime', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    assert infer(runtime).shape == (6, 2)
    assert f"onnxruntime runs on the CPU: its provider '{CUDA}' does not start" in caplog.text


@pytest.mark.usefixtures('idle_cuda')
@pytest.mark.filterwarnings('ignore:Specified provider')
def test_auto_goes_on_without_a_provider_only_where_nobody_asked_for_it(tmp_path):
    path = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    with pytest.raises(RuntimeUnavailable, match=rf"'auto' cannot be used.*; onnxruntime: its provider '{CUDA}'"):
        open_runtime('auto', path, Options(providers=(CUDA, CPU)))


@backends
def test_a_model_that_takes_any_size_can_be_given_one(tmp_path, backend):
    free = models.fixed_boxes(tmp_path / 'free.onnx', ANCHORS, batch='batch', free_size=True)
    assert open_runtime(backend, free, Options(input_size=(32, 160))).input_size == (32, 160)
    assert open_runtime(backend, free).input_size == (64, 96)
    fixed = models.fixed_boxes(tmp_path / 'fixed.onnx', ANCHORS)
    assert open_runtime(backend, fixed, Options(input_size=(32, 160))).input_size == (64, 96)


def test_every_option_comes_from_a_parameter_of_the_detector():
    params = DetectorParams(
        precision='fp16',
        threads=3,
        providers=(CPU,),
        engine_file_path='~/m.engine',
        force_engine_update=True,
        calibration_directory='pictures',
        validate_engine=False,
        dla_core=1,
    )
    assert options_of(params) == Options(
        precision='fp16',
        threads=3,
        providers=(CPU,),
        engine_file_path=Path.home() / 'm.engine',
        force_engine_update=True,
        calibration=Path('pictures'),
        validate=False,
        dla_core=1,
    )
    assert options_of(DetectorParams()) == Options()


@backends
def test_the_number_of_threads_can_be_chosen(tmp_path, backend):
    runtime = open_runtime(backend, models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), Options(threads=1))
    assert infer(runtime).shape == (6, 2)


@pytest.mark.parametrize('name', RUNTIMES)
def test_every_row_of_the_table_names_a_runtime_of_that_name(name):
    entry = RUNTIMES[name]
    try:
        module = importlib.import_module(f'edge_vision.runtimes.{entry.module}')
    except (ImportError, RuntimeUnavailable) as error:
        pytest.skip(f'{name} is not available here: {error}')
    assert getattr(module, entry.class_name).name == name
