import json
import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from motion_jpeg import Camera, serving
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Bool, String

from edge_vision.errors import ConfigurationError
from edge_vision.frames import FrameSlot
from edge_vision.nodes import qos
from edge_vision.nodes.camera_node import CameraNode
from edge_vision.nodes.convert import image_from_msg, ns_from_stamp

CALIBRATION = """
image_width: 64
image_height: 48
camera_name: line
camera_matrix: {data: [50, 0, 32, 0, 50, 24, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {data: [0.1, 0, 0, 0, 0]}
rectification_matrix: {data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {data: [50, 0, 32, 0, 0, 50, 24, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def pictures(tmp_path):
    """Give a folder of three pictures, each of one grey."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f'{i}.png'), np.full((48, 64, 3), 50 * (i + 1), np.uint8))
    return folder


@pytest.fixture
def make_camera(make_node, pictures):
    def make(*, frames=None, **parameters):
        given = {'video_device': str(pictures), 'framerate': 30.0, 'image_width': 0, 'image_height': 0, 'loop': True}
        return make_node(CameraNode, parameters={**given, **parameters}, frames=frames)

    return make


@pytest.fixture
def listen(make_node):
    """Subscribe and collect."""
    node = make_node(node_name='listener')

    def collect(msg_type, topic, profile=qos.EACH):
        received = []
        node.create_subscription(msg_type, topic, received.append, profile)
        return received

    return collect


def test_pictures_of_a_folder_are_published_with_stamp_and_frame_id(make_camera, listen, spin_until):
    images, infos = listen(Image, 'image_raw'), listen(CameraInfo, 'camera_info')
    started_ns = time.time_ns()
    make_camera(frame_id='line_optical_frame')
    spin_until(lambda: len(images) >= 5)
    greys = [int(image_from_msg(msg)[0, 0, 0]) for msg in images]
    assert set(greys) <= {50, 100, 150}
    stamps = [ns_from_stamp(msg.header.stamp) for msg in images]
    assert stamps == sorted(set(stamps))
    assert started_ns < stamps[0] < stamps[-1] < time.time_ns()
    assert {msg.header.frame_id for msg in images} == {'line_optical_frame'}
    spin_until(lambda: set(stamps) <= {ns_from_stamp(msg.header.stamp) for msg in infos})
    assert {(msg.width, msg.height) for msg in infos} == {(64, 48)}


def test_frames_are_handed_over_by_reference(make_camera):
    slot = FrameSlot()
    make_camera(frames=slot)
    frame = slot.take(10.0)
    assert frame.size == (64, 48)
    assert frame.image[0, 0, 0] in {50, 100, 150}


def test_calibration_is_published(make_camera, listen, spin_until, tmp_path):
    file = tmp_path / 'line.yaml'
    file.write_text(CALIBRATION)
    infos = listen(CameraInfo, 'camera_info')
    make_camera(camera_info_url=f'file://{file}', camera_name='line')
    spin_until(lambda: infos)
    assert infos[0].distortion_model == 'plumb_bob'
    assert infos[0].d.tolist() == [0.1, 0, 0, 0, 0]
    assert infos[0].k.tolist() == [50, 0, 32, 0, 50, 24, 0, 0, 1]


def test_calibration_that_cannot_be_read_stops_the_node(make_camera):
    with pytest.raises(ConfigurationError, match=r"camera_info_url is '/none\.yaml'"):
        make_camera(camera_info_url='/none.yaml')


def test_compressed_images_are_jpeg_with_the_stamp_of_their_frame(make_camera, listen, spin_until):
    images, compressed = listen(Image, 'image_raw'), listen(CompressedImage, 'image_raw/compressed')
    make_camera()
    stamps = lambda received: {ns_from_stamp(msg.header.stamp) for msg in received}  # noqa: E731
    spin_until(lambda: stamps(images) & stamps(compressed))
    picture = cv2.imdecode(np.frombuffer(compressed[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (48, 64, 3)
    assert 'jpeg' in compressed[0].format


def test_source_that_is_lost_is_opened_again_for_ever(make_camera, pictures, listen, spin_until):
    reports = listen(DiagnosticArray, '/diagnostics')
    images = listen(Image, 'image_raw')
    make_camera(reopen_period=0.05)
    spin_until(lambda: images)
    hidden = pictures.rename(pictures.with_name('hidden'))
    spin_until(lambda: reports and int(value_of(reports[-1], 'lost')) > 1)
    assert reports[-1].status[0].level == b'\x02'
    assert str(pictures) in reports[-1].status[0].message
    images.clear()
    hidden.rename(pictures)
    spin_until(lambda: images)


def value_of(report, key):
    return next(pair.value for pair in report.status[0].values if pair.key == key)


def test_pictures_that_piled_up_on_the_network_are_counted(make_camera, listen, spin_until):
    reports, images = listen(DiagnosticArray, '/diagnostics'), listen(Image, 'image_raw')
    camera = Camera()
    with serving(camera.pictures) as url:
        make_camera(video_device=url)
        spin_until(lambda: len(images) >= 10)
        camera.up.clear()
        behind = camera.taken + 10
        spin_until(lambda: camera.taken >= behind)
        camera.up.set()
        spin_until(lambda: reports and int(value_of(reports[-1], 'discarded')) >= 5)
        assert reports[-1].status[0].level == b'\x00'


def test_end_of_a_folder_is_said_and_nothing_is_repeated(make_camera, listen, spin_until):
    reports, infos = listen(DiagnosticArray, '/diagnostics'), listen(CameraInfo, 'camera_info')
    make_camera(loop=False, framerate=5.0)
    spin_until(lambda: any(report.status[0].level == b'\x01' for report in reports))
    assert value_of(reports[-1], 'captured') == '3'
    assert len(infos) <= 3


def test_simulated_line_obeys_and_tells_the_truth(make_camera, make_node, listen, spin_until):
    images, truths = listen(Image, 'image_raw'), listen(String, 'camera/truth', qos.LATCHED)
    run_pub = make_node(node_name='line').create_publisher(Bool, 'conveyor/run', qos.LATCHED)
    make_camera(video_device='sim://conveyor?seed=3', image_width=160, image_height=120, framerate=20.0)
    run_pub.publish(Bool(data=True))
    spin_until(lambda: len(images) >= 3 and truths)
    assert (images[0].width, images[0].height) == (160, 120)


def test_simulated_line_stops_when_it_hears_nothing_any_more(make_camera, make_node, listen, spin_until):
    truths = listen(String, 'camera/truth', qos.LATCHED)
    run_pub = make_node(node_name='line').create_publisher(Bool, 'conveyor/run', qos.LATCHED)
    make_camera(video_device='sim://conveyor', image_width=160, image_height=120, framerate=20.0)
    run_pub.publish(Bool(data=True))
    spin_until(lambda: truths and json.loads(truths[-1].data)['stops_total'] == 1)
