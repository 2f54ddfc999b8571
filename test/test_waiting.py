import threading

import numpy as np
import pytest

from edge_vision.events import Event, event_id
from edge_vision.frames import Frame
from edge_vision.waiting import Flagged, Waiting


def flagged(action='flag', frame=None):
    event = Event(id=event_id(1), camera='camera', rule='gate', action=action, phase='new', stamp_ns=1)
    return Flagged(event, frame, lambda: None)


def frame(kilobytes):
    return Frame(np.zeros((1, kilobytes * 1000, 1), np.uint8), 1, 'camera')


def test_events_leave_in_the_order_in_which_they_came():
    waiting = Waiting(10, 1000)
    items = [flagged(action) for action in ('flag', 'stop', 'alarm', 'flag', 'slowdown')]
    for item in items:
        waiting.put(item)
    assert waiting.take(3) + waiting.take(3) == items
    assert len(waiting) == 0


@pytest.mark.parametrize(
    ('actions', 'kept'),
    [
        (('flag', 'stop', 'flag', 'flag'), (1, 2, 3)),
        (('stop', 'alarm', 'stop', 'flag'), (0, 1, 2)),
        (('stop', 'slowdown', 'alarm', 'stop'), (0, 1, 3)),
        (('stop', 'slowdown', 'stop', 'stop'), (0, 2, 3)),
        (('stop', 'stop', 'stop', 'stop'), (1, 2, 3)),
    ],
    ids=['oldest flag', 'newest is the only flag', 'alarm before slowdown', 'slowdown before stop', 'only stops'],
)
def test_what_matters_least_is_given_up_when_it_is_full_and_of_that_the_oldest(actions, kept):
    waiting = Waiting(3, 1000)
    items = [flagged(action) for action in actions]
    for item in items:
        waiting.put(item)
    assert waiting.take(10) == [items[i] for i in kept]
    assert waiting.dropped == 1


def test_hundred_thousand_events_take_no_more_room_than_allowed_and_leave_every_stop():
    waiting = Waiting(1000, 5_000_000)
    stops = []
    for i in range(100_000):
        item = flagged('stop' if i % 200 == 0 else 'flag', frame(100))
        stops += [item.event.id] if i % 200 == 0 else []
        waiting.put(item)
        assert len(waiting) <= 1000
        assert waiting.frame_bytes <= 5_000_000
    assert waiting.dropped == 99_000
    left = waiting.take(10_000)
    assert [item.event.id for item in left if item.event.action == 'stop'] == stops
    assert waiting.frame_bytes == 0


def test_frames_beyond_the_room_for_them_are_let_go_and_their_events_stay():
    waiting = Waiting(10, 2500)
    items = [flagged(frame=frame(1)) for _ in range(3)]
    for item in items:
        waiting.put(item)
    taken = waiting.take(10)
    assert [item.frame is None for item in taken] == [False, False, True]
    assert [item.event for item in taken] == [item.event for item in items]


def test_frame_of_several_events_is_counted_once():
    waiting, shared = Waiting(10, 1500), frame(1)
    for _ in range(3):
        waiting.put(flagged(frame=shared))
    assert waiting.frame_bytes == 1000
    assert all(item.frame is shared for item in waiting.take(2))
    assert waiting.frame_bytes == 1000
    waiting.take(1)
    assert waiting.frame_bytes == 0


def test_frame_larger_than_all_the_room_is_held_where_it_is_alone():
    waiting = Waiting(10, 1500)
    waiting.put(flagged(frame=frame(2)))
    assert waiting.take(1)[0].frame is not None


def test_what_waits_can_still_be_taken_after_the_end():
    waiting = Waiting(10, 1000)
    waiting.put(flagged())
    waiting.close()
    assert len(waiting.take(5)) == 1
    assert waiting.take(5) == []


def test_taker_wakes_up_for_an_event():
    waiting, taken = Waiting(10, 1000), []
    thread = threading.Thread(target=lambda: taken.extend(waiting.take(5)))
    thread.start()
    waiting.put(flagged())
    thread.join(20.0)
    assert len(taken) == 1
