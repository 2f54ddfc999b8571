import os
import sys
from pathlib import Path

import pytest

import edge_vision
from edge_vision.errors import ConfigurationError
from edge_vision.share import CONVEYOR_MODEL, model_file, share_file

ROOT = Path(edge_vision.__file__).parents[1]


def install(prefix, name='models/made_for_a_test.onnx'):
    file = prefix / 'share' / 'edge_vision' / name
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def test_ament_prefixes_are_searched_in_their_order(tmp_path, monkeypatch):
    first, second = tmp_path / 'first', tmp_path / 'second'
    expected = install(first)
    install(second)
    monkeypatch.setenv('AMENT_PREFIX_PATH', os.pathsep.join(['', str(tmp_path / 'none'), str(first), str(second)]))
    assert share_file('models/made_for_a_test.onnx') == expected


def test_python_environment_is_searched_without_ament(tmp_path, monkeypatch):
    expected = install(tmp_path)
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    assert share_file('models/made_for_a_test.onnx') == expected


def test_source_tree_is_the_last_resort(tmp_path, monkeypatch):
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    assert share_file('package.xml') == ROOT / 'package.xml'


def test_missing_file_is_named_with_the_places_searched(tmp_path, monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    with pytest.raises(ConfigurationError, match=r'models/none\.onnx of edge_vision is in none of') as refused:
        share_file('models/none.onnx')
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize('nothing', ['', None])
def test_the_model_is_the_one_asked_for_else_that_of_the_package(nothing):
    assert model_file(nothing) == share_file(CONVEYOR_MODEL)
    assert model_file('~/m.onnx') == model_file(Path('~/m.onnx')) == Path.home() / 'm.onnx'
