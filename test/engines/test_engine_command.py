import argparse
import sys

import pytest

import models
from edge_vision.engines import cache, command, preparation, this_device
from edge_vision.errors import ConfigurationError, RuntimeUnavailable
from edge_vision.runtimes import open_runtime

pytestmark = pytest.mark.usefixtures('api')
BOX = [(32.0, 32.0, 10.0, 10.0, 0.9, 0.1)]


@pytest.fixture
def model(tmp_path):
    return models.fixed_boxes(tmp_path / 'm.onnx', BOX)


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def test_it_says_what_it_built_and_what_that_took(model, tmp_path, capsys):
    assert run(model, '--output', tmp_path / 'line.engine', '--no-validation') == 0
    said = capsys.readouterr()
    assert f'engine         {tmp_path / "line.engine"}\n' in said.out
    assert 'made of        m.onnx, 1x3x64x96, fp32\n' in said.out
    assert ' MB\ntook ' in said.out
    assert 'MiB of memory' in said.out
    assert said.out.endswith('not validated, as asked\n')
    assert '100%' in said.err


def test_what_was_there_is_not_built_again_unless_forced(model, capsys):
    for arguments, there in ([[], False], [[], True], [['--force'], False]):
        run(model, '--no-validation', *arguments)
        assert ('(was there)' in capsys.readouterr().out) is there


def test_the_line_of_each_build_is_left_once(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    bar = command.Bar()
    for share in (0.5, 0.1):
        bar('building', share)
        bar.end()
        bar.end()
    assert [line.strip()[-12:] for line in capsys.readouterr().err.splitlines() if line] == [
        '50% building',
        '10% building',
    ]


def test_it_looks_for_its_engine_once(model, monkeypatch):
    looked, look = [], cache.look
    monkeypatch.setattr(cache, 'look', lambda path, identity: looked.append(path) or look(path, identity))
    run(model)
    assert len(looked) == 1


def test_an_engine_that_nothing_can_be_compared_with_is_an_error_and_not_one_that_cannot_be_run(model, monkeypatch):
    def refuse(*_):
        raise RuntimeUnavailable('nothing here runs the reference')

    monkeypatch.setattr(command, 'open_engine', lambda _: open_runtime('onnxruntime', model))
    monkeypatch.setattr(preparation, 'reference_runtime', refuse)
    with pytest.raises(RuntimeUnavailable, match='nothing here runs the reference'):
        run(model)


@pytest.mark.skipif(this_device() is not None, reason='this machine has a GPU')
def test_on_a_machine_without_a_gpu_it_says_plainly_that_nothing_was_validated(model, capsys):
    assert run(model) == 0
    assert 'NOT VALIDATED  nothing here can run it: ' in capsys.readouterr().out


def test_the_arguments_become_options(tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = ['m.onnx', '--precision', 'int8', '--imgsz', '320', '416', '--batch', '4', '--workspace', '512']
    arguments += ['--calibration', str(tmp_path), '--dla-core', '1']
    options = command.build_options(parser.parse_args(arguments))
    assert options == command.BuildOptions(
        precision='int8', imgsz=(320, 416), batch=4, workspace=512 << 20, calibration=tmp_path, dla_core=1
    )
    assert command.build_options(parser.parse_args(['m.onnx', '--imgsz', '640'])).imgsz == (640, 640)
    with pytest.raises(ConfigurationError, match='expected one number or a height and a width'):
        command.build_options(parser.parse_args(['m.onnx', '--imgsz', '1', '2', '3']))
