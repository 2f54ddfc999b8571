import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from vision_msgs.msg import Detection2DArray, LabelInfo

from edge_vision.detections import Detections, InferenceTimes
from edge_vision.errors import ModelError
from edge_vision.frames import Frame, FrameSlot
from edge_vision.nodes import qos
from edge_vision.nodes.convert import detections_from_msg, image_from_msg, image_to_msg, ns_from_stamp
from edge_vision.nodes.detector_node import DetectorNode, facts_from_msg, facts_to_msg
from models import fixed_boxes

STAMP_NS = 1_795_620_896_123_456_789
# Centre x, centre y, width, height in an input of 96x64, and the scores of dent and scratch.
ANCHORS = [(48, 32, 20, 10, 0.9, 0.0), (20, 20, 10, 10, 0.0, 0.6), (80, 50, 6, 6, 0.3, 0.0)]


@pytest.fixture
def make_detector(make_node, tmp_path):
    model = fixed_boxes(tmp_path / 'model.onnx', ANCHORS)

    def make(*, frames=None, decide=None, know_labels=None, **parameters):
        given = {'model_file_path': str(model), **parameters}
        return make_node(DetectorNode, parameters=given, frames=frames, decide=decide, know_labels=know_labels)

    return make


@pytest.fixture
def camera(make_node):
    """Give a node that publishes frames and collects what comes of them."""
    node = make_node(node_name='test_camera')
    node.image_pub = node.create_publisher(Image, 'image_raw', qos.NEWEST)
    node.detections, node.annotated, node.facts, node.labels = [], [], [], []
    node.create_subscription(Detection2DArray, 'detections', node.detections.append, 10)
    node.create_subscription(DiagnosticArray, 'detections/facts', node.facts.append, qos.EACH)
    node.create_subscription(LabelInfo, 'label_info', node.labels.append, qos.LATCHED)
    return node


def frame(stamp_ns=STAMP_NS, size=(128, 192)):
    return Frame(np.full((*size, 3), 128, np.uint8), stamp_ns, 'camera_optical_frame')


@pytest.fixture
def show(camera, spin_until):
    """Publish a frame until its detections are there, and return them."""

    def published(shown):
        spin_until(camera.image_pub.get_subscription_count)
        camera.image_pub.publish(image_to_msg(shown))
        of_it = lambda: [d for d in camera.detections if ns_from_stamp(d.header.stamp) == shown.stamp_ns]  # noqa: E731
        spin_until(of_it)
        return detections_from_msg(of_it()[0], shown.size)

    return published


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime', 'auto'])
def test_boxes_are_in_camera_pixels_under_the_header_of_the_frame(make_detector, show, backend):
    pytest.importorskip('openvino' if backend == 'auto' else backend)
    make_detector(backend=backend)
    found = show(frame())
    assert (found.stamp_ns, found.frame_id) == (STAMP_NS, 'camera_optical_frame')
    assert found.class_id == ('dent', 'scratch', 'dent')
    assert found.score == pytest.approx([0.9, 0.6, 0.3], abs=0.01)
    assert found.xyxy[0] == pytest.approx([76, 54, 116, 74], abs=0.5)


def test_frame_in_which_nothing_is_found_is_reported_too(make_detector, show):
    make_detector(confidence_threshold=0.95)
    assert len(show(frame())) == 0


def test_thresholds_and_classes_can_be_set_while_it_runs(make_detector, show):
    node = make_detector()
    assert len(show(frame())) == 3
    assert node.set_parameters([Parameter('confidence_threshold', value=0.5)])[0].successful
    assert show(frame(STAMP_NS + 1)).class_id == ('dent', 'scratch')
    assert node.set_parameters([Parameter('classes', value=['scratch'])])[0].successful
    assert show(frame(STAMP_NS + 2)).class_id == ('scratch',)


def test_frames_of_the_same_process_come_through_the_slot_and_are_decided_first(make_detector, camera, spin_until):
    decided = []
    slot = FrameSlot()
    make_detector(frames=slot, decide=lambda *args: decided.append((*args, len(camera.detections))))
    shown = frame()
    slot.put(shown)
    spin_until(lambda: camera.detections)
    detections, same_frame, times, published_before = decided[0]
    assert same_frame is shown
    assert detections.stamp_ns == STAMP_NS
    assert times.infer_ns > 0
    assert published_before == 0


