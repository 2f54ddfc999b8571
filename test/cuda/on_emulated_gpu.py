"""The whole way of a frame on the emulated GPU; `test_emulated_gpu.py` runs this in a process of its own."""

import argparse
import ctypes
import gc
import itertools
import json
import logging
import os
import threading

import cv2
import numpy as np
import onnx
import pytest
import tensorrt_double as double
from onnx import TensorProto

import models
from edge_vision import cuda
from edge_vision.bench import figures, gpu_table
from edge_vision.bench import gpu as bench_gpu
from edge_vision.cuda.kernels import kernels
from edge_vision.detector import Detector
from edge_vision.engines import BuildReport, preparation
from edge_vision.engines import api as libraries
from edge_vision.errors import ModelError, RuntimeUnavailable
from edge_vision.frames import Frame
from edge_vision.runtimes import Options, open_runtime, tensorrt
from edge_vision.runtimes.onnxruntime import OnnxRuntime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.validation import sample_pictures
from edge_vision.yolov8 import letterbox

ANCHORS = [[48, 32, 20, 10, 0.1, 0.9], [20, 20, 8, 8, 0.6, 0.2], [70, 50, 8, 8, 0.1, 0.05]]
SIZES = [(640, 480), (1920, 1080), (333, 217), (50, 900), (100, 70), (3, 5), (320, 320)]
INTEGRATED = os.environ.get('EMULATED_INTEGRATED') == '1'


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """Put the double in the place of TensorRT."""
    found = libraries.Api(
        name='tensorrt',
        version='10.3.0',
        module=double,
        can_build=True,
        strongly_typed=True,
        has_precision_flags=True,
        has_progress=False,
        has_timing_cache=False,
    )

    def find(**_):
        return found

    def build(model, options, _, *, progress, **__):
        progress('building', 0.5)
        shape = (1, 3, *options.imgsz) if options.imgsz else (1, 3, 240, 320)
        report = BuildReport(seconds=0.0, peak_memory=0, peak_gpu_memory=None, size=1, input_shape=shape)
        return model.read_bytes(), report

    monkeypatch.setattr(libraries, 'find', find)
    monkeypatch.setattr(preparation, 'find', find)
    monkeypatch.setattr(preparation, 'build', build)
    double.behaviour.clear()
    double.happened.clear()
    yield
    double.behaviour.clear()


@pytest.fixture
def gpu():
    """Return the emulation; in the end nothing may be left on it."""
    emulation = ctypes.CDLL('libcuda.so.1')
    cuda.gpu().use()
    kernels()
    gc.collect()
    before = emulation.emulated_blocks()
    yield emulation
    gc.collect()
    assert emulation.emulated_blocks() == before


def counts(gpu):
    found = (ctypes.c_int * 3)()
    gpu.emulated_counts(found)
    return dict(zip(('copies', 'launches', 'replays'), found, strict=True))


def as_engine(model):
    """Write the engine of a model, as the double reads it, with the header that ultralytics writes."""
    properties = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    header = json.dumps(properties).encode()
    path = model.with_name(f'{model.stem}_plan.engine')  # no model of the same name to be compared with
    path.write_bytes(len(header).to_bytes(4, 'little') + header + model.read_bytes())
    return path


def open_both(model, **options):
    """Open the engine of a model and the model itself."""
    engine = open_runtime('tensorrt', as_engine(model), Options(**options))
    return engine, OnnxRuntime(model, Options(threads=1, providers=('CPUExecutionProvider',)))


@pytest.fixture
def conveyor(tmp_path):
    model = tmp_path / 'conveyor.onnx'
    model.write_bytes(share_file(CONVEYOR_MODEL).read_bytes())
    engine, reference = open_both(model)
    yield engine, reference
    engine.close()


PICTURES = list(itertools.islice(sample_pictures(None), 8))


def picture(size=(640, 480)):
    return cv2.resize(PICTURES[0], size)


def infer(runtime, image, min_score=0.25):
    return runtime.infer(image, letterbox((image.shape[1], image.shape[0]), runtime.input_size), min_score)


