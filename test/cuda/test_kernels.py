"""The very code of kernels.cu, compiled for the CPU, against OpenCV and numpy."""

import ctypes

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_vision.cuda import layout
from edge_vision.simulator.source import ConveyorSource
from edge_vision.yolov8 import Canvas, candidates, letterbox

FLOAT, HALF = np.dtype(np.float32), np.dtype(np.float16)
TAKE = {FLOAT: 'take_float', HALF: 'take_half'}
SIZES = [
    (640, 480),
    (1920, 1080),
    (3840, 2160),
    (641, 479),
    (333, 217),
    (50, 900),
    (1000, 31),
    (100, 70),
    (3, 5),
    (1, 1),
    (2, 2),
    (320, 320),
]
element_types = pytest.mark.parametrize('element_type', [FLOAT, HALF], ids=['float', 'half'])


def pointer(array, offset=0):
    return ctypes.c_void_p(array.ctypes.data + offset)


def stage(image, input_size, element_type=FLOAT, min_score=0.25, frame=7):
    """Fill staged memory; what is not written is not zero."""
    geometry = letterbox((image.shape[1], image.shape[0]), input_size)
    memory = np.full(layout.offsets(input_size).picture + image.size, 0xEE, np.uint8)
    staged = layout.Staged(memory, input_size, element_type)
    staged.write(image, geometry, min_score, frame)
    return memory


