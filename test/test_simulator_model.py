"""The shipped model and its card."""

import hashlib
from pathlib import Path

MODELS = Path(__file__).parent.parent / 'models'


def test_the_card_states_the_checksum_of_the_shipped_model():
    checksum = hashlib.sha256((MODELS / 'conveyor_yolov8_320.onnx').read_bytes()).hexdigest()
    assert checksum in (MODELS / 'README.md').read_text()
