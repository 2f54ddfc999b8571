import numpy as np
import pytest

from edge_vision.detections import Detections
from edge_vision.drawing import HUES, annotate, colour_of


def detections(*rows, track_id=()):
    xyxy = np.array([row[2] for row in rows], np.float32).reshape(-1, 4)
    score = np.array([row[1] for row in rows], np.float32)
    return Detections(0, 'camera', xyxy, score, tuple(row[0] for row in rows), track_id)


def changed(before, after):
    return np.argwhere((before != after).any(axis=2))


@pytest.mark.parametrize('size', [(480, 640), (1080, 1920), (60, 80)])
def test_a_box_is_drawn_on_a_copy(size):
    image = np.full((*size, 3), 90, np.uint8)
    height, width = size
    box = (0.25 * width, 0.5 * height, 0.5 * width, 0.75 * height)
    drawn = annotate(image, detections(('dent', 0.9, box)))
    assert (image == 90).all()
    colour = colour_of('dent')
    assert drawn[round(box[3]), round((box[0] + box[2]) / 2)].tolist() == list(colour)
    assert drawn[round((box[1] + box[3]) / 2), round((box[0] + box[2]) / 2)].tolist() == [90, 90, 90]


@pytest.mark.parametrize('box', [(0, 0, 60, 40), (600, 2, 640, 40), (-50, -50, 700, 600), (10, 470, 30, 480)])
def test_the_caption_stays_inside_the_picture(box):
    image = np.full((480, 640, 3), 90, np.uint8)
    colour = np.array(colour_of('scratch'))
    drawn = annotate(image, detections(('scratch', 0.5, box)))
    assert np.count_nonzero((drawn == colour).all(axis=2)) > 600  # the plate, not only the frame


def test_nothing_found_leaves_the_picture_as_it_is():
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    np.testing.assert_array_equal(annotate(image, detections()), image)


def test_a_picture_that_is_a_view_can_be_drawn_on():
    image = np.full((48, 64, 3), 90, np.uint8)[:, ::-1]
    assert annotate(image, detections(('dent', 0.9, (10, 20, 30, 40)))).shape == image.shape


def test_a_zone_is_drawn_where_its_normalised_corners_lie():
    image = np.full((100, 200, 3), 90, np.uint8)
    zone = np.array([[0.5, 0.4], [0.9, 0.4], [0.9, 0.9], [0.5, 0.9]])
    touched = changed(image, annotate(image, detections(), zones={'gate': zone}))
    assert touched[:, 0].max() == pytest.approx(89, abs=2)
    assert touched[:, 1].min() == pytest.approx(100, abs=2)


def test_classes_of_a_model_have_different_colours():
    labels = [f'class {i}' for i in range(3 * len(HUES))]
    assert len({colour_of(label, labels) for label in labels}) == len(labels)


def test_the_colour_of_a_class_does_not_change_between_runs():
    assert colour_of('dent') == colour_of('dent', ('scratch',))
