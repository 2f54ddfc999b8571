import argparse
import json

import cv2
import numpy as np
import pytest

import models
from edge_vision import detect
from edge_vision.errors import ConfigurationError, EdgeVisionError, ModelError, SourceError

ANCHORS = [[24, 24, 16, 16, 0.5, 0.1], [72, 40, 32, 16, 0.0, 0.75]]


@pytest.fixture
def workplace(tmp_path):
    models.fixed_boxes(tmp_path / 'm.onnx', ANCHORS)
    models.fixed_boxes(tmp_path / 'blind.onnx', [[1, 1, 1, 1, 0, 0]])
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((64, 96, 3), 90, np.uint8))
    cv2.imwrite(str(tmp_path / 'b.png'), np.full((128, 192, 3), 90, np.uint8))
    (tmp_path / 'sub').mkdir()
    cv2.imwrite(str(tmp_path / 'sub' / 'a.png'), np.full((64, 96, 3), 90, np.uint8))
    (tmp_path / 'bad.png').write_bytes(b'\x89PNG\r\n\x1a\nxxxx')
    (tmp_path / 'file').write_text('not a directory')
    return tmp_path


@pytest.fixture
def run(workplace, monkeypatch):
    def run_command(*words):
        parser = argparse.ArgumentParser()
        detect.add_arguments(parser)
        return detect.run(parser.parse_args(words))

    monkeypatch.chdir(workplace)
    return run_command


@pytest.mark.parametrize('backend', ['auto', 'openvino', 'onnxruntime'])
def test_json_is_a_list_of_boxes_per_picture(run, capsys, backend):
    assert run('a.png', 'b.png', '--model', 'm.onnx', '--json', '--backend', backend) == 0
    assert json.loads(capsys.readouterr().out) == [
        [
            {'class_id': 'scratch', 'score': 0.75, 'xyxy': [56, 32, 88, 48]},
            {'class_id': 'dent', 'score': 0.5, 'xyxy': [16, 16, 32, 32]},
        ],
        [
            {'class_id': 'scratch', 'score': 0.75, 'xyxy': [112, 64, 176, 96]},
            {'class_id': 'dent', 'score': 0.5, 'xyxy': [32, 32, 64, 64]},
        ],
    ]


def test_a_provider_of_onnxruntime_can_be_named(run, capsys):
    assert run('a.png', '--model', 'm.onnx', '--json', '--provider', 'CPUExecutionProvider') == 0
    assert len(json.loads(capsys.readouterr().out)[0]) == 2
    with pytest.raises(ConfigurationError, match="no provider 'MoonExecutionProvider'"):
        run('a.png', '--model', 'm.onnx', '--provider', 'MoonExecutionProvider')


def test_json_of_pictures_without_objects_has_empty_lists(run, capsys):
    run('a.png', 'b.png', '--model', 'blind.onnx', '--json')
    assert json.loads(capsys.readouterr().out) == [[], []]


def test_the_table_names_the_picture_and_its_boxes(run, capsys):
    run('b.png', '--model', 'm.onnx')
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith('b.png  192x128  2 objects')
    assert first.split() == ['scratch', '0.750', '112.0', '64.0', '176.0', '96.0']
    assert second.split()[:2] == ['dent', '0.500']


def test_the_threshold_decides_what_is_shown(run, capsys):
    run('a.png', '--model', 'm.onnx', '--json', '--confidence', '0.6')
    assert len(json.loads(capsys.readouterr().out)[0]) == 1


def test_pictures_are_saved_with_their_boxes_beside_the_originals(run, workplace):
    before = (workplace / 'a.png').read_bytes()
    run('a.png', '--model', 'm.onnx', '--save', '.')
    run('a.png', '--model', 'm.onnx', '--save', 'new/folder')
    assert (workplace / 'a.png').read_bytes() == before
    for saved in ('a_detections.png', 'new/folder/a_detections.png'):
        image = cv2.imread(str(workplace / saved))
        assert image.shape == (64, 96, 3)
        assert (image != 90).any()


@pytest.mark.parametrize(
    ('words', 'error', 'reason'),
    [
        (['missing.png', '--model', 'm.onnx'], SourceError, "'missing.png' does not exist"),
        (['bad.png', '--model', 'm.onnx'], SourceError, "'bad.png' is damaged"),
        (['a.png', '--model', 'missing.onnx'], ModelError, "'missing.onnx' does not exist"),
        (['a.png', '--model', 'a.png'], ModelError, "ends in '.png'"),
        (['a.png', '--model', 'm.onnx', '--save', 'file'], ConfigurationError, "'file', which cannot be made"),
        (['a.png', '--model', 'm.onnx', '--save', 'file/below'], ConfigurationError, 'which cannot be made'),
        (['a.png', 'sub/a.png', '--model', 'm.onnx', '--save', 'out'], ConfigurationError, 'twice'),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(run, capfd, words, error, reason):
    with pytest.raises(error, match=reason) as failure:
        run(*words)
    assert isinstance(failure.value, EdgeVisionError)
    assert '\n' not in str(failure.value)
    assert [line for line in ''.join(capfd.readouterr()).splitlines() if not line.startswith('libpng ')] == []


@pytest.mark.parametrize('value', ['1.5', '-0.1', 'nan', 'much'])
def test_a_threshold_outside_0_to_1_is_refused(run, capsys, value):
    with pytest.raises(SystemExit):
        run('a.png', '--model', 'm.onnx', '--confidence', value)
    assert '--confidence' in capsys.readouterr().err