def grey(width=96, height=64, value=128):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.usefixtures('gpu')
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_anchors_are_those_of_the_reference(conveyor, size):
    engine, reference = conveyor
    image = picture(size)
    for min_score in (0.25, 0.001, -1.0):
        expected = infer(reference, image, min_score)
        found = infer(engine, image, min_score)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert found.shape[1] == 1680 or min_score > 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # what ONNX Runtime sums on two or on one thread


@pytest.mark.usefixtures('gpu')
def test_boxes_are_those_of_the_reference(conveyor):
    engine, reference = (Detector(runtime) for runtime in conveyor)
    seen = 0
    for image in PICTURES:
        found, expected = engine.detect(Frame(image, 0, '')), reference.detect(Frame(image, 0, ''))
        assert found.class_id == expected.class_id
        np.testing.assert_allclose(found.xyxy, expected.xyxy, rtol=0, atol=1e-3)
        np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=1e-5)
        seen += len(found)
    assert seen >= len(PICTURES)


@pytest.mark.parametrize(
    'form',
    [
        {},
        {'batch': 4},
        {'batch': 'batch'},
        {'batch': 'batch', 'free_size': True},
        {'transposed': True},
        {'element_type': TensorProto.FLOAT16},
        {'element_type': TensorProto.FLOAT16, 'transposed': True, 'batch': 4},
    ],
    ids=['plain', 'batch of 4', 'dynamic batch', 'dynamic', 'transposed', 'half', 'half, transposed, batch of 4'],
)
@pytest.mark.usefixtures('gpu')
def test_every_form_of_engine_gives_the_anchors_above_the_threshold(tmp_path, form):
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, **form)))
    assert (runtime.name, runtime.input_size, runtime.labels) == ('tensorrt', (64, 96), ('dent', 'scratch'))
    np.testing.assert_allclose(infer(runtime, grey()).T, ANCHORS[:2], atol=0.01)
    np.testing.assert_allclose(infer(runtime, grey(), -1.0).T, ANCHORS, atol=0.01)


@pytest.mark.parametrize('half', [False, True], ids=['float', 'half'])
@pytest.mark.usefixtures('gpu')
def test_only_the_whole_output_holds_more_anchors_than_there_is_room_for(tmp_path, half):
    anchors = np.random.default_rng(0).uniform(0, 1, (3000, 6)).astype(np.float16)
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    engine = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', anchors, element_type=kind)))
    for min_score in (0.1, 0.9, 0.1):
        expected = anchors[anchors[:, 4:].max(axis=1) > np.float32(min_score)]
        assert (len(expected) > 1024) == (min_score == 0.1)
        np.testing.assert_allclose(infer(engine, grey(), min_score).T, expected, atol=1e-3)


@pytest.mark.usefixtures('gpu')
@pytest.mark.parametrize(
    ('wanted', 'taken'), [(None, (64, 96)), ((96, 160), (96, 160)), ((1280, 16), (640, 32))], ids=str
)
def test_free_size_is_the_one_asked_for_or_the_nearest_that_the_engine_takes(tmp_path, wanted, taken):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, batch='batch', free_size=True))
    runtime = open_runtime('tensorrt', path, Options(input_size=wanted))
    assert runtime.input_size == taken
    np.testing.assert_allclose(infer(runtime, grey()).T, ANCHORS[:2], atol=1e-3)


@pytest.mark.parametrize('allocation', [1, 2])
def test_picture_that_finds_no_memory_is_an_error_and_the_next_one_is_not(gpu, tmp_path, allocation):
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
    gpu.emulated_shortage(allocation)
    with pytest.raises(cuda.GpuError, match='CUDA_ERROR_OUT_OF_MEMORY'):
        infer(runtime, grey(640, 480))
    for width in (640, 96):
        np.testing.assert_allclose(infer(runtime, grey(width)).T, ANCHORS[:2], atol=1e-3)


