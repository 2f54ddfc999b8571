import argparse
import json
import os
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import models
from edge_vision import bench
from edge_vision.bench import decision, delivery, detector, figures, gpu, picture, spool
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
    for name in ('RMW_IMPLEMENTATION', *delivery.PROFILE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', '/mine.xml')
    compared = delivery.profiles()
    assert list(compared) == ['none', 'own']
    assert 'FASTDDS_DEFAULT_PROFILES_FILE' not in compared['none']
    assert compared['own']['FASTDDS_DEFAULT_PROFILES_FILE'] == '/mine.xml'


def test_other_middlewares_are_measured_as_they_are(monkeypatch):
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_cyclonedds_cpp')
    assert list(delivery.profiles()) == ['none']


def test_slot_hands_over_what_it_was_given_time_for():
    assert 0 < len(delivery.hand_offs(IMAGE, count=5)) <= 5


def test_every_stage_of_the_detector_is_timed(tmp_path):
    model = models.fixed_boxes(tmp_path / 'm.onnx', [[24, 24, 16, 16, 0.5, 0.1]])
    took = detector.stages(open_runtime('onnxruntime', model), IMAGE, duration=0.01)
    assert set(took) == {'network_ms', 'letterbox_ms', 'infer_ms', 'decode_ms', 'detect_ms'}
    assert all(value > 0 for values in took.values() for value in values)


def test_steps_are_timed_in_turns_and_at_least_once():
    turns = []
    took = figures.in_turns({'a_ms': lambda: turns.append('a'), 'b_ms': lambda: turns.append('b')}, duration=0.0)
    assert turns == ['a', 'b']
    assert {name: len(times) for name, times in took.items()} == {'a_ms': 1, 'b_ms': 1}


def test_looks_at_each_picture_stand_beside_its_copy(capsys):
    rows = list(figures.shown(picture.looks([IMAGE, IMAGE[:24]], duration=0.0), picture.cells))
    assert [row['size'] for row in rows] == [[64, 48], [64, 24]]
    for row in rows:
        assert row['live_per_copy'] == row['live_ms']['p50'] / row['floor']['copy_ms']['p50']
        assert row['frozen_ms']['p99'] > 0
    assert capsys.readouterr().out.split('\n')[2].startswith('64x48')


def test_series_are_live_or_frozen_as_they_are_called():
    live, frozen = picture.watching(IMAGE, ~IMAGE), picture.watching(IMAGE, IMAGE.copy())
    assert [live().changed for _ in range(4)] == [False, True, True, True]
    assert not any(frozen().changed for _ in range(4))


def test_decision_stands_beside_bare_comparisons_and_its_target():
    (row,) = decision.decisions(duration=0.0)
    assert (row['rules'], row['detections'], row['cameras']) == (20, 50, 4)
    assert row['observe_per_compare'] == row['observe_ms']['p50'] / row['floor']['compare_ms']['p50']
    assert decision.cells(row)['target p99'] == '0.500'


def test_rules_of_the_decision_are_of_every_kind():
    rules = decision.make_rules(np.random.default_rng(1))
    assert {rule.params.action_type for rule in rules} == set(decision.ACTIONS)
    assert {rule.params.anchor for rule in rules} == set(decision.ANCHORS)
    assert {len(rule.zone) for rule in rules if rule.zone is not None} == {4, 5, 6, 7, 8}


def test_boxes_of_the_decision_lie_in_the_image():
    for detections in decision.make_frames(np.random.default_rng(1)):
        assert detections.xyxy.shape == (50, 4)
        assert (detections.xyxy[:, :2] < detections.xyxy[:, 2:]).all()
        assert detections.xyxy.min() >= 0
        assert (detections.xyxy <= np.tile(decision.SIZE, 2)).all()


def test_frames_of_the_decision_are_repeated_under_later_stamps():
    frames = decision.make_frames(np.random.default_rng(1))[:2]
    repeated = decision.restamped(frames)
    stamps = [next(repeated).stamp_ns for _ in range(5)]
    assert np.all(np.diff(stamps) > 0)


def test_storing_stands_beside_a_plain_file_and_its_target(monkeypatch):
    monkeypatch.setattr(spool, 'EVENTS', 1280)
    (row,) = spool.insertions(duration=0.0)
    assert row['file_per_bulk'] == pytest.approx(row['floor']['file_per_second'] / row['bulk_per_second'])
    assert row['single_per_second'] > 0
    assert all(0 < mib < 10_000 for mib in row['rss_mib'])
    assert spool.cells(row)['target/s'] == '5000'


def test_machine_without_a_compiler_leaves_the_stops_out_with_a_line(monkeypatch, capsys):
    monkeypatch.setenv('CC', 'no-such-compiler')
    assert list(spool.stops(duration=0.0)) == []
    assert 'no C compiler' in capsys.readouterr().out


def test_machine_without_a_gpu_leaves_its_steps_out_with_a_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, 'edge_vision.cuda', None)
    runtime = open_runtime('onnxruntime', models.fixed_boxes(tmp_path / 'm.onnx', [[24, 24, 16, 16, 0.5, 0.1]]))
    assert list(gpu.steps(runtime, arguments())) == []
    assert 'gpu not measured: ' in capsys.readouterr().out


def test_nothing_received_is_no_figure():
    assert figures.percentiles([]) is None
    assert figures.ratio(None, figures.percentiles([1.0])) is None


def test_process_that_fails_is_an_error(capfd):
    with delivery.child(['sing'], os.environ) as process, pytest.raises(EdgeVisionError, match='exit code'):
        delivery.ending(process, timeout=30.0)
    capfd.readouterr()


def test_report_that_cannot_be_written_is_an_error_before_anything_is_measured(tmp_path):
    pytest.importorskip('rclpy')
    with pytest.raises(ConfigurationError, match='--json'):
        bench.run(arguments('--json', str(tmp_path), '--size', '640x480'))


@pytest.mark.usefixtures('ros_environment')
def test_pictures_go_between_two_processes(monkeypatch, tmp_path, capsys):
    pytest.importorskip('rclpy')
    for name in ('RMW_IMPLEMENTATION', *delivery.PROFILE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    model = models.fixed_boxes(tmp_path / 'm.onnx', [[24, 24, 16, 16, 0.5, 0.1]])
    report = tmp_path / 'report.json'
    monkeypatch.setattr(spool, 'EVENTS', 1280)
    words = ['--size', '640x480', '--duration', '0.5', '--reliability', 'reliable', '--model', str(model)]
    assert bench.run(arguments(*words, '--json', str(report))) == 0
    written = json.loads(report.read_text())
    assert [row['profile'] for row in written['delivery']] == ['none', 'shipped']
    assert all(row['sent'] == 15 for row in written['delivery'])
    assert written['delivery'][1]['received'] > 0
    assert [len(written[section]) for section in ('detector', 'picture', 'decision', 'spool')] == [1, 1, 1, 1]
    assert [row['disk'] for row in written['stops']] in (['slow', 'full'], [])  # none where there is no compiler
    assert all(row['stops'] > 0 and row['stop_per_healthy'] > 0 for row in written['stops'])
    printed = capsys.readouterr().out
    assert all(
        ratio in printed for ratio in ('latency/copy', 'detect/network', 'live/copy', 'command/compare', 'file/bulk')
    )
