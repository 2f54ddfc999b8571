import sys

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from vision_msgs.msg import (
    BoundingBox2D,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
    Point2D,
    Pose2D,
)

from edge_vision.detections import Detections
from edge_vision.errors import EncodingError
from edge_vision.frames import Frame
from edge_vision.nodes import qos
from edge_vision.nodes.convert import (
    detections_from_msg,
    detections_to_msg,
    frame_from_msg,
    image_from_msg,
    image_to_msg,
    ns_from_stamp,
    stamp_from_ns,
)
from edge_vision.params import MOST_DETECTIONS

STAMP_NS = 1_795_620_896_123_456_789
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


def message(pixels, encoding, *, padding=0):
    """Make an image message by hand, its rows followed by padding that must not be seen."""
    rows = pixels.reshape(len(pixels), -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    height, width = pixels.shape[:2]
    return Image(height=height, width=width, encoding=encoding, step=padded.shape[1], data=padded.tobytes())


def encoded(encoding):
    """Return pixels in an encoding and what they are as BGR, both by cv2."""
    conversion = {
        'bgr8': None,
        'rgb8': cv2.COLOR_BGR2RGB,
        'mono8': cv2.COLOR_BGR2GRAY,
        'bgra8': cv2.COLOR_BGR2BGRA,
        'rgba8': cv2.COLOR_BGR2RGBA,
    }[encoding]
    if conversion is None:
        return COLOURS, COLOURS
    pixels = cv2.cvtColor(COLOURS, conversion)
    return pixels, cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if encoding == 'mono8' else COLOURS


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['bgr8', 'rgb8', 'mono8', 'bgra8', 'rgba8'])
def test_every_encoding_of_the_hot_path_becomes_bgr(encoding, padding):
    pixels, expected = encoded(encoding)
    image = image_from_msg(message(pixels, encoding, padding=padding))
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


@pytest.mark.parametrize('padding', [0, 8])
def test_bgr_is_read_without_a_copy_and_read_only(padding):
    msg = message(COLOURS, 'bgr8', padding=padding)
    image = image_from_msg(msg)
    assert np.shares_memory(image, np.frombuffer(msg.data, np.uint8))
    assert not image.flags.writeable


def test_message_shares_the_pixels_of_its_frame():
    big = np.zeros((1080, 1920, 3), np.uint8)
    msg = image_to_msg(Frame(big, STAMP_NS, 'camera'))
    assert np.shares_memory(np.frombuffer(msg._data, np.uint8), big)
    assert (msg.height, msg.width, msg.step, msg.encoding, msg.is_bigendian) == (1080, 1920, 5760, 'bgr8', 0)


def test_frame_that_is_a_cut_out_is_written_in_rows():
    msg = image_to_msg(Frame(COLOURS[1:4, 2:6], STAMP_NS, 'camera'))
    assert bytes(msg._data) == COLOURS[1:4, 2:6].tobytes()
    assert msg.step == 12


@pytest.mark.parametrize(
    'changes',
    [
        {'width': 0},
        {'height': 0},
        {'height': 6},
        {'width': 8},
        {'step': 20},
        {'step': 22},
        {'data': b''},
        {'encoding': 'bgra8'},
    ],
    ids=str,
)
def test_sizes_that_contradict_the_data_are_refused(changes):
    msg = message(COLOURS, 'bgr8')
    for name, value in changes.items():
        setattr(msg, name, value)
    with pytest.raises(EncodingError, match=r'image of \d+x\d+ bgra?8 with step \d+ has \d+ bytes, expected a step'):
        image_from_msg(msg)


def test_last_row_needs_no_padding():
    msg = message(COLOURS, 'bgr8', padding=5)
    msg.data = bytes(msg.data)[:-5]
    assert np.array_equal(image_from_msg(msg), COLOURS)


