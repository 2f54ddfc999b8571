import contextlib
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from edge_vision.capture import SCHEMES, masked, open_source, pipeline, video_length
from edge_vision.errors import ConfigurationError, EndOfStream, SourceError

DEADLINE = 10.0  # s


def picture(value, width=64, height=48):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def video(tmp_path):
    """Ten grey pictures, each 20 brighter than the one before, at 50 per second."""
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 50.0, (64, 48))
    for i in range(10):
        writer.write(picture(20 * i))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    for i in (3, 1, 2):
        cv2.imwrite(str(tmp_path / f'{i}.png'), picture(10 * i))
    (tmp_path / 'notes.txt').write_text('not a picture')
    return tmp_path


def opened(video_device, **settings):
    source = open_source(str(video_device), **settings)
    source.open()
    return contextlib.closing(source)


def read_all(source):
    with contextlib.suppress(EndOfStream):
        while True:
            yield source.read()


def test_a_video_gives_every_picture_once_and_then_ends(video):
    with opened(video, framerate=500) as source:
        pictures = list(read_all(source))
        with pytest.raises(EndOfStream, match='read to its end'):
            source.read()
    assert [round(image.mean() / 20) for image, _ in pictures] == list(range(10))
    assert all(image.shape == (48, 64, 3) and image.dtype == np.uint8 for image, _ in pictures)


@pytest.mark.parametrize(('framerate', 'period'), [(0, 1 / 50), (20, 1 / 20)], ids=['its own', 'asked for'])
def test_a_video_is_played_no_faster_than_its_rate(video, framerate, period):
    with opened(video, framerate=framerate) as source:
        stamps = [stamp for _, stamp in read_all(source)]
    assert 8.5 * period < (stamps[-1] - stamps[0]) / 1e9 < 9 * period + DEADLINE


def test_the_stamp_is_the_time_of_capture(video):
    with opened(video) as source:
        before = time.time_ns()
        _, stamp = source.read()
        assert before <= stamp <= time.time_ns()


def test_a_looped_video_starts_again(video):
    with opened(video, framerate=1000, loop=True) as source:
        values = [round(source.read()[0].mean() / 20) for _ in range(25)]
    assert values == [i % 10 for i in range(25)]


def test_pictures_are_not_written_over_by_later_ones(video):
    with opened(video, framerate=1000) as source:
        first, _ = source.read()
        kept = first.copy()
        source.read()
    np.testing.assert_array_equal(first, kept)


def test_a_folder_gives_its_pictures_by_name(folder):
    with opened(folder, framerate=1000) as source:
        assert [image[0, 0, 0] for image, _ in read_all(source)] == [10, 20, 30]


def test_a_folder_can_be_looped(folder):
    with opened(folder, framerate=1000, loop=True) as source:
        assert [source.read()[0][0, 0, 0] for _ in range(7)] == [10, 20, 30, 10, 20, 30, 10]


def test_a_picture_is_a_folder_of_one(folder):
    with opened(f'file://{folder}/2.png') as source:
        assert [image[0, 0, 0] for image, _ in read_all(source)] == [20]


def test_a_grey_picture_with_alpha_comes_as_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((8, 8, 4), 77, np.uint8))
    cv2.imwrite(str(tmp_path / 'b.png'), np.full((8, 8), 88, np.uint8))
    with opened(tmp_path, framerate=1000) as source:
        assert [image.shape for image, _ in read_all(source)] == [(8, 8, 3), (8, 8, 3)]


@pytest.mark.parametrize('kind', ['video', 'folder'])
def test_a_source_can_be_opened_again_after_closing(request, kind):
    source = open_source(str(request.getfixturevalue(kind)), framerate=1000)
    counts = []
    for _ in range(2):
        source.open()
        counts.append(len(list(read_all(source))))
        source.close()
        source.close()
        with pytest.raises(SourceError, match='closed'):
            source.read()
    assert counts in ([10, 10], [3, 3])


@pytest.mark.parametrize('kind', ['video', 'folder'])
def test_closing_wakes_a_reader_that_waits(request, kind):
    source = open_source(str(request.getfixturevalue(kind)), framerate=0.01)
    source.open()
    source.read()
    closer = threading.Timer(0.05, source.close)
    closer.start()
    started = time.monotonic()
    with pytest.raises(SourceError, match='closed'):
        source.read()
    assert time.monotonic() - started < DEADLINE
    closer.join()


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda d: d / 'missing.mp4', 'does not exist'),
        (lambda d: d / 'missing.png', 'does not exist'),
        (lambda d: write(d / 'bad.mp4', b'x' * 5000), 'holds no readable picture'),
        (lambda d: write(d / 'empty.mp4', b''), 'holds no readable picture'),
        (lambda d: write(d / 'bad.png', b'\x89PNG\r\n\x1a\n' + b'x' * 500), 'damaged or of a format'),
        (lambda d: write(d / 'bad.jpg', b'\xff\xd8\xff' + b'x' * 500), 'damaged or of a format'),
        (lambda d: d, 'holds no pictures'),
        (lambda _: '/dev/video99', 'does not exist; see what there is'),
        (lambda _: '99', 'does not exist; see what there is'),
        (lambda _: '/dev/null', 'cannot be opened'),
        (lambda _: 'rtsp://user:secret@127.0.0.1:9/line', 'cannot be opened'),
        (lambda _: 'http://127.0.0.1:9/line', 'cannot be opened'),
        (lambda _: 'gopher://camera', r"scheme 'gopher', expected one of \["),
        (lambda _: 'sim://moon', r"expected one of \['sim://conveyor'\]"),
        (lambda _: '', 'is empty'),
    ],
)
def test_a_source_that_gives_no_pictures_says_why_in_one_line(tmp_path, capfd, make, reason):
    with pytest.raises(SourceError, match=reason) as failure, opened(make(tmp_path)) as source:
        source.read()
    assert '\n' not in str(failure.value)
    assert 'secret' not in str(failure.value)
    assert not isinstance(failure.value, EndOfStream)
    assert capfd.readouterr() == ('', '')


