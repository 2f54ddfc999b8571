import inspect
import json
import threading
from dataclasses import replace

import builder_double
import cv2
import numpy as np
import onnx
import pytest
from engine_models import yolov8n

import models
from edge_vision.engines import BuildOptions, conversion
from edge_vision.engines import api as layer
from edge_vision.engines.api import describe, make_logger
from edge_vision.engines.builder import build, converted, peak_gpu_memory
from edge_vision.errors import ConfigurationError, ModelError, RuntimeUnavailable
from edge_vision.runtimes import open_runtime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.dataset import HELD_OUT, make_picture
from edge_vision.validation import check, compare, reference_runtime, sample_pictures

BOX = [(32.0, 32.0, 10.0, 10.0, 0.9, 0.1)]


@pytest.fixture(scope='module')
def conveyor():
    return share_file(CONVEYOR_MODEL)


@pytest.fixture(scope='module')
def nano(tmp_path_factory):
    return yolov8n(tmp_path_factory.mktemp('models') / 'yolov8n.onnx')


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    directory = tmp_path_factory.mktemp('pictures')
    for index in range(6):
        cv2.imwrite(str(directory / f'{index}.png'), make_picture(7, index, HELD_OUT)[0])
    return directory


def as_parsed(api, model, options):
    """Ask the real parser what it makes of a converted model.

    Returns:
        The types of input and output, and for every convolution the kinds of layers that give its picture and weights.

    """
    logger = make_logger(api)
    builder = api.module.Builder(logger)
    network = builder.create_network(1 << int(api.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = api.module.OnnxParser(network, logger)
    assert parser.parse(converted(model, options))
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer.type for layer in layers for i in range(layer.num_outputs)}
    sources = [
        tuple(makers.get(layer.get_input(i).name) for i in range(layer.num_inputs))
        for layer in layers
        if layer.type == api.module.LayerType.CONVOLUTION
    ]
    return network.get_input(0).dtype, network.get_output(0).dtype, sources


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_the_shipped_model_becomes_an_engine(api, conveyor, pictures, precision):
    plan, report = build(conveyor, BuildOptions(precision=precision, calibration=pictures), api)
    assert len(plan) == report.size > 1_000_000
    assert report.input_shape == (1, 3, 256, 320)
    assert report.seconds > 0
    assert report.peak_memory > len(plan)


@pytest.mark.parametrize('precision', ['fp32', 'fp16', 'int8'])
def test_yolov8n_becomes_an_engine(api, nano, pictures, precision, tmp_path):
    (tmp_path / 'one.png').write_bytes((pictures / '0.png').read_bytes())
    _, report = build(nano, BuildOptions(precision=precision, calibration=tmp_path), api)
    assert report.input_shape == (1, 3, 640, 640)


def test_a_free_shape_is_filled_with_what_is_asked_for(api, tmp_path):
    model = yolov8n(tmp_path / 'free.onnx', dynamic=True)
    _, report = build(model, BuildOptions(imgsz=(320, 416), batch=4), api)
    assert report.input_shape == (4, 3, 320, 416)
    _, report = build(model, BuildOptions(), api)
    assert report.input_shape == (1, 3, 640, 640)


def test_half_precision_reaches_the_parser_as_half_with_the_boxes_in_single(api, conveyor):
    source, result, convolutions = as_parsed(api, conveyor, BuildOptions(precision='fp16'))
    assert (source, result) == (api.module.float16, api.module.float32)
    assert len(convolutions) == 64


def test_int8_reaches_the_parser_with_quantised_input_and_weights_at_every_convolution(api, conveyor, pictures):
    source, result, convolutions = as_parsed(api, conveyor, BuildOptions(precision='int8', calibration=pictures))
    assert (source, result) == (api.module.float32, api.module.float32)
    quantised = (api.module.LayerType.DEQUANTIZE,) * 2
    assert [kinds == quantised for kinds in convolutions].count(False) == 1  # that of the decoding
    assert len(convolutions) == 64


@pytest.mark.parametrize('precision', ['fp16', 'int8'])
def test_the_converted_model_sees_what_the_model_sees(conveyor, pictures, precision, tmp_path):
    path = tmp_path / 'converted.onnx'
    path.write_bytes(converted(conveyor, BuildOptions(precision=precision, calibration=pictures)))
    onnx.checker.check_model(onnx.load(path))
    agreement = compare(reference_runtime(conveyor), open_runtime('onnxruntime', path), sample_pictures(pictures))
    assert agreement.boxes >= 10
    check(agreement, precision)


def test_the_decoding_is_all_behind_the_last_convolutions(nano):
    model = onnx.load(nano)
    kinds = {node.name: node.op_type for node in model.graph.node}
    decoding = [kinds[name] for name in conversion.decoding(model)]
    assert {'Softmax', 'Sigmoid', 'Concat', 'Sub', 'Div'} <= set(decoding)
    assert decoding.count('Conv') == 1
    assert len(decoding) < len(kinds) / 5


def test_a_model_that_is_converted_already_stays_as_it_is(conveyor, pictures, tmp_path):
    for precision in ('fp16', 'int8'):
        options = BuildOptions(precision=precision, calibration=pictures)
        path = tmp_path / f'{precision}.onnx'
        path.write_bytes(converted(conveyor, options))
        assert converted(path, replace(options, calibration=None)) == path.read_bytes()
    with pytest.raises(ConfigurationError, match="is quantised, expected 'int8'"):
        converted(path, BuildOptions(precision='fp16'))


def test_int8_without_pictures_is_refused(conveyor, tmp_path):
    with pytest.raises(ConfigurationError, match="'int8' without calibration pictures, expected a folder"):
        converted(conveyor, BuildOptions(precision='int8'))
    with pytest.raises(ConfigurationError, match='does not exist, expected a folder'):
        converted(conveyor, BuildOptions(precision='int8', calibration=tmp_path / 'nowhere'))


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'batch': 2}, 'takes 1 pictures only; export it with that batch or with dynamic=True'),
        ({'imgsz': (320, 320)}, r'takes \(64, 96\) only; export it with that imgsz'),
        ({'dla_core': 0, 'precision': 'fp32'}, 'this machine has 0 DLA cores; -1 uses the GPU'),
    ],
)
def test_options_that_the_model_or_the_machine_cannot_have_are_refused(api, tmp_path, changes, reason):
    model = models.fixed_boxes(tmp_path / 'm.onnx', BOX)
    with pytest.raises(ConfigurationError, match=reason):
        build(model, BuildOptions(**changes), api)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'precision': 'fp8'}, "precision is 'fp8', expected one of"),
        ({'batch': 0}, 'batch is 0, expected at least 1'),
        ({'imgsz': (100, 320)}, 'multiples of 32'),
        ({'imgsz': (0, 320)}, 'multiples of 32'),
    ],
)
def test_options_that_no_model_can_have_are_refused(changes, reason):
    with pytest.raises(ConfigurationError, match=reason):
        BuildOptions(**changes)