@pytest.mark.usefixtures('gpu')
def test_boxes_that_are_not_numbers_are_handed_on_to_be_counted(tmp_path):
    anchors = [[48, 32, 20, 10, np.nan, 0.0], *ANCHORS]
    detector = Detector(open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', anchors))))
    assert len(detector.detect(Frame(grey(), 0, ''))) == 2
    assert detector.malformed == 1


@pytest.mark.usefixtures('gpu')
def test_a_result_stays_as_it_was_when_the_next_picture_is_inferred(tmp_path):
    runtime = open_runtime('tensorrt', as_engine(models.mean_colours(tmp_path / 'm.onnx')))
    first = infer(runtime, grey(64, 64, 255))
    infer(runtime, grey(64, 64, 128))
    np.testing.assert_allclose(first[4:, 0], 1.0, atol=1e-5)


def test_one_graph_does_each_frame_and_a_new_size_gets_its_own(gpu, conveyor):
    engine, reference = conveyor
    session = engine._runtime._session
    before = counts(gpu)
    for _ in range(3):
        infer(engine, picture())
    after = counts(gpu)
    assert after['replays'] - before['replays'] == 3
    assert after['launches'] - before['launches'] == 6
    assert after['copies'] - before['copies'] == 6
    for size in SIZES * 2:
        image = picture(size)
        np.testing.assert_allclose(infer(engine, image), infer(reference, image), rtol=0, atol=1e-4)
        assert 1 <= len(session._graphs) <= tensorrt.MAX_GRAPHS


@pytest.mark.usefixtures('gpu')
def test_only_the_picture_is_read_in_place_where_memory_is_shared_and_nothing_elsewhere(tmp_path):
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
    session = runtime._runtime._session
    mapped = range(session._staging.address, session._staging.address + session._staging.array.size)
    *tables, picture = (value.value in mapped for value in session._letterbox_arguments._values[:5])
    assert tables == [False] * 4
    assert picture is INTEGRATED
    assert (session._staging_on_gpu.size < grey().size) is INTEGRATED


def test_what_cannot_be_captured_runs_without_a_graph_and_says_so_once(gpu, tmp_path, caplog):
    double.behaviour['cannot be captured'] = True
    replays = counts(gpu)['replays']
    with caplog.at_level(logging.INFO):
        runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
        for width in (96, 40, 96):
            np.testing.assert_allclose(infer(runtime, grey(width)).T, ANCHORS[:2], atol=1e-3)
    assert counts(gpu)['replays'] == replays
    assert caplog.text.count('without a CUDA graph') == 1


@pytest.mark.usefixtures('gpu')
def test_a_graph_that_gives_other_boxes_is_not_used(tmp_path, caplog):
    double.behaviour['lies in a graph'] = True
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
    np.testing.assert_allclose(infer(runtime, grey()).T, ANCHORS[:2], atol=1e-3)
    assert 'with it the boxes are others' in caplog.text


@pytest.mark.usefixtures('gpu')
def test_a_frame_that_fails_is_an_error_and_the_next_one_is_not(tmp_path):
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
    runtime._runtime._session._capturable = False
    double.behaviour['fails'] = True
    for _ in range(2):
        with pytest.raises(cuda.GpuError, match=r'TensorRT failed to run .*m_plan.engine.*it is tired'):
            infer(runtime, grey())
    double.behaviour.clear()
    np.testing.assert_allclose(infer(runtime, grey()).T, ANCHORS[:2], atol=1e-3)


@pytest.mark.usefixtures('gpu')
def test_engine_that_does_not_run_is_an_error_at_the_start_and_leaves_nothing(tmp_path):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    double.behaviour['fails'] = True
    with pytest.raises(cuda.GpuError, match='it is tired'):
        open_runtime('tensorrt', path)


@pytest.mark.usefixtures('gpu')
def test_it_works_in_any_thread_and_is_given_back_in_any(tmp_path):
    runtime = open_runtime('tensorrt', as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)))
    found = []

    def work(width):
        found.append(infer(runtime, grey(width)).T)

    for width in (96, 200):
        thread = threading.Thread(target=work, args=(width,))
        thread.start()
        thread.join()
        np.testing.assert_allclose(found.pop(), ANCHORS[:2], atol=1e-3)
    thread = threading.Thread(target=runtime.close)
    thread.start()
    thread.join()
    runtime.close()
    with pytest.raises(cuda.GpuError, match='is closed'):
        infer(runtime, grey())


