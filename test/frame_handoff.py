"""What every way of handing frames from a camera to a detector must keep; imported by one test file per way.

Each such file has a fixture ``handoff`` with ``put(frame)`` on the camera's side and the `Slot` ``taker`` on the
detector's.
"""

import threading
import time

import numpy as np

from edge_vision.frames import Frame

DEADLINE = 30.0
STAMP_NS = 1_795_620_896_123_456_789


def frame(number, size=(48, 64)):
    """Make a frame whose stamp and pixels tell its number."""
    return Frame(np.full((*size, 3), number % 256, np.uint8), STAMP_NS + number, f'camera_{number}')


def number_of(taken):
    """Tell the number of a frame, and make sure that all of it is of that frame."""
    number = taken.stamp_ns - STAMP_NS
    assert taken.frame_id == f'camera_{number}'
    assert (taken.image == number % 256).all()
    return number


def take_until(handoff, number):
    """Take frames until that of a number comes, and return the numbers of all."""
    numbers = []
    deadline = time.monotonic() + DEADLINE
    while number not in numbers:
        assert time.monotonic() < deadline, f'{number} never came, but {numbers[-5:]}'
        taken = handoff.taker.take(0.05)
        if taken is not None:
            numbers.append(number_of(taken))
    return numbers


def test_stamp_frame_id_and_pixels_are_carried_through_unchanged(handoff):
    given = Frame(
        np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8), STAMP_NS, 'line_1/camera_optical_frame'
    )
    handoff.put(given)
    taken = handoff.taker.take(DEADLINE)
    assert (taken.stamp_ns, taken.frame_id) == (given.stamp_ns, given.frame_id)
    assert taken.image.dtype == np.uint8
    assert np.array_equal(taken.image, given.image)


def test_frames_taken_one_by_one_are_all_there(handoff):
    for number in range(20):
        handoff.put(frame(number))
        assert take_until(handoff, number) == [number]
    assert (handoff.taker.received, handoff.taker.replaced) == (20, 0)


def test_newest_frame_wins(handoff):
    for number in range(50):
        handoff.put(frame(number))
    numbers = take_until(handoff, 49)
    assert numbers == sorted(numbers)
    assert handoff.taker.take(0.0) is None


def test_nothing_older_comes_after_something_newer_and_every_frame_received_is_counted(handoff):
    producer = threading.Thread(target=lambda: [handoff.put(frame(number)) for number in range(300)])
    producer.start()
    numbers = take_until(handoff, 299)
    producer.join(DEADLINE)
    assert numbers == sorted(set(numbers))
    assert handoff.taker.received == len(numbers) + handoff.taker.replaced
    assert handoff.taker.received <= 300


def test_consumer_that_takes_nothing_never_delays_the_producer(handoff):
    producer = threading.Thread(target=lambda: [handoff.put(frame(number)) for number in range(300)])
    producer.start()
    producer.join(DEADLINE)
    assert not producer.is_alive()
    assert take_until(handoff, 299)[-1] == 299


def test_frame_taken_is_not_changed_by_those_that_follow(handoff):
    handoff.put(frame(1))
    taken = handoff.taker.take(DEADLINE)
    for number in range(2, 50):
        handoff.put(frame(number))
    take_until(handoff, 49)
    assert number_of(taken) == 1
