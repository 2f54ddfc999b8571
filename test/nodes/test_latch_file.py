import time

import pytest
from rclpy.logging import get_logger

from edge_vision.causes import OPERATOR_STOP
from edge_vision.decision import Cause
from edge_vision.errors import ConfigurationError
from edge_vision.latches import load, lock
from edge_vision.nodes.latch_file import LatchFile

DEADLINE = 30.0  # s
GATE = Cause('gate', 'detections', 'stop', 0, 'dent in gate', latched=True)
OPERATOR = Cause(OPERATOR_STOP, '', 'stop', 0, 'the operator stopped it')


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'latches.json'


@pytest.fixture
def open_file(path):
    """Open the file for a decision that keeps what is in the list."""
    opened = []

    def make(kept):
        opened.append(LatchFile(path, 0, lambda: tuple(kept), get_logger('decision')))
        return opened[-1]

    yield make
    for file in opened:
        file.close()


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def names(path):
    return [cause.name for cause in load(path, 0)]


def test_what_is_kept_follows_what_is_held(open_file, path):
    kept = []
    file = open_file(kept)
    for held in ([GATE], [GATE, OPERATOR], [OPERATOR], []):
        kept[:] = held
        file.update()
        until(lambda: names(path) == [cause.name for cause in held])  # noqa: B023


def test_what_began_in_the_last_moment_is_kept_and_the_next_one_has_the_file(open_file, path):
    kept = []
    file = open_file(kept)
    with pytest.raises(ConfigurationError, match='which another decision keeps'):
        lock(path)
    kept.append(OPERATOR)
    file.close()
    assert names(path) == [OPERATOR_STOP]
    assert [cause.name for cause in open_file([OPERATOR]).held] == [OPERATOR_STOP]


def test_what_the_disk_refused_is_tried_again(open_file, path):
    refusing = path.with_name('latches.json.part')
    refusing.mkdir()
    kept = [GATE]
    file = open_file(kept)
    file.update()
    until(lambda: file.trouble.startswith('latch_file cannot be written: '))
    refusing.rmdir()
    file.update()
    until(lambda: names(path) == ['gate'])
    until(lambda: not file.trouble)


def test_there_is_no_trouble_any_more_once_there_is_nothing_to_keep(open_file, path):
    path.with_name('latches.json.part').mkdir()
    kept = [GATE]
    file = open_file(kept)
    file.update()
    until(lambda: file.trouble)
    kept.clear()
    file.update()
    until(lambda: not file.trouble)
