import json

import pytest

import models
from edge_vision.engines import cache, files
from edge_vision.engines.builder import BuildReport
from edge_vision.errors import ModelError
from edge_vision.runtimes import metadata

BOX = [(32.0, 32.0, 10.0, 10.0, 0.9, 0.1)]
PLAN = b'ftrt' + bytes(range(256))


def with_header(path, plan=PLAN, **changes):
    """Write an engine as ultralytics does: a length, JSON, the plan."""
    header = {
        'description': 'Ultralytics YOLOv8n model',
        'task': 'detect',
        'batch': 1,
        'imgsz': [480, 640],
        'names': {0: "driver's cab", 1: 'lorry'},
        'args': {'nms': False, 'half': True},
        **changes,
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(4, 'little', signed=True) + text + plan)
    return path


def with_side_car(path, plan=PLAN):
    model = models.fixed_boxes(path.with_name('source.onnx'), BOX)
    report = BuildReport(seconds=1.0, peak_memory=1, peak_gpu_memory=None, size=len(plan), input_shape=(1, 3, 64, 96))
    identity = {'input_size': [64, 96], 'dla_core': 1}
    return cache.store(path, plan, identity, model, report).path


def test_an_engine_of_ultralytics_is_read_with_its_header(tmp_path):
    engine = files.read(with_header(tmp_path / 'm.engine'))
    assert engine.plan == PLAN
    assert engine.dla_core == -1
    assert metadata.parse(engine.properties, tmp_path) == metadata.Metadata(("driver's cab", 'lorry'), (480, 640))


@pytest.mark.parametrize(('dla', 'core'), [(1, 1), ('dla:0', 0), (None, -1)])
def test_the_core_that_an_engine_is_for_is_read(tmp_path, dla, core):
    assert files.read(with_header(tmp_path / 'm.engine', dla=dla)).dla_core == core


def test_an_engine_of_ultralytics_for_another_task_is_told_apart(tmp_path):
    engine = files.read(with_header(tmp_path / 'm.engine', task='segment'))
    with pytest.raises(ModelError, match="expected a 'detect' model"):
        metadata.parse(engine.properties, tmp_path)


def test_an_engine_with_nms_in_it_is_told_apart(tmp_path):
    engine = files.read(with_header(tmp_path / 'm.engine', args={'nms': True}))
    with pytest.raises(ModelError, match='NMS built in'):
        metadata.parse(engine.properties, tmp_path)


def test_a_plain_engine_is_read_with_its_side_car(tmp_path):
    engine = files.read(with_side_car(tmp_path / 'm.engine'))
    assert engine.plan == PLAN
    assert engine.dla_core == 1
    assert metadata.parse(engine.properties, tmp_path).labels == ('dent', 'scratch')


def test_a_plain_engine_is_read_with_the_model_of_the_same_name_beside_it(tmp_path):
    (tmp_path / 'm.engine').write_bytes(PLAN)
    models.fixed_boxes(tmp_path / 'm.onnx', BOX, labels=('cat', 'dog'))
    engine = files.read(tmp_path / 'm.engine')
    assert engine.plan == PLAN
    assert metadata.parse(engine.properties, tmp_path).labels == ('cat', 'dog')


def test_a_side_car_of_another_engine_is_not_believed(tmp_path):
    path = with_side_car(tmp_path / 'm.engine')
    path.write_bytes(PLAN + b'another')
    with pytest.raises(ModelError, match='does not name its classes'):
        files.read(path)


def test_an_engine_that_nothing_describes_is_refused_with_the_ways_out(tmp_path):
    (tmp_path / 'm.engine').write_bytes(PLAN)
    with pytest.raises(
        ModelError, match=r"expected a header of ultralytics, a side-car 'm.json' or the model 'm.onnx'"
    ):
        files.read(tmp_path / 'm.engine')


@pytest.mark.parametrize(
    'content',
    [b'', b'{', b'\x02\x00\x00\x00[]', b'\x02\x00\x00\x00{]plan', b'\xff\xff\xff\x7f{}', b'\xff\xff\xff\xff{}', PLAN],
)
def test_what_is_no_header_is_part_of_the_plan(content):
    assert files.read_header(memoryview(content)) == (None, 0)


def test_an_engine_file_without_an_engine_is_refused(tmp_path):
    with pytest.raises(ModelError, match='has no engine in it'):
        files.read(with_header(tmp_path / 'm.engine', plan=b''))