def test_other_encodings_need_cv_bridge_and_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    with pytest.raises(EncodingError, match="'16UC1' needs the package cv_bridge, which is not installed"):
        image_from_msg(message(np.zeros((2, 2, 2), np.uint8), '16UC1'))


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, 1_000_000_000, STAMP_NS])
def test_stamps_are_exact(stamp_ns):
    stamp = stamp_from_ns(stamp_ns)
    assert ns_from_stamp(stamp) == stamp_ns
    assert stamp == Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


@pytest.mark.parametrize('size', [(5, 7), (1080, 1920)], ids=['small', '1080p'])
def test_frame_is_the_same_after_a_real_publisher_and_subscription(make_node, spin_until, size):
    frame = Frame(np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8), STAMP_NS, 'camera_optical_frame')
    node = make_node(node_name='node')
    received = []
    node.create_subscription(Image, 'image_raw', received.append, qos.NEWEST)
    publisher = node.create_publisher(Image, 'image_raw', qos.NEWEST)
    spin_until(publisher.get_subscription_count)
    publisher.publish(image_to_msg(frame))
    spin_until(lambda: received)
    arrived = frame_from_msg(received[0])
    assert (arrived.stamp_ns, arrived.frame_id) == (STAMP_NS, 'camera_optical_frame')
    assert np.array_equal(arrived.image, frame.image)


TWO = Detections(
    STAMP_NS,
    'camera_optical_frame',
    np.float32([[10, 20, 30, 60], [0.5, 1.5, 640, 480]]),
    np.float32([0.25, 1.0]),
    ('dent', 'scratch'),
    ('', '17'),
    (640, 480),
)


def test_detections_come_back_as_they_were():
    back = detections_from_msg(detections_to_msg(TWO), (640, 480))
    assert (back.stamp_ns, back.frame_id, back.image_size) == (TWO.stamp_ns, TWO.frame_id, TWO.image_size)
    assert (back.class_id, back.track_id) == (TWO.class_id, TWO.track_id)
    assert np.array_equal(back.xyxy, TWO.xyxy)
    assert np.array_equal(back.score, TWO.score)


def test_only_detections_chosen_are_written():
    msg = detections_to_msg(TWO, np.array([1]))
    assert [d.results[0].hypothesis.class_id for d in msg.detections] == ['scratch']
    assert ns_from_stamp(msg.header.stamp) == ns_from_stamp(msg.detections[0].header.stamp) == STAMP_NS
    assert detections_to_msg(TWO, []).detections == []


def detection(label='dent', score=0.9, x=10.0, y=10.0, size_x=4.0, size_y=4.0):
    hypothesis = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=label, score=score))
    centre = Pose2D(position=Point2D(x=x, y=y))
    return Detection2D(results=[hypothesis], bbox=BoundingBox2D(center=centre, size_x=size_x, size_y=size_y))


NAN, INF = float('nan'), float('inf')


@pytest.mark.filterwarnings('ignore:overflow')
@pytest.mark.parametrize(
    'bad',
    [
        detection(label=''),
        detection(score=NAN),
        detection(score=1.5),
        detection(score=-0.1),
        detection(x=NAN),
        detection(y=INF),
        detection(x=1e300),
        detection(size_x=-1.0),
        detection(size_y=NAN),
        Detection2D(),
    ],
    ids=['label', 'nan score', 'score', 'negative score', 'nan', 'inf', 'too far', 'size', 'nan size', 'no result'],
)
def test_impossible_detection_makes_the_whole_message_unusable(bad):
    with pytest.raises(ValueError, match='detection 1 has'):
        detections_from_msg(Detection2DArray(detections=[detection(), bad]), None)


def test_more_detections_than_any_detector_finds_are_unusable():
    msg = Detection2DArray(detections=[detection()] * MOST_DETECTIONS)
    assert len(detections_from_msg(msg, None)) == MOST_DETECTIONS
    msg.detections.append(detection())
    with pytest.raises(ValueError, match='it holds 30001 detections, expected at most 30000'):
        detections_from_msg(msg, None)


def test_box_without_area_is_possible():
    assert len(detections_from_msg(Detection2DArray(detections=[detection(size_x=0.0, size_y=0.0)]), None)) == 1
