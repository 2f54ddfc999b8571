import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from engine_models import obtain

import models
from edge_vision.engines import BuildOptions, Device, Preparation, cache, wanted
from edge_vision.errors import ConfigurationError, ModelError

pytestmark = pytest.mark.usefixtures('api')
BOX = [(32.0, 32.0, 10.0, 10.0, 0.9, 0.1)]
ADA = Device(name='RTX 4000', compute_capability=(8, 9), total_memory=20 << 30)
TURING = Device(name='T4', compute_capability=(7, 5), total_memory=16 << 30)


@pytest.fixture
def model(tmp_path):
    return models.fixed_boxes(tmp_path / 'm.onnx', BOX)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Let the tests see one kind of machine, with or without a GPU."""
    monkeypatch.setattr('edge_vision.engines.preparation.find_device', lambda: ADA)


@pytest.fixture
def built(model):
    return obtain(model)


def names(directory):
    return sorted(path.name for path in directory.iterdir() if path.suffix != '.lock')


def test_an_engine_is_built_once(built, model, engine_directory, caplog):
    with caplog.at_level(logging.INFO):
        again = obtain(model)
    assert built.built
    assert not again.built
    assert again == built
    assert names(engine_directory) == [built.path.name, built.path.with_suffix('.json').name]
    assert not caplog.records


def test_the_side_car_says_what_the_engine_is(api, built):
    side_car = json.loads(built.path.with_suffix('.json').read_text())
    assert side_car == built.side_car
    assert side_car['labels'] == ['dent', 'scratch']
    assert side_car['input_size'] == [64, 96]
    assert side_car['properties']['task'] == 'detect'
    assert side_car['report']['size'] == built.path.stat().st_size
    assert side_car['validation'] is None
    assert side_car['identity'] | {'model': ''} == {
        'format': cache.FORMAT,
        'model': '',
        'runtime': api.name,
        'runtime_version': api.version,
        'device': 'RTX 4000',
        'compute_capability': [8, 9],
        'precision': 'fp32',
        'input_size': [64, 96],
        'batch': 1,
        'workspace': 0,
        'dla_core': -1,
        'calibration': None,
    }
    assert built.path.stem == cache.key(side_car['identity'])


def test_whatever_decides_what_is_in_an_engine_gives_it_another_name(api, model, tmp_path):
    other = models.fixed_boxes(tmp_path / 'other.onnx', [(1.0, 2.0, 3.0, 4.0, 0.5, 0.5)])
    options = BuildOptions()
    paths = [
        wanted(model, options, api, ADA).path,
        wanted(other, options, api, ADA).path,
        wanted(model, options, api, TURING).path,
        wanted(model, options, api, None).path,
        wanted(model, options, replace(api, version='1.8'), ADA).path,
        wanted(model, options, replace(api, name='tensorrt'), ADA).path,
        wanted(model, replace(options, precision='fp16'), api, ADA).path,
        wanted(model, replace(options, imgsz=(96, 96)), api, ADA).path,
        wanted(model, replace(options, batch=2), api, ADA).path,
        wanted(model, replace(options, workspace=1 << 30), api, ADA).path,
        wanted(model, replace(options, dla_core=0), api, ADA).path,
    ]
    assert len(set(paths)) == len(paths)


def test_the_calibration_pictures_count_for_int8_only(api, model, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'one picture')
    int8 = BuildOptions(precision='int8', calibration=tmp_path)
    fp16 = replace(int8, precision='fp16')
    before = [wanted(model, options, api, ADA).path for options in (int8, fp16)]
    (tmp_path / 'a.png').write_bytes(b'another picture')
    after = [wanted(model, options, api, ADA).path for options in (int8, fp16)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True]


def test_the_name_and_place_of_a_model_do_not_count(api, model, tmp_path):
    copy = tmp_path / 'renamed.onnx'
    copy.write_bytes(model.read_bytes())
    assert wanted(copy, BuildOptions(), api, ADA).path == wanted(model, BuildOptions(), api, ADA).path


@pytest.mark.parametrize(
    ('damage', 'reason'),
    [
        (lambda engine: engine.write_bytes(engine.read_bytes()[:-1]), 'it is damaged'),
        (lambda engine: engine.write_bytes(b''), 'it is damaged'),
        (lambda engine: engine.unlink(), 'there is none yet'),
        (lambda engine: engine.with_suffix('.json').unlink(), 'side-car is missing or damaged'),
        (lambda engine: engine.with_suffix('.json').write_text('{"identity"'), 'side-car is missing or damaged'),
        (lambda engine: engine.with_suffix('.json').write_bytes(b'\xff\xfe\x00'), 'side-car is missing or damaged'),
        (lambda engine: engine.with_suffix('.json').write_text('[]'), 'side-car is missing or damaged'),
        (lambda engine: engine.with_suffix('.json').write_text('{"identity": {}}'), 'side-car is missing or damaged'),
    ],
    ids=['cut off', 'empty', 'gone', 'side-car gone', 'side-car cut off', 'not text', 'a list', 'incomplete'],
)
def test_a_damaged_engine_is_built_anew_with_one_line_that_says_why(built, model, damage, reason, caplog):
    damage(built.path)
    with caplog.at_level(logging.INFO, 'edge_vision.engines.preparation'):
        again = obtain(model)
    assert again.built
    assert again.path == built.path
    assert [reason in record.message for record in caplog.records if 'building' in record.message] == [True]
    assert not obtain(model).built


def test_an_engine_of_another_machine_is_built_anew(api, model, tmp_path, caplog):
    place = tmp_path / 'engine.engine'
    options = BuildOptions()
    Preparation(api, wanted(model, options, api, TURING, place), options).obtain()
    with caplog.at_level(logging.INFO):
        again = Preparation(api, wanted(model, options, api, ADA, place), options).obtain()
    assert again.built
    assert "device 'T4' instead of 'RTX 4000'" in caplog.text
    assert 'compute_capability [7, 5] instead of [8, 9]' in caplog.text
    assert not Preparation(api, wanted(model, options, api, ADA, place), options).obtain().built


@pytest.mark.usefixtures('built')
def test_an_engine_is_built_anew_when_asked(model):
    assert obtain(model, force=True).built
    assert not obtain(model).built


def test_an_engine_is_kept_where_it_is_asked_for(model, tmp_path, engine_directory):
    place = tmp_path / 'line' / 'one.engine'
    engine = obtain(model, place=place)
    assert engine.path == place
    assert names(place.parent) == ['one.engine', 'one.json']
    assert not obtain(model, place=place).built
    assert not engine_directory.exists()


def test_an_engine_that_something_else_built_is_not_written_over(model, tmp_path):
    place = tmp_path / 'trtexec.engine'
    place.write_bytes(b'a plan of trtexec')
    with pytest.raises(ConfigurationError, match='made by something else and is not written over'):
        obtain(model, place=place)
    assert place.read_bytes() == b'a plan of trtexec'
    assert obtain(model, place=place, force=True).built


def test_no_model_and_no_file_of_others_is_written_over(model, tmp_path):
    before = model.read_bytes()
    with pytest.raises(ConfigurationError, match=r"ends in '\.onnx', expected \.engine"):
        obtain(model, place=model, force=True)
    notes = tmp_path / 'line.json'
    notes.write_text('{"mine": 1}')
    with pytest.raises(ConfigurationError, match=r'line\.json.* was made by something else'):
        obtain(model, place=tmp_path / 'line.engine')
    assert (model.read_bytes(), notes.read_text()) == (before, '{"mine": 1}')


def test_a_directory_that_cannot_be_written_is_said_with_the_way_out(model, monkeypatch):
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', '/proc/nowhere')
    with pytest.raises(ConfigurationError, match=r'cannot be written: .*name a writable directory in EDGE_VISION_ENG'):
        obtain(model)


def test_a_model_that_is_no_detector_is_refused_before_anything_is_built(tmp_path, engine_directory):
    model = models.fixed_boxes(tmp_path / 'm.onnx', BOX, properties={'task': 'segment'})
    with pytest.raises(ModelError, match="expected a 'detect' model"):
        obtain(model)
    assert not engine_directory.exists()


BUILD = """
import logging, sys
from pathlib import Path
from edge_vision.engines import Preparation
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s')
print('READY', flush=True)
engine = Preparation.of(Path(sys.argv[1])).obtain()
print('BUILT' if engine.built else 'FOUND', engine.path.name, flush=True)
"""
STALL = """
import sys, time
from pathlib import Path
from edge_vision.engines import Preparation

