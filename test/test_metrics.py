import pytest

from edge_vision.metrics import Rate, Window


def test_percentiles_of_nothing_are_zero():
    assert Window().percentiles(50, 99) == (0.0, 0.0)


def test_percentiles_are_those_of_the_newest_values():
    window = Window(size=4)
    for value in (1000.0, 1000.0, 1.0, 2.0, 3.0, 4.0):
        window.add(value)
    assert window.percentiles(0, 50, 100) == (1.0, 2.5, 4.0)


def test_window_that_is_not_full_counts_only_what_it_has():
    window = Window(size=100)
    window.add(7.0)
    assert window.percentiles(1, 99) == (7.0, 7.0)


def test_rate_is_counted_between_two_readings():
    rate = Rate()
    assert rate.per_second(100, now_ns=5_000_000_000) == 0.0
    assert rate.per_second(130, now_ns=5_500_000_000) == pytest.approx(60.0)
    assert rate.per_second(130, now_ns=6_500_000_000) == 0.0


def test_two_readings_at_once_are_no_division_by_zero():
    rate = Rate()
    rate.per_second(1, now_ns=5)
    assert rate.per_second(2, now_ns=5) == 0.0
