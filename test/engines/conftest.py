import pytest

from edge_vision.engines.api import find
from edge_vision.errors import RuntimeUnavailable


@pytest.fixture(scope='session')
def api():
    """Find a library that builds engines on a machine without a GPU."""
    try:
        found = find(to_build=True)
    except RuntimeUnavailable as error:
        pytest.skip(f'no library that builds engines: {error}')
    if found.name != 'tensorrt_rtx':
        pytest.skip(f'{found} builds only where it has a GPU; what is tested here takes TensorRT-RTX')
    return found


@pytest.fixture(autouse=True)
def engine_directory(tmp_path, monkeypatch):
    """Keep the engines of a test to themselves."""
    directory = tmp_path / 'engines'
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(directory))
    return directory
