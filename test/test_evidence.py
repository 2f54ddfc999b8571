import cv2
import numpy as np
import pytest

from edge_vision.evidence import encode, shrink


def noise(height=480, width=640):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_frame_shows_the_whole_picture():
    image = np.full((480, 640, 3), (10, 120, 230), np.uint8)
    picture = decoded(encode(image, 'frame', (1, 2, 3, 4)))
    assert picture.shape == image.shape
    assert np.abs(picture.astype(int) - image).max() <= 3


def test_crop_shows_the_box_with_its_margin():
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:250, 300:400] = 255
    picture = decoded(encode(image, 'crop', (300, 200, 400, 250), margin=0.1))
    assert picture.shape == (70, 120, 3)
    assert picture[15:55, 15:105].min() > 240
    assert picture[:5].max() < 15


def test_crop_at_the_edge_is_clipped_to_the_picture():
    assert decoded(encode(noise(), 'crop', (600, 440, 640, 480), margin=0.5)).shape == (60, 60, 3)


def test_crop_without_a_box_shows_the_whole_picture():
    assert decoded(encode(noise(48, 64), 'crop')).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ('image', 'kind', 'bbox'),
    [
        (noise(8, 8), 'none', None),
        (np.zeros((0, 0, 3), np.uint8), 'frame', None),
        (noise(8, 8), 'crop', (20, 20, 30, 30)),
        (noise(8, 8), 'crop', (-9, -9, -5, -5)),
    ],
    ids=['not wanted', 'empty image', 'right of the image', 'left of the image'],
)
def test_nothing_to_show_gives_no_picture(image, kind, bbox):
    assert encode(image, kind, bbox) is None


@pytest.mark.parametrize('max_bytes', [200_000, 60_000, 10_000, 1_000])
def test_picture_is_made_smaller_until_it_fits(max_bytes):
    jpeg = encode(noise(), 'frame', max_bytes=max_bytes)
    assert max_bytes / 4 < len(jpeg) <= max_bytes
    assert decoded(jpeg) is not None


def test_picture_is_made_even_where_no_size_fits():
    assert decoded(encode(noise(), 'frame', max_bytes=1)).shape == (1, 1, 3)


def test_stored_picture_can_be_made_smaller():
    jpeg = encode(noise(), 'frame')
    assert len(shrink(jpeg, 20_000)) <= 20_000
    assert shrink(b'no jpeg', 20_000) is None


def test_picture_carries_no_metadata():
    jpeg = encode(noise(8, 8), 'frame')
    assert b'Exif' not in jpeg
    assert b'http' not in jpeg


def test_frame_is_not_written_to():
    image = noise(64, 64)
    image.flags.writeable = False
    assert encode(image, 'crop', (10, 10, 20, 20), max_bytes=300) is not None
