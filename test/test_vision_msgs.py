"""The messages here and those of a ROS distro must understand each other: DDS matches them by type hash."""

import json
from pathlib import Path

import pytest

get_package_share_directory = pytest.importorskip('ament_index_python').get_package_share_directory
vision_msgs = pytest.importorskip('vision_msgs.msg')

HASHES = {  # of vision_msgs 4.1.1 (tag 4.1.1 of its repository), generated with rosidl 4.9.5
    'BoundingBox2D': 'RIHS01_008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f',
    'Detection2D': 'RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea',
    'Detection2DArray': 'RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968',
    'LabelInfo': 'RIHS01_3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783',
    'ObjectHypothesis': 'RIHS01_51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90',
    'ObjectHypothesisWithPose': 'RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc',
    'Point2D': 'RIHS01_eab0e83f44ab4de92ceaf76dd7d0e7638f2bdd1d16ffbe16c7a136c48e407247',
    'Pose2D': 'RIHS01_b0b5d1d7b4c20dd4fcde3ed1d4b289a919290572007d67a97043814db25d3648',
    'VisionClass': 'RIHS01_1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a',
}


@pytest.mark.parametrize('name', HASHES)
def test_type_hash_is_that_of_vision_msgs_4_1_1(name):
    description = Path(get_package_share_directory('vision_msgs'), 'msg', f'{name}.json')
    if not description.exists():
        pytest.skip(f'{description} is missing: this ROS distro has no type hashes')
    hashes = {entry['type_name']: entry['hash_string'] for entry in json.loads(description.read_text())['type_hashes']}
    assert hashes[f'vision_msgs/msg/{name}'] == HASHES[name]


@pytest.mark.parametrize('name', HASHES)
def test_type_support_loads(name):
    message = getattr(vision_msgs, name)
    type(message).__import_type_support__()
    assert message._TYPE_SUPPORT is not None
