import contextlib
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from motion_jpeg import Camera, number_of, serving

from edge_vision.capture import SCHEMES, Backlog, ReadAhead, captured_ns, masked, open_source, pipeline, video_length
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
    said = ''.join(capfd.readouterr()).splitlines()
    assert [line for line in said if not line.startswith(('libpng ', '[mov,', '[tcp @'))] == []  # as OpenCV 4's do


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


def wait_until(condition):
    deadline = time.monotonic() + 3 * DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_network_stream_gives_pictures_until_it_is_lost():
    with serving(lambda: [range(60)]) as url, opened(url) as source:
        assert source.read()[0].shape == (48, 64, 3)
        with pytest.raises(SourceError, match='gives no more pictures'):
            list(read_all(source))


def test_the_newest_picture_before_the_end_is_given():
    pictures = [(picture(value), value) for value in (1, 2, 3)]

    def following():
        if not pictures:
            raise SourceError('it is over')
        return pictures.pop(0)

    ahead = ReadAhead(following)
    ahead.start()
    ahead.join()
    assert ahead.take()[1] == 3
    assert ahead.replaced == 2
    for _ in range(2):
        with pytest.raises(SourceError, match='it is over'):
            ahead.take()


def test_pictures_that_piled_up_while_a_stream_stood_still_are_not_given_as_new():
    camera = Camera()
    with serving(camera.pictures) as url, opened(url) as source:
        for _ in range(20):
            source.read()
        camera.up.clear()
        first = camera.taken
        wait_until(lambda: camera.taken >= first + 20)
        camera.up.set()
        given = []
        while not given or given[-1] < first + 30:
            given.append(number_of(source.read()[0]))
        old = [number for number in given if first < number < first + 19]
        assert len(old) <= 2  # where this machine was held up in the midst of them
        assert source.discarded >= 15


def test_a_late_reader_is_given_the_newest_picture():
    camera = Camera()
    with serving(camera.pictures) as url, opened(url) as source:
        before = number_of(source.read()[0])
        wait_until(lambda: camera.taken > before + 30)
        assert number_of(source.read()[0]) > before + 20
        assert source.replaced >= 20


def test_a_stream_can_be_opened_again_after_closing():
    with serving(Camera().pictures) as url:
        source = open_source(url)
        for _ in range(2):
            source.open()
            assert source.read()[0].shape == (48, 64, 3)
            source.close()
            source.close()
            with pytest.raises(SourceError, match='closed'):
                source.read()


def test_closing_a_stream_ends_its_reader():
    with serving(Camera().pictures) as url, opened(url) as source:
        closer = threading.Timer(0.3, source.close)
        closer.start()
        with pytest.raises(SourceError):
            list(read_all(source))
        closer.join()


def test_a_stream_that_nobody_closed_does_not_crash_at_the_end_of_the_program():
    program = 'import sys; from edge_vision.capture import open_source\n'
    program += 's = open_source(sys.argv[1]); s.open(); print(s.read()[0].shape)'
    with serving(Camera().pictures) as url:
        ended = subprocess.run([sys.executable, '-c', program, url], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, '(48, 64, 3)\n', '')


def taken_at(*intervals):
    """Judge pictures of which each was waited for as long as its interval; return which are fresh."""
    backlog, now, fresh = Backlog(), 0.0, []
    for interval in intervals:
        asked, now = now, now + interval
        fresh.append(not backlog.holds(asked, now))
    return fresh


STEADY = [0.033] * 20


@pytest.mark.parametrize(
    ('intervals', 'fresh'),
    [
        ([3.0, *[0.001] * 80, 0.02, 0.033], [False, *[False] * 80, True, True]),
        ([3.0, 0.033, 0.033], [False, True, True]),
        ([0.09, 0.001, 0.001], [True, True, True]),
        ([3.0, *[0.001] * 4, 2.0, *[0.001] * 4, 0.033], [False] * 10 + [True]),
        ([3.0, 0.001, 0.03, 0.001], [False, False, True, False]),
        ([1.0, 1.0, 1.0, 1.0], [False, True, True, True]),
        ([0.3, *[0.01] * 40], [*[False] * 30, *[True] * 11]),
        ([0.3, *[0.004] * 200], [*[False] * 75, *[True] * 126]),
    ],
    ids=[
        'a backlog',
        'a pause of the camera',
        'a hiccup',
        'two stalls',
        'held up in the backlog',
        'a camera that has become slow',
        'a camera that has become fast',
        'a camera that has become very fast',
    ],
)
def test_a_picture_after_a_stall_is_fresh_only_if_it_was_waited_for(intervals, fresh):
    assert taken_at(*STEADY, *intervals) == [True] * len(STEADY) + fresh


@pytest.mark.parametrize('period', [0.005, 0.033, 0.2, 2.0])
def test_a_steady_camera_loses_nothing_but_the_second_picture_of_a_slow_one(period):
    fresh = taken_at(*[period] * 50)
    assert fresh.count(False) <= 1
    assert all(fresh[2:])


def test_a_reader_that_takes_most_of_the_time_between_pictures_loses_none():
    backlog = Backlog()
    assert not any(backlog.holds(0.033 * n - 0.003, 0.033 * n) for n in range(100))


def test_a_device_is_stamped_by_the_kernel_and_has_buffers_enough_to_give_every_picture(monkeypatch):
    asked = {}

    class Device:
        isOpened = grab = staticmethod(lambda: True)  # noqa: N815  as OpenCV names it
        retrieve = staticmethod(lambda: (True, picture(7)))
        set = staticmethod(asked.__setitem__)
        get = staticmethod(lambda key: {cv2.CAP_PROP_POS_MSEC: time.monotonic() * 1e3 - 5000.0}[key])
        release = staticmethod(lambda: None)

    monkeypatch.setattr(cv2, 'VideoCapture', lambda *_: Device)
    opened_ns = time.time_ns()
    with opened('/dev/null') as source:
        _, stamp_ns = source.read()
        assert opened_ns <= stamp_ns + 5 * 10**9 <= time.time_ns() + 1000
    assert asked[cv2.CAP_PROP_BUFFERSIZE] > 1


@pytest.mark.parametrize(
    ('position_ms', 'age_ns'),
    [
        (100_000.0 - 40.0, 40_000_000),
        (100_000.0, 0),
        (100_000.0 - 9_000.0, 9 * 10**9),
        (0.0, 0),
        (100_000.0 + 5.0, 0),
        (1.7e12, 0),
        (100_000.0 - 11_000.0, 0),
    ],
    ids=['in time', 'now', 'long ago', 'not told', 'to come', 'of the wall clock', 'of another clock'],
)
def test_the_stamp_of_a_device_is_the_time_that_the_kernel_gave_its_buffer(position_ms, age_ns):
    now_ns = 1_763_640_000 * 10**9
    assert captured_ns(position_ms, 100 * 10**9, now_ns) == now_ns - age_ns


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
