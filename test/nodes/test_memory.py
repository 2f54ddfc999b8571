import gc

import pytest

from edge_vision.nodes.memory import leave_alone_what_stays


@pytest.fixture
def collector():
    yield
    gc.unfreeze()


@pytest.mark.usefixtures('collector')
def test_what_was_there_before_is_not_looked_at_again():
    there = [[] for _ in range(1000)]
    leave_alone_what_stays()
    assert gc.get_freeze_count() > len(there)
    assert not any(item is there for item in gc.get_objects())