@pytest.mark.usefixtures('gpu')
def test_several_threads_at_once_get_each_their_own_boxes(tmp_path):
    path = as_engine(models.mean_colours(tmp_path / 'm.onnx'))
    wrong = []

    def work(value):
        runtime = open_runtime('tensorrt', path)
        for width in (64, 31, 64, 100) * 5:
            score = infer(runtime, grey(width, width, value), 0.0)[4:, 0]
            if not np.allclose(score, value / 255, atol=1e-4):
                wrong.append((value, score))

    threads = [threading.Thread(target=work, args=(value,)) for value in (60, 120, 240)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.usefixtures('gpu')
def test_cameras_share_an_engine_with_a_context_each_and_all_goes_in_order(tmp_path):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    one, two = open_runtime('tensorrt', path), open_runtime('tensorrt', path)
    assert double.happened == ['engine on -1', 'context', 'context']
    del one
    gc.collect()
    np.testing.assert_allclose(infer(two, grey()).T, ANCHORS[:2], atol=1e-3)
    del two
    gc.collect()
    assert double.happened[3:] == ['context gone', 'context gone', 'engine gone', 'runtime gone']
    double.happened.clear()
    open_runtime('tensorrt', path).close()
    assert double.happened[0] == 'engine on -1'


@pytest.mark.usefixtures('gpu')
def test_accelerator_core_is_chosen_before_the_engine_is_loaded(tmp_path):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    open_runtime('tensorrt', path, Options(dla_core=1))
    assert double.happened[0] == 'engine on 1'


@pytest.mark.usefixtures('gpu')
def test_model_is_built_validated_and_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'engines'))
    model = share_file(CONVEYOR_MODEL)
    with caplog.at_level(logging.INFO):
        runtime = open_runtime('auto', model)
    assert runtime.name == 'tensorrt'
    assert 'engine: 50 %' in caplog.text
    side_car = json.loads(next((tmp_path / 'engines').glob('*.json')).read_text())
    assert side_car['validation']['accepted']
    assert side_car['identity']['device'] == 'Emulated'
    reference = OnnxRuntime(model, Options(providers=('CPUExecutionProvider',)))
    np.testing.assert_allclose(infer(runtime, picture()), infer(reference, picture()), rtol=0, atol=1e-4)


@pytest.mark.usefixtures('gpu')
def test_model_is_run_without_a_comparison_when_asked_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'engines'))
    open_runtime('tensorrt', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS), Options(validate=False))
    assert 'is used without a comparison with its model, as asked' in caplog.text


def test_nothing_is_built_where_the_kernels_cannot_be_compiled(tmp_path, monkeypatch):
    def no_compiler():
        raise RuntimeUnavailable('the kernels cannot be compiled')

    monkeypatch.setattr(tensorrt, 'kernels', no_compiler)
    monkeypatch.setattr(preparation, 'build', lambda *_, **__: pytest.fail('it was built all the same'))
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'engines'))
    with pytest.raises(RuntimeUnavailable, match='the kernels cannot be compiled'):
        open_runtime('tensorrt', models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))


def test_engine_is_compared_with_the_model_of_its_name(tmp_path):
    model = models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    other = models.fixed_boxes(tmp_path / 'other.onnx', [(9.0, 9.0, 4.0, 4.0, 0.9, 0.0)])
    engine = as_engine(other).rename(tmp_path / 'm.engine')
    with pytest.raises(ModelError, match='does not see what its model sees'):
        open_runtime('tensorrt', engine)
    as_engine(model).rename(engine)
    assert open_runtime('tensorrt', engine).name == 'tensorrt'


@pytest.mark.usefixtures('gpu')
def test_engine_of_another_gpu_is_refused_with_what_the_library_says(tmp_path):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ModelError, match=r'built for another GPU.*cannot read it.*build-engine') as refusal:
        open_runtime('tensorrt', path)
    assert '\n' not in str(refusal.value)


