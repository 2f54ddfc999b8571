import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_vision.yolov8 import GREY, Boxes, Canvas, candidates, decode, letterbox, nms

SIZES = st.integers(1, 3000)


@pytest.mark.parametrize(
    ('image_size', 'input_size', 'place'),
    [
        ((640, 480), (320, 320), (0, 40, 320, 240)),
        ((320, 320), (320, 320), (0, 0, 320, 320)),
        ((1920, 1080), (640, 640), (0, 140, 640, 360)),
        ((810, 1080), (640, 640), (80, 0, 480, 640)),
        ((641, 479), (320, 320), (0, 40, 320, 239)),
        ((333, 517), (416, 416), (74, 0, 268, 416)),
        ((100, 50), (384, 640), (0, 32, 640, 320)),
        ((3000, 1), (320, 320), (0, 159, 320, 1)),
        ((1, 1), (32, 64), (16, 0, 32, 32)),
    ],
)
def test_a_picture_is_centred_with_its_aspect_ratio_kept(image_size, input_size, place):
    box = letterbox(image_size, input_size)
    assert (box.left, box.top, box.width, box.height) == place


def test_the_odd_pixel_of_the_border_goes_to_the_right_and_the_bottom():
    tall, wide = letterbox((101, 320), (320, 320)), letterbox((320, 101), (320, 320))
    assert (tall.left, 320 - tall.left - tall.width) == (109, 110)
    assert (wide.top, 320 - wide.top - wide.height) == (109, 110)


@settings(deadline=None)
@given(SIZES, SIZES, st.sampled_from([(320, 320), (416, 416), (640, 640), (384, 640), (640, 352)]))
def test_a_picture_of_any_size_lies_inside_the_network_input(width, height, input_size):
    box = letterbox((width, height), input_size)
    right, bottom = input_size[1] - box.left - box.width, input_size[0] - box.top - box.height
    assert 0 <= right - box.left <= 1
    assert 0 <= bottom - box.top <= 1
    assert box.width == input_size[1] or box.height == input_size[0]


@settings(deadline=None)
@given(SIZES, SIZES)
def test_the_whole_picture_comes_back_as_the_whole_picture(width, height):
    box = letterbox((width, height), (320, 416))
    whole = np.array([[box.left, box.top, box.left + box.width, box.top + box.height]], np.float32)
    np.testing.assert_allclose(box.to_image(whole), [[0, 0, width, height]], rtol=1e-5)


def test_boxes_are_clipped_to_the_picture():
    boxes = np.array([[-50, -50, 900, 900]], np.float32)
    assert letterbox((640, 480), (320, 320)).to_image(boxes).tolist() == [[0, 0, 640, 480]]


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match='at least 1 pixel'):
        letterbox((0, 480), (320, 320))


def test_the_border_is_grey_again_after_a_picture_of_another_size():
    canvas = Canvas(np.zeros((320, 320, 3), np.uint8))
    for width, height in [(300, 100), (100, 300), (640, 480)]:
        box = letterbox((width, height), (320, 320))
        canvas.draw(np.full((height, width, 3), 200, np.uint8), box)
        expected = np.full((320, 320, 3), GREY, np.uint8)
        expected[box.top : box.top + box.height, box.left : box.left + box.width] = 200
        np.testing.assert_array_equal(canvas.pixels, expected)


def test_a_picture_of_the_network_size_is_copied_as_it_is():
    image = np.random.default_rng(1).integers(0, 256, (96, 64, 3), np.uint8)
    canvas = Canvas(np.zeros((96, 64, 3), np.uint8))
    canvas.draw(image, letterbox((64, 96), (96, 64)))
    np.testing.assert_array_equal(canvas.pixels, image)


def network_output(*rows):
    return np.array(rows, np.float32).T


def test_only_anchors_above_the_threshold_are_candidates():
    output = network_output([1, 1, 1, 1, 0.2, 0.3], [2, 2, 2, 2, 0.9, 0.1], [3, 3, 3, 3, 0.1, 0.25], [4, 4, 4, 4, 0, 1])
    assert candidates(output, 0.25)[0].tolist() == [1, 2, 4]


