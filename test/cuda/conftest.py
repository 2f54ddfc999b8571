import emulation
import pytest


@pytest.fixture(scope='session')
def compiled_kernels(tmp_path_factory):
    return emulation.kernels(tmp_path_factory.mktemp('kernels'))