@pytest.mark.usefixtures('gpu')
def test_engine_that_is_not_yolov8_detection_is_refused_and_leaves_nothing(tmp_path):
    properties = models.metadata(('a', 'b', 'c'), (64, 96))
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS, properties=properties))
    with pytest.raises(ModelError, match=r'should have the shape \(N, 7, anchors\)'):
        open_runtime('tensorrt', path)
    path = as_engine(models.fixed_boxes(tmp_path / 'd.onnx', ANCHORS, element_type=TensorProto.DOUBLE))
    with pytest.raises(ModelError, match='expected float32 or float16'):
        open_runtime('tensorrt', path)


@pytest.mark.usefixtures('gpu')
def test_copies_beyond_their_memory_are_refused():
    stream = cuda.Stream()
    memory, buffer = cuda.Memory(stream, 100), cuda.HostBuffer(200)
    for size in (0, 101):
        with pytest.raises(ValueError, match='expected 1 to 100'):
            stream.upload(memory, buffer, size)
    stream.synchronize()
    for part in (memory, buffer, stream):
        part.close()
        part.close()


@pytest.mark.usefixtures('gpu')
def test_time_between_events_is_told():
    stream, first, second = cuda.Stream(), cuda.Event(), cuda.Event()
    first.record(stream)
    second.record(stream)
    assert second.since(first) >= 0.0
    for part in (first, second, stream):
        part.close()


@pytest.mark.usefixtures('gpu')
def test_steps_are_timed_beside_copies(conveyor, capsys):
    args = argparse.Namespace(size=[(64, 48)], duration=0.0)
    (row,) = figures.shown(bench_gpu.steps(conveyor[0], args), bench_gpu.cells)
    assert row['gpu'] == 'Emulated'
    for name in ('upload', 'letterbox', 'mapped', 'copy', 'take', 'copy_output', 'infer'):
        assert row[f'{name}_ms']['p50'] > 0.0
    assert row['letterbox_per_copy'] == row['letterbox_ms']['p50'] / row['copy_ms']['p50']
    assert capsys.readouterr().out.split('\n')[2].startswith('64x48')


@pytest.mark.usefixtures('gpu')
def test_table_of_a_machine_stands_beside_trtexec(tmp_path, monkeypatch):
    trtexec = tmp_path / 'trtexec'
    words = 'GPU Compute Time: min = 0.1 ms, max = 2 ms, mean = 1 ms, median = 0.25 ms, percentile(90%) = 1 ms'
    trtexec.write_text(f'#!/bin/sh\ntest -s "${{1#--loadEngine=}}" && echo "[I] {words}"\n')
    trtexec.chmod(0o755)
    monkeypatch.setattr(gpu_table, 'TRTEXEC', (str(trtexec),))
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    args = argparse.Namespace(model=path, precision='fp16', size=[(64, 48), (96, 64)], duration=0.0)
    lines = list(gpu_table.table(args))
    assert lines[0].startswith('Emulated, tensorrt 10.3.0, 96x64 fp16')
    assert len({line.count('|') for line in lines[2:6]}) == 1
    assert 'trtexec, the bare network: 0.250 ms' in lines
    assert lines[-1].startswith('infer of 96x64 takes ')
    monkeypatch.setattr(gpu_table, 'TRTEXEC', ('no-such-program',))
    assert list(gpu_table.table(args))[-1] == 'trtexec not compared: none of no-such-program is here'


def test_lost_gpu_raises_on_every_frame_from_then_on(tmp_path):
    path = as_engine(models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS))
    runtime, other = open_runtime('tensorrt', path), open_runtime('tensorrt', path)
    ctypes.CDLL('libcuda.so.1').emulated_fault()
    for failing in (runtime, runtime, other):
        with pytest.raises(cuda.GpuError, match=r'CUDA_ERROR_ILLEGAL_ADDRESS.*start the process anew'):
            infer(failing, grey())
    with pytest.raises(cuda.GpuError):
        open_runtime('tensorrt', path)
    runtime.close()  # what cannot be given back is no error any more
    del other
    gc.collect()


def test_lost_driver_is_no_gpu():
    with pytest.raises(RuntimeUnavailable, match=r'no GPU works here \(CUDA_ERROR_NO_DEVICE.*nvidia-smi'):
        cuda.device()
