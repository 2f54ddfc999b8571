import threading

import numpy as np
import pytest

from edge_vision.frames import Frame, Slot

DEADLINE = 10.0


@pytest.fixture
def slot():
    return Slot()


def test_frame_size_is_width_and_height():
    assert Frame(np.zeros((480, 640, 3), np.uint8), 1, 'camera').size == (640, 480)


def test_newest_item_replaces_one_that_nobody_took(slot):
    for item in range(5):
        slot.put(item)
    assert slot.take() == 4
    assert (slot.received, slot.replaced) == (5, 4)


def test_item_is_taken_once(slot):
    slot.put('item')
    assert slot.take() == 'item'
    assert slot.take(timeout=0.0) is None


def test_taken_items_do_not_count_as_replaced(slot):
    for item in range(3):
        slot.put(item)
        assert slot.take() == item
    assert (slot.received, slot.replaced) == (3, 0)


def test_items_that_are_false_are_items(slot):
    slot.put(0)
    slot.put('')
    assert slot.replaced == 1
    assert slot.take(timeout=0.0) == ''


def test_waiting_taker_gets_the_item_put_later(slot):
    taken = []
    taker = threading.Thread(target=lambda: taken.append(slot.take(DEADLINE)))
    taker.start()
    slot.put('item')
    taker.join(DEADLINE)
    assert taken == ['item']


def test_closing_wakes_the_taker_for_good(slot):
    taken = []
    taker = threading.Thread(target=lambda: taken.append(slot.take()))
    taker.start()
    slot.close()
    taker.join(DEADLINE)
    slot.put('too late')
    assert taken == [None]
    assert slot.closed
    assert slot.take() is None


def test_every_item_of_many_producers_is_taken_or_counted_as_replaced(slot):
    taken = []

    def take_all():
        while (item := slot.take()) is not None:
            taken.append(item)

    taker = threading.Thread(target=take_all)
    taker.start()
    producers = [
        threading.Thread(target=lambda start=start: [slot.put(start + i) for i in range(200)])
        for start in (1000, 2000, 3000)
    ]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join(DEADLINE)
    while slot.received != len(taken) + slot.replaced:
        taker.join(0.01)
    slot.close()
    taker.join(DEADLINE)
    assert slot.received == 600
    for start in (1000, 2000, 3000):
        of_one = [item for item in taken if start <= item < start + 1000]
        assert of_one == sorted(of_one)
