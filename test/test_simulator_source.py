"""The conveyor as a camera: its pace, its stamps and its life."""

import itertools
import json
import threading
import time

import numpy as np
import pytest

from edge_vision.errors import ConfigurationError, SourceError
from edge_vision.simulator.source import LEAD_S, OPTIONS, ConveyorSource
from edge_vision.simulator.world import BRAKING_M_S2, DRIVE_DELAY_S

DEADLINE_S = 20.0
STOPPING_M = 0.4 * DRIVE_DELAY_S + 0.4**2 / (2 * BRAKING_M_S2)


@pytest.fixture
def source():
    source = ConveyorSource(seed=3, framerate=50.0, image_width=320, image_height=240, defect_rate=1.0)
    source.open()
    yield source
    source.close()


def read_until(source, condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition(source.truth()):
        assert time.monotonic() < deadline
        source.read()


def test_pictures_come_on_the_grid_of_the_framerate(source):
    stamps = [source.read()[1] for _ in range(10)]
    started_ns, skipped = source.truth()['started_ns'], source.skipped
    late_s = [(stamp - started_ns) / 1e9 % 0.02 for stamp in stamps]
    assert all(later > earlier for earlier, later in itertools.pairwise(stamps))
    assert min(min(late, 0.02 - late) for late in late_s) < 0.002
    assert (stamps[-1] - started_ns) / 1e9 >= (10 + skipped) * 0.02 - 0.001


def test_a_late_caller_gets_a_new_picture_and_the_ticks_between_are_left_out(source):
    source.read()
    before = source.skipped
    time.sleep(0.1)
    asked_ns = time.time_ns()
    _, stamp_ns = source.read()
    assert source.skipped - before >= 4
    assert stamp_ns >= asked_ns


def test_a_picture_is_stamped_when_it_is_handed_over(source):
    _, stamp_ns = source.read()
    assert 0 <= time.time_ns() - stamp_ns < 1e9


def test_a_picture_is_not_drawn_earlier_than_the_drive_can_react():
    assert LEAD_S < DRIVE_DELAY_S


def test_pictures_have_the_asked_size_and_are_not_shared(source):
    (first, _), (second, _) = source.read(), source.read()
    assert first.shape == (240, 320, 3)
    assert first.dtype == np.uint8
    assert not np.shares_memory(first, second)


def test_the_belt_moves_only_with_permission(source):
    source.read()
    assert source.truth()['parts_total'] == 0
    source.set_run(True, time.time_ns())
    read_until(source, lambda truth: truth['parts_total'] > 0)
    source.set_run(False, stamp := time.time_ns())
    read_until(source, lambda truth: truth['stops'][0]['standstill_s'] is not None)
    assert source.truth()['stops'][0]['stamp_ns'] == stamp
    assert source.truth()['stops'][0]['distance_m'] == pytest.approx(STOPPING_M, abs=0.004)


def test_a_permission_given_before_opening_counts():
    source = ConveyorSource(image_width=320, image_height=240)
    source.set_run(True, time.time_ns())
    source.open()
    read_until(source, lambda truth: truth['parts_total'] > 0)
    source.close()


def test_truth_is_json_while_another_thread_reads(source):
    reader = threading.Thread(target=lambda: [source.read() for _ in range(10)])
    reader.start()
    while reader.is_alive():
        json.dumps(source.truth())
    reader.join()


def test_closing_wakes_a_waiting_reader():
    source = ConveyorSource(framerate=0.1, image_width=320, image_height=240)
    source.open()
    failures = []

    def read():
        try:
            source.read()
        except SourceError as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    source.close()
    source.close()
    reader.join(DEADLINE_S)
    assert len(failures) == 1


def test_a_closed_source_can_be_opened_again(source):
    source.read()
    source.close()
    with pytest.raises(SourceError, match='closed'):
        source.read()
    source.open()
    assert source.read()[0].shape == (240, 320, 3)


def test_reading_before_opening_says_so():
    with pytest.raises(SourceError, match=r'call open\(\)'):
        ConveyorSource().read()


@pytest.mark.parametrize(
    ('name', 'value'),
    [('framerate', 0.0), ('image_width', 10), ('speed', 0.0), ('speed', 5.0), ('defect_rate', 1.5), ('seed', -1)],
)
def test_a_value_out_of_bounds_is_refused(name, value):
    with pytest.raises(ConfigurationError, match=f'{name} of sim://conveyor is {value}'):
        ConveyorSource(**{name: value})


def test_the_options_of_the_address_are_arguments():
    ConveyorSource(**{name: kind(1) for name, kind in OPTIONS.items()})