def test_facts_are_told_under_the_header_of_the_frame(make_detector, camera, show, spin_until):
    make_detector()
    spin_until(lambda: camera.count_publishers('detections/facts'))
    spin_until(lambda: show(frame(time.time_ns())) and len(camera.facts) >= 2)
    times, picture = facts_from_msg(camera.facts[-1])
    assert times.infer_ns > 0
    assert times.capture_to_infer_ns > 0
    assert (picture.changed, picture.contrast) == (False, 0.0)
    noise = np.random.default_rng(1).integers(0, 255, (128, 192, 3), np.uint8)
    told = len(camera.facts)
    spin_until(lambda: show(Frame(noise, time.time_ns(), 'camera')) and len(camera.facts) > told)
    assert facts_from_msg(camera.facts[told])[1].changed


def test_facts_of_a_picture_that_nobody_looked_at_are_times_only():
    found = Detections(5, 'cam', np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())
    assert facts_from_msg(facts_to_msg(found, InferenceTimes(1, 2_000_000))) == (InferenceTimes(0, 2_000_000), None)


def test_object_keeps_its_id_from_frame_to_frame(make_detector, show):
    node = make_detector()
    first, second = show(frame(STAMP_NS)), show(frame(STAMP_NS + 30_000_000))
    assert len(set(first.track_id)) == len(first) > 1
    assert second.track_id == first.track_id
    assert node.set_parameters([Parameter('tracking', value=False)])[0].successful
    assert set(show(frame(STAMP_NS + 60_000_000)).track_id) == {''}


def test_labels_are_told_to_whoever_comes_later(make_detector, camera, spin_until):
    make_detector()
    spin_until(lambda: camera.labels)
    assert told(camera.labels[0]) == ([(0, 'dent'), (1, 'scratch')], 0.25)


def told(msg):
    return [(entry.class_id, entry.class_name) for entry in msg.class_map], pytest.approx(msg.threshold)


def test_labels_and_threshold_are_those_that_the_detector_lets_through_and_told_again_when_they_change(
    make_detector, camera, spin_until
):
    known = []
    node = make_detector(classes=['scratch'], confidence_threshold=0.5, know_labels=known.append)
    spin_until(lambda: camera.labels)
    assert told(camera.labels[0]) == ([(1, 'scratch')], 0.5)
    assert node.set_parameters([Parameter('nms_threshold', value=0.5)])[0].successful
    for i, (name, value) in enumerate((('classes', ['dent', 'scratch']), ('confidence_threshold', 0.125)), 2):
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
        spin_until(lambda i=i: len(camera.labels) >= i)
    both = [(0, 'dent'), (1, 'scratch')]
    assert [told(msg) for msg in camera.labels[1:]] == [(both, 0.5), (both, 0.125)]
    assert known == [('scratch',), ('dent', 'scratch'), ('dent', 'scratch')]


def test_annotated_picture_is_drawn_while_somebody_looks(make_detector, camera, show, spin_until):
    make_detector()
    camera.create_subscription(Image, 'detections/image', camera.annotated.append, qos.NEWEST)
    spin_until(lambda: camera.count_publishers('detections/image'))
    spin_until(lambda: show(frame(time.time_ns())) and camera.annotated)
    picture = image_from_msg(camera.annotated[0])
    assert picture.shape == (128, 192, 3)
    assert (picture != 128).any()


def test_disabled_detector_says_nothing_until_it_is_enabled(make_detector, camera, show, spin_until, call):
    make_detector()
    client = camera.create_client(SetBool, 'detector/enable')
    assert call(client, SetBool.Request(data=False)).success
    spin_until(camera.image_pub.get_subscription_count)
    camera.image_pub.publish(image_to_msg(frame()))
    assert call(client, SetBool.Request(data=True)).success
    assert show(frame(STAMP_NS + 1)).stamp_ns == STAMP_NS + 1


def test_image_that_cannot_be_read_is_dropped_and_counted(make_detector, camera, show, spin_until):
    reports = []
    camera.create_subscription(DiagnosticArray, '/diagnostics', reports.append, 10)
    make_detector()
    spin_until(camera.image_pub.get_subscription_count)
    bad = image_to_msg(frame())
    bad.step = 1
    camera.image_pub.publish(bad)
    figures = lambda: {pair.key: pair.value for report in reports for pair in report.status[0].values}  # noqa: E731
    spin_until(lambda: figures().get('failed') == '1')
    assert figures()['processed'] == '0'
    assert len(show(frame(STAMP_NS + 1))) == 3


def test_missing_model_stops_the_node(make_detector):
    with pytest.raises(ModelError, match=r"model file '/none\.onnx' does not exist"):
        make_detector(model_file_path='/none.onnx')
