import cv2
import numpy as np

from edge_vision.demo.pictures import RED, RecordedFrame, Stop, contact_sheet, write_video
from edge_vision.detections import Detections
from edge_vision.rules import Rule, RuleParams

LEFT_HALF = Rule('left', RuleParams(points=(0.0, 0.0, 0.5, 0.0, 0.5, 1.0, 0.0, 1.0)))


def grey(width=640, height=480):
    return np.full((height, width, 3), 128, np.uint8)


def stop(image, reaction_ms=9.5):
    return Stop(image, 'left', 'dent', 0.9, (10.0, 10.0, 200.0, 200.0), reaction_ms, 1.0, '12 mm before the gate')


def test_a_sheet_grows_with_its_stops():
    one, many = (contact_sheet('t', ['s'], [stop(grey())] * n, [LEFT_HALF]) for n in (1, 9))
    assert many.shape[0] > one.shape[0]
    assert many.shape[1] > one.shape[1]


def test_a_sheet_shows_pictures_of_any_size_and_stops_without_one():
    sheet = contact_sheet('t', ['s'], [stop(grey(1920, 1080)), stop(grey(33, 77)), stop(None, None)], [LEFT_HALF])
    assert (sheet == 128).all(axis=2).any()


def test_a_run_without_a_stop_has_a_sheet_too():
    assert contact_sheet('0 stops', [], [], []).size


def test_a_video_holds_every_frame_and_shows_whether_it_stood(tmp_path):
    nothing = Detections(0, '', np.empty((0, 4), np.float32), np.empty(0, np.float32), ())
    frames = [RecordedFrame(grey(), nothing, i, stopped=i >= 5) for i in range(10)]
    write_video(tmp_path / 'a.mp4', 10.0, [], frames)
    video = cv2.VideoCapture(str(tmp_path / 'a.mp4'))
    shown = [video.read()[1] for _ in range(10)]
    red = [np.abs(image.astype(int) - RED).sum(axis=2).min() < 60 for image in shown]
    assert red == [False] * 5 + [True] * 5


def test_nothing_recorded_writes_no_video(tmp_path):
    write_video(tmp_path / 'a.mp4', 10.0, [], [])
    assert not (tmp_path / 'a.mp4').exists()