def test_a_model_that_the_parser_does_not_take_is_an_error_with_its_reason(api, tmp_path):
    path = models.fixed_boxes(tmp_path / 'm.onnx', BOX)
    model = onnx.load(path)
    model.graph.node[0].op_type = 'NoSuchOperation'
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r'cannot be parsed by tensorrt_rtx .*NoSuchOperation'):
        build(path, BuildOptions(), api)


def test_progress_rises_to_the_whole(api, tmp_path):
    shares = []
    build(models.fixed_boxes(tmp_path / 'm.onnx', BOX), BuildOptions(), api, progress=lambda _, s: shares.append(s))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_an_interrupted_build_ends_with_the_interruption(api, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(models.fixed_boxes(tmp_path / 'm.onnx', BOX), BuildOptions(), api, progress=interrupt)


def test_other_threads_run_while_an_engine_is_built(api, nano):
    built, ticks = threading.Event(), []

    def tick():
        while not built.wait(0.005):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    build(nano, BuildOptions(), api)
    built.set()
    thread.join()
    assert len(ticks) >= 5


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # TensorRT-RTX keeps the functions, without an effect
@pytest.mark.parametrize('before', [None, b'', b'damaged'])
def test_the_timing_cache_is_kept_and_a_damaged_one_ends_nothing(api, tmp_path, before):
    path = tmp_path / 'timing.cache'
    if before is not None:
        path.write_bytes(before)
    with_cache = replace(api, has_timing_cache=True)
    build(models.fixed_boxes(tmp_path / 'm.onnx', BOX), BuildOptions(), with_cache, timing_cache=path)
    assert len(path.read_bytes()) > len(b'damaged')


@pytest.fixture
def versions(monkeypatch):
    """Find a version of TensorRT that says in the plan what it was asked for."""
    monkeypatch.setattr(layer, '_loggers', {})
    return lambda version: describe('tensorrt', builder_double.library(version))


def asked_of(api, model, **options):
    return json.loads(build(model, BuildOptions(**options), api)[0])


PLAIN = {'input': 'FLOAT', 'quantised': False, 'flags': [], 'device': ['GPU', -1], 'limits': {}, 'profiles': []}
BY_FLAGS, BY_TYPES = ({**PLAIN, 'network': [kind]} for kind in ('EXPLICIT_BATCH', 'STRONGLY_TYPED'))
HALF = {'input': 'HALF'}
FIRST_DLA = {'flags': ['FP16', 'GPU_FALLBACK'], 'device': ['DLA', 0]}


@pytest.mark.parametrize(
    ('version', 'options', 'expected'),
    [
        ('8.6.2', {}, BY_FLAGS),
        ('8.6.2', {'precision': 'fp16'}, BY_FLAGS | {'flags': ['FP16']}),
        ('8.6.2', {'precision': 'int8'}, BY_FLAGS | {'flags': ['INT8', 'FP16'], 'quantised': True}),
        ('8.6.2', {'precision': 'fp16', 'dla_core': 0}, BY_FLAGS | FIRST_DLA),
        ('10.3.0', {}, BY_TYPES),
        ('10.3.0', {'precision': 'fp16'}, BY_TYPES | HALF),
        ('10.3.0', {'precision': 'int8'}, BY_TYPES | {'quantised': True}),
        ('10.3.0', {'precision': 'fp16', 'dla_core': 0}, BY_FLAGS | FIRST_DLA),
        ('10.3.0', {'workspace': 1 << 30}, BY_TYPES | {'limits': {'WORKSPACE': 1 << 30}}),
        ('11.4.1', {'precision': 'fp16'}, BY_TYPES | HALF),
        (
            '11.4.1',
            {'precision': 'fp16', 'dla_core': 1},
            BY_TYPES | HALF | {'flags': ['GPU_FALLBACK'], 'device': ['DLA', 1]},
        ),
    ],
)
def test_each_version_is_asked_in_its_own_way(versions, conveyor, pictures, version, options, expected):
    assert asked_of(versions(version), conveyor, calibration=pictures, **options) == expected


def test_a_model_in_half_precision_is_taken_as_it_is_or_with_the_flag_that_it_takes(versions, conveyor, tmp_path):
    half = tmp_path / 'half.onnx'
    half.write_bytes(converted(conveyor, BuildOptions(precision='fp16')))
    assert asked_of(versions('8.6.2'), half) == BY_FLAGS | HALF | {'flags': ['FP16']}
    assert asked_of(versions('10.3.0'), half) == BY_TYPES | HALF


def test_a_free_shape_becomes_a_profile_from_one_picture_to_the_batch(versions, tmp_path):
    model = models.fixed_boxes(tmp_path / 'm.onnx', BOX, batch='batch', free_size=True)
    (profile,) = asked_of(versions('10.3.0'), model, batch=4, imgsz=(96, 64))['profiles']
    assert list(profile.values()) == [[[1, 3, 96, 64], [4, 3, 96, 64], [4, 3, 96, 64]]]


def test_an_accelerator_takes_a_core_that_is_there_and_half_precision(versions, conveyor):
    with pytest.raises(ConfigurationError, match='dla_core is 2, but this machine has 2 DLA cores'):
        asked_of(versions('10.3.0'), conveyor, precision='fp16', dla_core=2)
    with pytest.raises(ConfigurationError, match="precision is 'fp32' with dla_core, expected 'fp16'"):
        asked_of(versions('10.3.0'), conveyor, dla_core=1)


def test_the_double_has_the_names_of_the_real_builder():
    try:
        real = layer.find(to_build=True)
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    checked = 0
    for name, kind in inspect.getmembers(builder_double, inspect.isclass):
        names = [member for member in vars(kind) if not member.startswith('_')]
        assert [member for member in names if not hasattr(getattr(real.module, name), member)] == [], name
        checked += len(names)
    assert checked > 25
    major = real.version.partition('.')[0] if real.name == 'tensorrt' else ''
    version = next((version for version in builder_double.VERSIONS if version.partition('.')[0] == major), '11.4.1')
    flags, networks = builder_double.VERSIONS[version]
    assert [name for name in builder_double.FLAGS if hasattr(real.module.BuilderFlag, name)] == flags
    found = real.module.NetworkDefinitionCreationFlag
    assert [name for name in builder_double.NETWORKS if hasattr(found, name)] == networks


def test_the_peak_of_device_memory_is_read_from_the_log():
    lines = ['Peak memory usage of TRT CPU/GPU memory allocators: CPU 3 MiB, GPU 25 MiB', 'something else']
    assert peak_gpu_memory(lines) == 25 << 20
    assert peak_gpu_memory(['something else']) is None


def test_calibration_sees_pictures_as_the_detector_does():
    image = np.zeros((40, 80, 3), np.uint8)
    image[..., 0] = 255  # blue
    planes = conversion.network_input(image, (2, 64, 64))
    assert planes.shape == (2, 3, 64, 64)
    assert planes[1, :, 32, 32].tolist() == [0.0, 0.0, 1.0]
    assert planes[1, :, 0, 0].tolist() == pytest.approx([114 / 255] * 3)
