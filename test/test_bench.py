import argparse
import json
import os
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import models
from edge_vision import bench
from edge_vision.errors import ConfigurationError, EdgeVisionError
from edge_vision.runtimes import open_runtime
from edge_vision.share import share_file

IMAGE = np.full((48, 64, 3), 90, np.uint8)


def arguments(*words):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(words)


def test_sizes_are_read_as_width_and_height():
    assert arguments('--size', '640x480', '--size', '8x4').size == [(640, 480), (8, 4)]


@pytest.mark.parametrize(
    'words', [('--size', '640'), ('--size', '0x480'), ('--size', '6.5x4'), ('--framerate', '0'), ('--duration', 'nan')]
)
def test_unusable_arguments_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        arguments(*words)
    assert words[1] in capsys.readouterr().err


def test_profile_has_room_for_two_pictures_of_full_hd():
    segment = ET.parse(share_file('config/fastdds.xml')).find('.//{*}segment_size')
    assert int(segment.text) >= 2 * 1920 * 1080 * 3


def test_profile_of_the_user_is_measured_instead_of_the_shipped_one(monkeypatch):
    for name in ('RMW_IMPLEMENTATION', *bench.PROFILE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', '/mine.xml')
    compared = bench.profiles()
    assert list(compared) == ['none', 'own']
    assert 'FASTDDS_DEFAULT_PROFILES_FILE' not in compared['none']
    assert compared['own']['FASTDDS_DEFAULT_PROFILES_FILE'] == '/mine.xml'


def test_other_middlewares_are_measured_as_they_are(monkeypatch):
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_cyclonedds_cpp')
    assert list(bench.profiles()) == ['none']


def test_slot_hands_over_what_it_was_given_time_for():
    assert 0 < len(bench.hand_offs(IMAGE, count=5)) <= 5


def test_every_stage_of_the_detector_is_timed(tmp_path):
    model = models.fixed_boxes(tmp_path / 'm.onnx', [[24, 24, 16, 16, 0.5, 0.1]])
    took = bench.stages(open_runtime('onnxruntime', model), IMAGE, duration=0.01)
    assert set(took) == {'network_ms', 'letterbox_ms', 'infer_ms', 'decode_ms', 'detect_ms'}
    assert all(value > 0 for values in took.values() for value in values)


def test_absent_model_leaves_the_detector_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setattr(bench, 'CONVEYOR_MODEL', 'models/absent.onnx')
    assert bench.find_runtime(arguments()) is None
    assert capsys.readouterr().out.startswith('detector not measured: models/absent.onnx')


def test_nothing_received_is_no_figure():
    assert bench.percentiles([]) is None
    assert bench.ratio(None, bench.percentiles([1.0])) is None


def test_process_that_fails_is_an_error(capfd):
    with bench.child(['sing'], os.environ) as process, pytest.raises(EdgeVisionError, match='exit code'):
        bench.ending(process, timeout=30.0)
    capfd.readouterr()


def test_report_that_cannot_be_written_is_an_error_before_anything_is_measured(tmp_path):
    pytest.importorskip('rclpy')
    with pytest.raises(ConfigurationError, match='--json'):
        bench.run(arguments('--json', str(tmp_path), '--size', '640x480'))


@pytest.mark.usefixtures('ros_environment')
def test_pictures_go_between_two_processes(monkeypatch, tmp_path, capsys):
    pytest.importorskip('rclpy')
    for name in ('RMW_IMPLEMENTATION', *bench.PROFILE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    model = models.fixed_boxes(tmp_path / 'm.onnx', [[24, 24, 16, 16, 0.5, 0.1]])
    report = tmp_path / 'report.json'
    words = ['--size', '640x480', '--duration', '0.5', '--reliability', 'reliable', '--model', str(model)]
    assert bench.run(arguments(*words, '--json', str(report))) == 0
    figures = json.loads(report.read_text())
    assert [row['profile'] for row in figures['delivery']] == ['none', 'shipped']
    assert all(row['sent'] == 15 for row in figures['delivery'])
    assert figures['delivery'][1]['received'] > 0
    assert 'latency/copy' in capsys.readouterr().out