def test_a_folder_that_is_not_there_yet_gives_its_pictures_once_it_is(tmp_path):
    source = open_source(str(tmp_path / 'mounted_later'))
    with pytest.raises(SourceError, match='does not exist'):
        source.open()
    (tmp_path / 'mounted_later').mkdir()
    cv2.imwrite(str(tmp_path / 'mounted_later' / 'a.png'), np.full((4, 6, 3), 7, np.uint8))
    source.open()
    assert source.read()[0].shape == (4, 6, 3)


def test_a_video_that_is_cut_off_ends_early(tmp_path, video):
    content = video.read_bytes()
    cut = write(tmp_path / 'cut.avi', content[: (content.index(b'movi') + content.index(b'idx1')) // 2])
    with opened(cut, framerate=1000) as source:
        assert 0 < len(list(read_all(source))) < 10


def test_an_unusable_pixel_format_is_refused():
    with pytest.raises(ConfigurationError, match="pixel_format is 'mjpeg2rgb', expected a FourCC"):
        open_source('/dev/video0', pixel_format='mjpeg2rgb')


@pytest.mark.skipif(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason='this OpenCV has GStreamer')
def test_a_pipeline_needs_an_opencv_with_gstreamer():
    with pytest.raises(SourceError, match='built without GStreamer'):
        open_source('videotestsrc ! videoconvert').open()


@pytest.mark.skipif(not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason='this OpenCV has no GStreamer')
def test_a_pipeline_gives_pictures():
    with opened('videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=50/1') as source:
        assert source.read()[0].shape == (48, 64, 3)


def test_a_pipeline_without_a_sink_keeps_only_the_newest_picture():
    assert pipeline('v4l2src').endswith('! appsink drop=true max-buffers=1 sync=false')
    assert pipeline('v4l2src ! appsink') == 'v4l2src ! appsink'


class MotionJpeg(BaseHTTPRequestHandler):
    """Sends a number of pictures as motion JPEG and hangs up."""

    def __init__(self, *args, count, **kwargs):
        self.count = count
        super().__init__(*args, **kwargs)

    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Type', 'multipart/x-mixed-replace; boundary=next')
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for i in range(self.count):
                jpeg = cv2.imencode('.jpg', picture(i % 256))[1].tobytes()
                head = f'--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n'
                self.wfile.write(head.encode() + jpeg + b'\r\n')

    def log_message(self, *_):
        pass


def test_a_network_stream_gives_pictures_until_it_is_lost():
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(MotionJpeg, count=60))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with opened(f'http://127.0.0.1:{server.server_port}/line') as source:
            assert source.read()[0].shape == (48, 64, 3)
            with pytest.raises(SourceError, match='gives no more pictures'):
                list(read_all(source))
    finally:
        server.shutdown()
        server.server_close()


def test_the_simulator_is_made_with_the_options_of_its_url():
    settings = {'framerate': 200, 'image_width': 320, 'image_height': 240}
    pictures = []
    for url in ('sim://conveyor?seed=7', 'sim://conveyor?seed=7', 'sim://conveyor?seed=8&speed=0.2'):
        with opened(url, **settings) as source:
            pictures.append(source.read()[0])
    assert pictures[0].shape == (240, 320, 3)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()


@pytest.mark.parametrize(('query', 'reason'), [('colour=red', "'colour', expected some of"), ('seed=x', "seed='x'")])
def test_an_option_that_the_simulator_does_not_have_is_refused(query, reason):
    with pytest.raises(ConfigurationError, match=reason):
        open_source(f'sim://conveyor?{query}')


def test_schemes_are_listed_in_order():
    assert list(SCHEMES) == sorted(SCHEMES)


def test_the_length_of_a_video_is_known_before_it_is_played(tmp_path):
    path = tmp_path / 'ten.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 5.0, (64, 48))
    for _ in range(10):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert video_length(str(path)) == (2.0, 5.0)
    assert video_length('sim://conveyor') == (0.0, 0.0)


def test_a_password_in_a_url_is_not_shown():
    assert masked('rtsp://user:secret@host/stream') == 'rtsp://***@host/stream'


@pytest.mark.parametrize(
    'video_device',
    [
        'rtsp://viewer:geheim@camera/stream',
        'rtsp://viewer:a@geheim@camera/stream',
        'rtsp://viewer:a/geheim@camera/stream',
        'rtspx://viewer:geheim@camera',
        'http://camera/stream?user=viewer&password=geheim',
        'rtspsrc location=rtsp://viewer:geheim@camera ! decodebin',
        'rtspsrc location=rtsp://camera user-id=viewer user-pw="ge heim" ! decodebin',
        'rtspsrc user-pw=geheim location=rtsp://camera ! decodebin',
    ],
)
def test_no_password_is_shown(video_device):
    assert 'heim' not in masked(video_device)
    assert 'camera' in masked(video_device)
    with pytest.raises(SourceError) as refusal:
        open_source(video_device).open()
    assert 'heim' not in str(refusal.value)
