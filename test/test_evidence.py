import struct

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


def segments(jpeg):
    """Return the marker and the content of every segment in front of the pixels."""
    assert jpeg.startswith(b'\xff\xd8')
    position = 2
    while jpeg[position + 1] != 0xDA:  # start of scan
        assert jpeg[position] == 0xFF
        (length,) = struct.unpack('>H', jpeg[position + 2 : position + 4])
        yield jpeg[position + 1], jpeg[position + 4 : position + 2 + length]
        position += 2 + length


@pytest.mark.parametrize('kind', ['crop', 'frame'])
@pytest.mark.parametrize('max_bytes', [200_000, 5_000], ids=['as it is', 'made smaller'])
@pytest.mark.parametrize('blur_outside', [False, True], ids=['', 'blurred'])
def test_picture_carries_tables_and_pixels_and_nothing_else(kind, max_bytes, blur_outside):
    jpeg = encode(noise(), kind, (10, 10, 90, 90), max_bytes=max_bytes, blur_outside=blur_outside)
    for told in (jpeg, shrink(jpeg, 4_000)):
        jfif, *others = segments(told)
        assert jfif == (0xE0, b'JFIF\0\1\1\0\0\1\0\1\0\0')  # version and pixel shape; no thumbnail
        assert {marker for marker, _ in others} <= {0xC0, 0xC4, 0xDB}  # frame header, Huffman and quantisation tables
        assert told.endswith(b'\xff\xd9')


def test_picture_has_the_quality_asked_for():
    def step(quality):
        """First step of the first quantisation table; 16 at quality 50."""
        jpeg = encode(noise(), 'frame', quality=quality, max_bytes=1 << 24)
        return next(content[1] for marker, content in segments(jpeg) if marker == 0xDB)

    assert [step(quality) for quality in (100, 85, 50)] == [1, 5, 16]


def jumbled(image, cell):
    """Put the pixels of every cell in another order."""
    height, width = image.shape[:2]
    cells = image.reshape(height // cell, cell, width // cell, cell, 3).swapaxes(1, 2).reshape(-1, cell * cell, 3)
    cells = np.random.default_rng(2).permuted(cells, axis=1).reshape(height // cell, width // cell, cell, cell, 3)
    return np.ascontiguousarray(cells.swapaxes(1, 2).reshape(height, width, 3))


@pytest.mark.parametrize('kind', ['crop', 'frame'])
@pytest.mark.parametrize('cell', [40, 120], ids=['VGA', 'full HD'])
def test_outside_the_box_only_the_mean_colours_of_16_cells_across_are_left(kind, cell):
    image = np.repeat(np.repeat(noise(3 * cell, 4 * cell), 4, axis=0), 4, axis=1)  # blocks of four pixels
    other = jumbled(image, cell)
    box = (4 * cell, 4 * cell, 8 * cell, 6 * cell)
    inside = slice(4 * cell, 6 * cell), slice(4 * cell, 8 * cell)
    other[inside] = image[inside]
    assert not np.array_equal(image, other)
    # What differs in all pixels of a cell, in the same mean, cannot be told apart any more.
    given = [encode(each, kind, box, quality=100, max_bytes=1 << 24, blur_outside=True) for each in (image, other)]
    assert given[0] == given[1]


def test_box_stays_as_sharp_as_it_was():
    image = noise()
    blurred = decoded(encode(image, 'frame', (200, 160, 360, 280), quality=100, max_bytes=1 << 24, blur_outside=True))
    sharp = decoded(encode(image, 'frame', quality=100, max_bytes=1 << 24))
    inside = slice(164, 276), slice(204, 356)
    assert np.abs(blurred[inside].astype(int) - sharp[inside]).mean() < 3
    assert np.abs(blurred[:140].astype(int) - 127).max() < 20  # the noise is gone


def test_no_stroke_of_a_number_plate_as_wide_as_the_frame_is_left():
    def plate(text):
        image = np.full((480, 640, 3), 120, np.uint8)
        cv2.rectangle(image, (20, 300), (620, 440), (255, 255, 255), -1)  # as wide as the frame
        return cv2.putText(image, text, (40, 415), cv2.FONT_HERSHEY_SIMPLEX, 4.2, (0, 0, 0), 14)

    def sharpest(image):
        return np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.CV_64F)).max()

    image = plate('B83 XQ6')
    assert sharpest(decoded(encode(image, 'frame'))) > 250
    assert sharpest(decoded(encode(image, 'frame', (0, 0, 40, 40), blur_outside=True))) < 25


def test_picture_without_a_box_is_blurred_as_a_whole():
    picture = decoded(encode(noise(), 'crop', blur_outside=True))
    assert picture.shape == (480, 640, 3)
    assert np.abs(picture.astype(int) - 127).max() < 20


def test_picture_too_long_for_a_jpeg_is_none():
    assert encode(np.zeros((1, 70_000, 3), np.uint8), 'frame') is None


def test_frame_is_not_written_to():
    image = noise(64, 64)
    image.flags.writeable = False
    assert encode(image, 'crop', (10, 10, 20, 20), max_bytes=300, blur_outside=True) is not None