def test_an_anchor_that_is_not_a_number_is_handed_on():
    output = network_output([1, 1, 1, 1, np.nan, 0], [2, 2, 2, 2, 0.1, np.nan], [3, 3, 3, 3, 0.1, 0.1])
    assert candidates(output, 0.25)[0].tolist() == [1, 2]


def test_an_anchor_becomes_a_corner_box_with_its_best_class():
    boxes = decode(network_output([50, 40, 20, 10, 0.1, 0.7, 0.3], [10, 10, 4, 6, 0.8, 0.2, 0.1]))
    assert boxes.xyxy.tolist() == [[40, 35, 60, 45], [8, 7, 12, 13]]
    assert boxes.score.tolist() == pytest.approx([0.7, 0.8])
    assert boxes.label.tolist() == [1, 0]
    assert boxes.xyxy.flags.c_contiguous


def test_no_anchors_become_no_boxes():
    boxes = decode(np.zeros((6, 0), np.float32))
    assert boxes.xyxy.shape == (0, 4)
    assert nms(boxes, 0.45, 300).tolist() == []


def boxes_of(*rows):
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.intp))


@pytest.mark.parametrize(
    ('boxes', 'kept'),
    [
        (boxes_of([0, 0, 10, 10, 0.5, 0], [1, 0, 11, 10, 0.9, 0]), [1]),
        (boxes_of([0, 0, 10, 10, 0.5, 0], [1, 0, 11, 10, 0.9, 1]), [1, 0]),
        (boxes_of([0, 0, 10, 10, 0.5, 0], [20, 0, 30, 10, 0.9, 0]), [1, 0]),
        (boxes_of([0, 0, 10, 10, 0.9, 0], [4, 0, 14, 10, 0.8, 0], [8, 0, 18, 10, 0.7, 0]), [0, 1, 2]),
        (boxes_of([0, 0, 10, 10, 0.9, 0], [3, 0, 13, 10, 0.8, 0], [6, 0, 16, 10, 0.7, 0]), [0, 2]),
        (boxes_of([0, 0, 10, 10, 0.7, 0], [0, 0, 10, 10, 0.7, 0]), [0]),
        (boxes_of([5, 5, 5, 5, 0.7, 0], [5, 5, 5, 5, 0.6, 0]), [0, 1]),
    ],
    ids=['overlap', 'other class', 'apart', 'below threshold', 'only kept boxes suppress', 'equal', 'no area'],
)
def test_nms_keeps_the_best_of_each_class(boxes, kept):
    assert nms(boxes, 0.45, 300).tolist() == kept


def test_an_overlap_of_exactly_the_threshold_is_kept():
    half = boxes_of([0, 0, 2, 2, 0.9, 0], [0, 0, 2, 1, 0.8, 0])
    assert nms(half, 0.5, 300).tolist() == [0, 1]
    assert nms(half, 0.49, 300).tolist() == [0]


def test_nms_stops_at_the_most_detections_asked_for():
    boxes = boxes_of(*[[20 * i, 0, 20 * i + 10, 10, 0.1 + 0.1 * i, 0] for i in range(8)])
    assert nms(boxes, 0.45, 3).tolist() == [7, 6, 5]


def slow_nms(boxes, threshold):
    kept = []
    for i in sorted(range(len(boxes.score)), key=lambda i: -boxes.score[i]):
        if all(boxes.label[i] != boxes.label[k] or iou(boxes.xyxy[i], boxes.xyxy[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_nms_agrees_with_its_definition(seed):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 60, (40, 2)), rng.uniform(5, 40, (40, 2))
    xyxy = np.concatenate((corner, corner + size), axis=1).astype(np.float32)
    boxes = Boxes(xyxy, rng.permutation(40).astype(np.float32), rng.integers(0, 3, 40))
    assert nms(boxes, 0.45, 300).tolist() == slow_nms(boxes, 0.45)
