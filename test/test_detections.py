import dataclasses

import numpy as np
import pytest

from edge_vision.detections import Detections

TWO = Detections(
    5, 'camera', np.zeros((2, 4), np.float32), np.zeros(2, np.float32), ('dent', 'scratch'), image_size=(640, 480)
)


def test_length_is_the_number_of_boxes():
    assert len(TWO) == 2


def test_tracks_are_empty_unless_given():
    assert TWO.track_id == ('', '')
    assert dataclasses.replace(TWO, track_id=('7', '8')).track_id == ('7', '8')


def test_nothing_seen_is_a_value_too():
    nothing = Detections(5, 'camera', np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())
    assert len(nothing) == 0
    assert nothing.track_id == ()


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'xyxy': np.zeros((1, 4), np.float32)}, r'xyxy must have shape \(2, 4\) for 2 labels, but has \(1, 4\)'),
        ({'xyxy': np.zeros((2, 5), np.float32)}, r'xyxy must have shape \(2, 4\)'),
        ({'xyxy': np.zeros(8, np.float32)}, r'but has \(8,\)'),
        ({'score': np.zeros(3, np.float32)}, r'score must have shape \(2,\) for 2 labels, but has \(3,\)'),
        ({'score': np.zeros((2, 1), np.float32)}, r'but has \(2, 1\)'),
        ({'class_id': ('dent',)}, r'xyxy must have shape \(1, 4\)'),
        ({'track_id': ('7',)}, 'track_id must have 2 entries for 2 labels, but has 1'),
    ],
)
def test_arrays_that_do_not_agree_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(TWO, **changes)
