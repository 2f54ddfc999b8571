import json
import subprocess
import sys

import pytest

from edge_vision.causes import OPERATOR_STOP, UNREADABLE_LATCHES
from edge_vision.decision import Cause
from edge_vision.errors import ConfigurationError
from edge_vision.latches import load, lock, save

GATE = Cause('gate', 'left/detections', 'stop', 5, 'dent in gate', latch=True)
OPERATOR = Cause(OPERATOR_STOP, '', 'stop', 6, 'the operator stopped it')


def test_what_was_held_is_held_again(tmp_path):
    path = tmp_path / 'latches.json'
    assert load(path, 9) == ()
    save(path, [GATE, OPERATOR])
    for _ in range(2):
        held = load(path, 9)
        assert [(c.key, c.since_ns, c.latched) for c in held] == [(GATE.key, 9, True), (OPERATOR.key, 9, False)]
        assert held[0].reason == 'dent in gate; kept over a restart'
        save(path, held)
    save(path, [])
    assert load(path, 9) == ()
    assert [entry.name for entry in tmp_path.iterdir()] == ['latches.json']


DAMAGED = {
    'empty': '',
    'cut off': '{"format": 1, "held": [{"name"',
    'another format': '{"format": 9, "held": []}',
    'no list': '{"format": 1, "held": {}}',
    'no cause': '{"format": 1, "held": [{"name": 1, "source": "", "action": "stop", "reason": ""}]}',
    'another action': '{"format": 1, "held": [{"name": "a", "source": "", "action": "go", "reason": ""}]}',
    'too deep': '[' * 100_000,
    'a number': '7',
}


@pytest.mark.parametrize('text', DAMAGED.values(), ids=DAMAGED)
def test_file_that_cannot_be_read_is_a_stop_that_can_be_reset(tmp_path, text):
    path = tmp_path / 'latches.json'
    path.write_text(text, encoding='utf-8')
    (cause,) = load(path, 9)
    assert (cause.name, cause.action, cause.latched) == (UNREADABLE_LATCHES, 'stop', True)
    assert str(path) in cause.reason
    save(path, [cause])
    assert [(c.name, c.latched) for c in load(path, 10)] == [(UNREADABLE_LATCHES, True)]


def test_file_that_could_not_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match='expected a file in a directory that can be written'):
        lock(tmp_path / 'absent' / 'latches.json')


def test_file_has_one_decision_at_a_time_for_as_long_as_that_lives(tmp_path):
    path = tmp_path / 'latches.json'
    with lock(path):
        save(path, [GATE])
        with pytest.raises(
            ConfigurationError, match=r"latches.json', which another decision keeps; give each decision"
        ):
            lock(path)
        with lock(tmp_path / 'other.json'):
            pass
    with lock(path):
        assert [cause.name for cause in load(path, 9)] == ['gate']


def test_file_of_a_decision_that_was_killed_is_free(tmp_path):
    path = tmp_path / 'latches.json'
    keep = f'import pathlib, time; from edge_vision.latches import lock; held = lock(pathlib.Path({str(path)!r}))'
    keeper = subprocess.Popen(
        [sys.executable, '-c', f'{keep}; print(flush=True); time.sleep(60)'], stdout=subprocess.PIPE
    )
    with keeper:
        keeper.stdout.readline()
        with pytest.raises(ConfigurationError, match='another decision'):
            lock(path)
        keeper.kill()
    lock(path).close()


def test_file_that_cannot_be_locked_is_refused(tmp_path):
    (tmp_path / 'latches.json.lock').mkdir()
    with pytest.raises(ConfigurationError, match='which cannot be locked: Is a directory'):
        lock(tmp_path / 'latches.json')


def test_file_is_json_that_a_person_can_read(tmp_path):
    save(tmp_path / 'latches.json', [GATE])
    assert json.loads((tmp_path / 'latches.json').read_text(encoding='utf-8'))['held'][0]['name'] == 'gate'
