import numpy as np

from edge_vision.detector import Detector
from edge_vision.frames import Frame
from edge_vision.sight import Sight
from edge_vision.yolov8 import candidates

PART = [48, 32, 20, 20, 0.9]
ELSEWHERE = [80, 50, 20, 20, 0.9]
BROKEN = [np.nan, 32, 20, 20, 0.9]


class Network:
    """Gives the anchors that it was told to, frame by frame."""

    name, input_size, labels = 'told', (64, 96), ('part',)

    def __init__(self, frames):
        self._frames = iter(frames)

    def infer(self, _image, _geometry, min_score):
        return candidates(np.array(next(self._frames), np.float32).T, min_score)


def look(*frames, tracking=True):
    sight = Sight(Detector(Network(frames)), tracking=tracking)
    image = np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8)
    return [sight.see(Frame(image, (i + 1) * 33_000_000, 'camera')) for i in range(len(frames))]


def test_objects_keep_their_ids_over_a_frame_that_is_not_trusted():
    seen = look([PART], [PART], [BROKEN, ELSEWHERE], [PART], [PART])
    assert [each.trusted for each in seen] == [True, True, False, True, True]
    assert seen[2].detections.track_id == ('',)
    ids = {each.detections.track_id for each in seen if each.trusted}
    assert len(ids) == 1
    assert ids != {('',)}


def test_what_the_picture_is_like_and_how_long_it_took_is_told_of_every_frame():
    for each in look([PART], [BROKEN]):
        assert each.detections.picture.contrast > 0
        assert each.infer_ns > 0


def test_without_tracking_there_are_no_ids():
    assert look([PART], tracking=False)[0].detections.track_id == ('',)


def test_detector_and_tracking_can_be_replaced_between_frames():
    sight = Sight(Detector(Network([[PART]])), tracking=False)
    frame = Frame(np.zeros((64, 96, 3), np.uint8), 1, 'camera')
    assert len(sight.see(frame).detections) == 1
    sight.detector, sight.tracking = Detector(Network([[PART, ELSEWHERE]])), True
    found = sight.see(frame).detections
    assert len(set(found.track_id)) == 2
    assert '' not in found.track_id