def run_letterbox(run, image, input_size, element_type):
    memory = stage(image, input_size, element_type)
    height, width = input_size
    planes = np.full((3, height, width), 9, element_type)
    header = np.zeros(1, layout.HEADER)
    places = [pointer(memory, offset) for offset in layout.offsets(input_size)]
    numbers = map(ctypes.c_int, (width, height, element_type.itemsize))
    run('letterbox', (-(-width // 32), -(-height // 8)), (32, 8), *places, pointer(planes), pointer(header), *numbers)
    return planes, header[0]


def reference(image, input_size, element_type):
    canvas = Canvas(np.zeros((*input_size, 3), np.uint8))
    canvas.draw(image, letterbox((image.shape[1], image.shape[0]), input_size))
    planes = cv2.dnn.blobFromImage(canvas.pixels, swapRB=True)[0]
    return np.divide(planes, np.float32(255)).astype(element_type)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@element_types
@pytest.mark.parametrize('input_size', [(320, 320), (640, 640), (384, 640)], ids=str)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_letterbox_gives_the_bits_that_opencv_gives(compiled_kernels, size, input_size, element_type):
    image = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    planes, header = run_letterbox(compiled_kernels[1], image, input_size, element_type)
    assert same_bits(planes, reference(image, input_size, element_type))
    assert (header['seen'], header['count']) == (7, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.integers(0, 2**32 - 1),
)
def test_letterbox_does_so_for_any_size(compiled_kernels, size, strides, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    input_size = (strides[0] * 32, strides[1] * 32)
    planes, _ = run_letterbox(compiled_kernels[1], image, input_size, FLOAT)
    assert same_bits(planes, reference(image, input_size, FLOAT))


def test_letterbox_does_so_for_pictures_of_the_line_and_for_views_of_them(compiled_kernels):
    source = ConveyorSource(image_width=1280, image_height=720)
    source.open()
    image = source.read()[0]
    source.close()
    for view in (image, image[100:611, 200:933], image[::-1, ::-1], image[::2, ::3]):
        planes, _ = run_letterbox(compiled_kernels[1], view, (320, 320), FLOAT)
        assert same_bits(planes, reference(np.ascontiguousarray(view), (320, 320), FLOAT))


def test_every_half_is_the_number_that_numpy_reads(compiled_kernels):
    library, _ = compiled_kernels
    bits = np.arange(65536, dtype=np.uint16)
    found = np.array([library.number_of_half(int(pattern)) for pattern in bits], np.float32)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32))


def run_take(run, output, element_type, min_score, *, transposed=False, frame=7):
    rows, anchors = output.shape
    memory = stage(np.zeros((4, 4, 3), np.uint8), (32, 32), element_type, min_score, frame)
    network_output = np.ascontiguousarray(output.T if transposed else output)
    result = layout.Result(rows, anchors, element_type)
    found = np.full(result.size, 0xEE, np.uint8)
    found[: layout.HEADER.itemsize].view(layout.HEADER)[0] = (frame, 0, 0, 0)
    run(
        TAKE[element_type],
        (-(-anchors // 256), 1),
        (256, 1),
        pointer(memory),
        pointer(network_output),
        *(pointer(found, offset) for offset in (0, result.positions, result.taken)),
        *map(ctypes.c_int, (rows, anchors, int(transposed), result.capacity)),
    )
    return result, found


def scores(rows, anchors, element_type, seed=0):
    rng = np.random.default_rng(seed)
    output = np.concatenate([rng.uniform(0, 640, (4, anchors)), rng.uniform(0, 1, (rows - 4, anchors)) ** 8])
    return output.astype(element_type)


@element_types
@pytest.mark.parametrize('transposed', [False, True], ids=['plain', 'transposed'])
@pytest.mark.parametrize(('rows', 'anchors'), [(6, 2100), (84, 8400), (5, 1), (7, 257)])
@pytest.mark.parametrize('min_score', [0.25, 0.999, 0.0])
def test_anchors_come_out_as_the_reference_takes_them(
    compiled_kernels, rows, anchors, min_score, transposed, element_type
):
    output = scores(rows, anchors, element_type)
    threshold = min_score if anchors < 1000 else float(np.quantile(output[4:].max(axis=0), 1 - 500 / anchors))
    result, found = run_take(compiled_kernels[1], output, element_type, threshold, transposed=transposed)
    anchors_found = result.read(found, 7)
    assert anchors_found is not None
    assert same_bits(anchors_found, np.ascontiguousarray(candidates(output.astype(np.float32), threshold)))


@element_types
def test_what_is_not_a_number_passes_and_what_equals_the_threshold_does_not(compiled_kernels, element_type):
    output = np.zeros((6, 8), element_type)
    output[4:, 1] = 0.25
    output[5, 2] = np.nan
    output[:2, 3] = np.nan
    output[4, 4] = np.inf
    output[4:, 5] = -np.inf
    output[4, 6] = np.nextafter(element_type.type(0.25), element_type.type(1))
    result, found = run_take(compiled_kernels[1], output, element_type, 0.25)
    anchors = result.read(found, 7)
    np.testing.assert_array_equal(anchors, output[:, [2, 4, 6]].astype(np.float32))
    np.testing.assert_array_equal(anchors, candidates(output.astype(np.float32), 0.25))


def test_more_anchors_than_there_is_room_for_are_said_and_not_written(compiled_kernels):
    output = scores(6, 8400, FLOAT)
    result, found = run_take(compiled_kernels[1], output, FLOAT, -1.0)
    assert found[: layout.HEADER.itemsize].view(layout.HEADER)[0]['count'] == 8400
    assert result.read(found, 7) is None


def test_result_of_another_frame_is_not_read(compiled_kernels):
    result, found = run_take(compiled_kernels[1], scores(6, 100, FLOAT), FLOAT, 0.5, frame=7)
    with pytest.raises(ValueError, match='frame 7 and not of frame 8'):
        result.read(found, 8)
    found[: layout.HEADER.itemsize].view(layout.HEADER)['seen'] = 6
    with pytest.raises(ValueError, match='not of frame 7'):
        result.read(found, 7)


def test_geometry_is_written_anew_when_it_changes_and_only_then():
    memory = np.zeros(layout.offsets((32, 32)).picture + 64 * 64 * 3, np.uint8)
    staged = layout.Staged(memory, (32, 32), FLOAT)
    rows = memory[staged.offsets.rows : staged.offsets.picture]
    small, large = np.zeros((20, 40, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    staged.write(small, letterbox((40, 20), (32, 32)), 0.5, 1)
    first = rows.copy()
    staged.write(large, letterbox((64, 64), (32, 32)), 0.5, 2)
    assert not np.array_equal(rows, first)
    staged.write(small, letterbox((40, 20), (32, 32)), 0.5, 3)
    assert np.array_equal(rows[: 16 * 16], first[: 16 * 16])
    rows[0] += 1
    touched = rows.copy()
    staged.write(small, letterbox((40, 20), (32, 32)), 0.5, 4)
    assert np.array_equal(rows, touched)
