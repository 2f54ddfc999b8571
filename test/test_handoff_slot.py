from types import SimpleNamespace

import pytest
from frame_handoff import *  # noqa: F403  the contract

from edge_vision.frames import FrameSlot


@pytest.fixture
def handoff():
    """Hand over in one process: by reference, through the slot alone."""
    slot = FrameSlot()
    return SimpleNamespace(put=slot.put, taker=slot)
