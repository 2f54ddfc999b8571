import os

import pytest

from edge_vision.doctor import cameras, v4l2
from edge_vision.params import CameraParams

WEBCAM = v4l2.Device(
    'Webcam',
    'uvcvideo',
    'usb-1',
    True,
    (
        v4l2.Format('YUYV', (v4l2.Size(1280, 720, (10.0,)), v4l2.Size(640, 480, (30.0, 15.0)))),
        v4l2.Format('MJPG', (v4l2.Size(1280, 720, (30.0,)), v4l2.Size(640, 480, (30.0,)))),
    ),
)
SENSOR = v4l2.Device('vi-output, imx219', 'tegra-video', 'platform:tegra', True, (v4l2.Format('RG10'),))
WITHOUT = {'GStreamer': 'NO', 'FFMPEG': 'NO', 'v4l2': 'YES'}
WITH = {'GStreamer': 'YES', 'FFMPEG': 'YES', 'v4l2': 'YES'}


def source(video_device, opencv=WITH, *, needed=True):
    return cameras.source(CameraParams(video_device=str(video_device)), 'source', needed=needed, opencv=opencv)


def test_a_camera_that_is_away_fails_only_where_it_is_needed():
    path = '/dev/video_that_is_away'
    assert source(path).status == 'fail'
    assert source(path, needed=False).status == 'warn'
    assert 'does not exist' in source(path).found


def test_a_device_that_is_no_camera_is_told_so():
    finding = source('/dev/null')
    assert (finding.status, finding.found) == ('fail', '/dev/null is no camera')
    assert '/dev/v4l/by-id' in finding.command


@pytest.mark.skipif(os.geteuid() == 0, reason='root may use every device')
def test_a_device_that_this_user_may_not_use_is_told_how_to_get_at_it():
    assert 'this user may not use it' in source('/dev/mem').found


def test_the_way_into_a_device_is_the_group_it_belongs_to(tmp_path):
    device = tmp_path / 'video0'
    device.touch()
    _, command = cameras.let_in(device)
    assert command.startswith(('sudo usermod -aG ', 'sudo chgrp video '))


@pytest.mark.parametrize(
    ('video_device', 'opencv', 'status', 'word'),
    [
        ('sim://conveyor?seed=2', WITHOUT, 'ok', 'simulated'),
        ('rtsp://user:secret@10.0.0.7/stream', WITH, 'ok', '//***@10.0.0.7'),
        ('rtsp://10.0.0.7/stream', WITHOUT, 'fail', 'built without FFMPEG'),
        ('v4l2src ! videoconvert', WITHOUT, 'fail', 'built without GStreamer'),
        ('v4l2src ! videoconvert', WITH, 'ok', 'pipeline'),
        ('gopher://x', WITH, 'fail', 'not known'),
        ('none.mp4', WITH, 'fail', 'does not exist'),
        ('.', WITH, 'ok', 'a folder of pictures'),
    ],
)
def test_every_kind_of_source_is_judged(video_device, opencv, status, word):
    finding = source(video_device, opencv)
    assert finding.status == status
    assert word in finding.found
    assert 'secret' not in finding.found


@pytest.mark.parametrize(
    ('device', 'asked', 'wrong', 'way_out'),
    [
        (WEBCAM, {'image_width': 640, 'image_height': 480}, '', ''),
        (WEBCAM, {'image_width': 0, 'image_height': 0, 'framerate': 0.0}, '', ''),
        (WEBCAM, {'pixel_format': 'H264'}, 'does not give H264', 'YUYV, MJPG'),
        (WEBCAM, {'image_width': 800, 'image_height': 600}, 'does not give 800x600', '640x480'),
        (WEBCAM, {'image_width': 1280, 'image_height': 720}, 'as MJPG only', 'pixel_format: "MJPG"'),
        (WEBCAM, {'image_width': 1280, 'image_height': 720, 'framerate': 60.0}, 'at 30/s at most', 'smaller'),
        (
            WEBCAM,
            {'image_width': 1280, 'image_height': 720, 'pixel_format': 'yuyv'},
            '10/s at most (YUYV)',
            'smaller size or rate',
        ),
        (SENSOR, {}, 'raw Bayer', 'pipeline'),
    ],
    ids=['fits', 'anything', 'format', 'size', 'format for the rate', 'rate', 'rate of the format', 'bayer'],
)
def test_what_a_camera_will_not_give_is_told_before_it_is_started(device, asked, wrong, way_out):
    found = cameras.unlike(device, CameraParams(**asked))
    assert wrong in found[0]
    assert bool(found[0]) is bool(wrong)
    assert way_out in found[1]


def test_formats_are_told_a_line_each():
    assert list(cameras.formats(WEBCAM)) == [
        'YUYV: 1280x720 at 10/s, 640x480 at 30/s',
        'MJPG: 1280x720 at 30/s, 640x480 at 30/s',
    ]
