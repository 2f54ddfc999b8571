import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vision.events import Event, event_id
from edge_vision.mqtt.pacing import RateLimit, SendQueue, Window
from edge_vision.spool import Spool


def event(action='stop'):
    return Event(event_id(time.time_ns()), 'camera', 'gate', action, 'new', time.time_ns())


class Sending:
    """A spool and the queue of its sender."""

    def __init__(self, spool, order, page=4):
        self.spool = spool
        self.news = threading.Event()
        spool.listen(self.news.set)
        self.queue = SendQueue(spool, self.news, page, order)
        self.under_way = []

    def store(self, *actions):
        events = [event(action) for action in actions]
        self.spool.append_many([(each, None) for each in events])
        return [each.id for each in events]

    def send(self, count=1000):
        """Take so many events, as far as there are, and have each acknowledged."""
        sent = []
        while len(sent) < count and self.take():
            sent.append(self.under_way[-1].id)
            self.acknowledge()
        return sent

    def take(self):
        stored = self.queue.peek()
        if stored is not None:
            self.queue.pop()
            self.under_way.append(stored)
        return stored

    def acknowledge(self):
        seqs = [self.under_way.pop(0).seq]
        self.spool.acknowledge(seqs)
        self.queue.forget(seqs)


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / 'spool') as opened:
        yield opened


def test_oldest_event_goes_first(spool):
    sending = Sending(spool, 'oldest_first')
    stored = sending.store('flag', 'stop', 'flag', 'stop', 'alarm', 'stop')
    assert sending.send() == stored


def test_newest_stop_goes_first_and_the_rest_in_order(spool):
    sending = Sending(spool, 'stops_first')
    stored = sending.store(*['flag', 'stop', 'alarm'] * 10)
    stops = stored[1::3]
    assert sending.send() == stops[::-1] + [each for each in stored if each not in stops]


def test_stop_that_comes_later_overtakes_what_waits(spool):
    sending = Sending(spool, 'stops_first')
    flags = sending.store(*['flag'] * 6)
    assert sending.send(2) == flags[:2]
    stop = sending.store('stop')
    assert sending.send() == stop + flags[2:]


@given(
    order=st.sampled_from(['oldest_first', 'stops_first']),
    steps=st.lists(st.sampled_from(['flag', 'stop', 'take', 'acknowledge']), max_size=60),
)
def test_each_event_is_taken_once_whatever_the_order_of_things(tmp_path_factory, order, steps):
    with Spool(tmp_path_factory.mktemp('spool')) as spool:
        sending = Sending(spool, order)
        stored, taken = [], []
        for step in steps:
            if step in {'flag', 'stop'}:
                stored += sending.store(step)
            elif step == 'take' and len(sending.under_way) < 4 and sending.take():
                taken.append(sending.under_way[-1].id)
            elif step == 'acknowledge' and sending.under_way:
                sending.acknowledge()
        while sending.under_way:
            sending.acknowledge()
        taken += sending.send()
        assert sorted(taken) == sorted(stored)
        assert spool.depth == 0


def answers(window, count, *, took, used=None, now=0.0):
    """Let so many acknowledgements come, with the window full."""
    for _ in range(count):
        window.acknowledged(now - took, now, used or window.size)
    return window.size


def test_window_starts_small_and_grows_while_answers_come_quickly():
    window = Window(64)
    assert window.size == 2
    assert answers(window, 8, took=0.1) == 4
    assert answers(window, 1000, took=0.1) == 64


def test_window_does_not_grow_while_it_is_not_used():
    window = Window(64)
    assert answers(window, 1000, took=0.1, used=1) <= 3


def test_window_shrinks_when_answers_wait_in_line():
    window = Window(64)
    answers(window, 1000, took=0.01)
    assert answers(window, 1000, took=0.5) == 2


def test_window_grows_again_on_a_way_that_has_become_longer():
    window = Window(64)
    answers(window, 10, took=0.01)
    assert answers(window, 100, took=0.5, now=1.0) == 2
    assert answers(window, 1000, took=0.5, now=20.0) == 64


@pytest.mark.parametrize('most', [1, 2])
def test_smallest_windows_stay_what_they_are(most):
    window = Window(most)
    assert answers(window, 100, took=0.1) == most
    assert answers(window, 100, took=5.0) == most


def test_window_starts_small_again_after_a_rest():
    window = Window(64)
    answers(window, 1000, took=0.1)
    window.restart()
    assert window.size == 2


def test_rate_limit_lets_a_burst_through_and_then_makes_wait():
    limit = RateLimit(10.0)
    assert limit.wait() == 0.0
    limit.spend(15.0)
    assert 0.4 < limit.wait() <= 0.501
    assert RateLimit(0.0).wait() == 0.0