def stall(name, share):
    print('BUILDING', flush=True)
    time.sleep(60)

Preparation.of(Path(sys.argv[1]), progress=stall).obtain()
"""


def start(script, model):
    return subprocess.Popen([sys.executable, '-c', script, str(model)], stdout=subprocess.PIPE, text=True)


def read_until(process, word):
    for line in process.stdout:
        if word in line:
            return
    pytest.fail(f'the process ended without {word!r}')


def test_of_two_processes_that_want_the_same_engine_one_builds(api, model):
    engine = wanted(model, BuildOptions(), api, None).path
    with cache.locked(engine):  # so that both have to come before the first may begin
        processes = [start(BUILD, model) for _ in range(2)]
        for process in processes:
            read_until(process, 'waiting for another process')
    said = sorted(process.communicate(timeout=60)[0].splitlines()[-1] for process in processes)
    assert said == [f'BUILT {engine.name}', f'FOUND {engine.name}']


def test_a_builder_that_is_killed_leaves_nothing_that_could_be_taken_for_an_engine(api, model, engine_directory):
    process = start(STALL, model)
    read_until(process, 'BUILDING')
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert names(engine_directory) == []
    want = wanted(model, BuildOptions(), api, None)
    assert Preparation(api, want, BuildOptions()).obtain().built  # its lock is gone with it


def test_what_a_crash_left_of_a_written_file_is_written_over(api, model, engine_directory):
    path = wanted(model, BuildOptions(), api, ADA).path
    engine_directory.mkdir()
    path.with_name(f'{path.name}.part').write_bytes(b'half an engine')
    engine = obtain(model)
    assert engine.built
    assert names(engine_directory) == [path.name, path.with_suffix('.json').name]
