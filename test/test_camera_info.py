import pytest

from edge_vision.camera_info import Calibration, load_calibration
from edge_vision.errors import ConfigurationError

CALIBRATION = """
image_width: 640
image_height: 480
camera_name: line
camera_matrix: {rows: 3, cols: 3, data: [500, 0, 320, 0, 500.5, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [500, 0, 320, 0, 0, 500, 240, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def write(tmp_path):
    def written(text):
        path = tmp_path / 'camera.yaml'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


@pytest.mark.parametrize('scheme', ['', 'file://'])
def test_calibration_is_read_from_a_path_or_file_url(write, scheme):
    assert load_calibration(f'{scheme}{write(CALIBRATION)}') == Calibration(
        camera_name='line',
        width=640,
        height=480,
        distortion_model='plumb_bob',
        d=(0.1, -0.2, 0.0, 0.0, 0.0),
        k=(500.0, 0.0, 320.0, 0.0, 500.5, 240.0, 0.0, 0.0, 1.0),
        r=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        p=(500.0, 0.0, 320.0, 0.0, 0.0, 500.0, 240.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    )


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[1, 2]',
        'just text',
        'image_width: [',
        b'\xff\xfe\x00',
        CALIBRATION.replace('image_width: 640', 'image_width: wide'),
        CALIBRATION.replace('image_width: 640', 'image_width: .inf'),
        CALIBRATION.replace('distortion_model: plumb_bob', ''),
        CALIBRATION.replace('0, 0, 1]}\ndistortion', '0, 0]}\ndistortion'),
        CALIBRATION.replace('[0.1, -0.2, 0, 0, 0]', 'none'),
        CALIBRATION.replace('{rows: 1, cols: 5, data: [0.1, -0.2, 0, 0, 0]}', '5'),
    ],
    ids=['empty', 'list', 'text', 'broken', 'bytes', 'no number', 'infinite', 'no model', 'short', 'no list', 'no map'],
)
def test_anything_else_is_refused_in_one_line(write, text):
    path = write(text)
    with pytest.raises(ConfigurationError, match='expected a calibration as camera_calibration writes it') as refused:
        load_calibration(str(path))
    assert repr(str(path)) in str(refused.value)
    assert '\n' not in str(refused.value)


def test_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.yaml', which cannot be read: No such file"):
        load_calibration(f'file://{tmp_path}/none.yaml')


def test_other_urls_are_refused():
    with pytest.raises(ConfigurationError, match=r"is 'package://x/camera\.yaml', expected file:///path"):
        load_calibration('package://x/camera.yaml')
