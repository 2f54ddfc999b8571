import threading
import time

import pytest
from rclpy.clock import Clock, ClockType
from rclpy.time import Time

from edge_vision.nodes.steady import JUMP_NS, SteadyClock, every

DEADLINE = 30.0
MS, SECOND = 1_000_000, 1_000_000_000
EPOCH_NS = 1_795_620_896 * SECOND


def test_callback_comes_again_and_again_until_it_is_ended():
    came = threading.Semaphore(0)
    end = every(0.001, came.release)
    for _ in range(20):
        assert came.acquire(timeout=DEADLINE)
    end()
    while came.acquire(blocking=False):
        pass
    assert not came.acquire(timeout=0.02)


def test_what_was_missed_is_not_made_up_for():
    came = []
    go_on = threading.Event()

    def callback():
        came.append(time.monotonic())
        if len(came) == 1:
            go_on.wait(DEADLINE)

    end = every(0.05, callback)
    time.sleep(0.3)  # as long as the process could have been stopped
    go_on.set()
    resumed = time.monotonic()
    while len(came) < 4:
        assert time.monotonic() < resumed + DEADLINE
        time.sleep(0.001)
    end()
    assert came[3] - resumed > 0.09  # at once, and then after each period


class WallClock:
    """A wall clock that can be stepped, and whose reader is paused by the system right after it has read."""

    def __init__(self):
        self.offset_ns, self.pause = EPOCH_NS, 0.0

    def now(self):
        read = Time(nanoseconds=time.monotonic_ns() + self.offset_ns)
        time.sleep(self.pause)
        return read


@pytest.fixture
def wall():
    return WallClock()


@pytest.fixture
def simulated():
    """Give the clock of a node that uses simulated time."""
    clock = Clock(clock_type=ClockType.ROS_TIME)
    clock._set_ros_time_is_active(True)
    return clock


def show(clock, ns):
    clock.set_ros_time_override(Time(nanoseconds=ns, clock_type=ClockType.ROS_TIME))


def until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize('pause', [0.0, 0.05])
def test_image_is_never_younger_than_it_was_when_it_was_asked_for(wall, pause):
    clock = SteadyClock(wall, sim_time=False)
    captured_ns = time.monotonic_ns()
    wall.pause = pause
    asked_ns = time.monotonic_ns()
    now_ns, age_ns = clock.age_ns(EPOCH_NS + captured_ns)
    answered_ns = time.monotonic_ns()
    assert asked_ns <= now_ns <= answered_ns
    assert now_ns - captured_ns <= age_ns <= now_ns - captured_ns + answered_ns - asked_ns
    assert clock.jumps == 0


def test_image_from_the_future_has_a_negative_age(wall):
    assert SteadyClock(wall, sim_time=False).age_ns(EPOCH_NS + time.monotonic_ns() + 3600 * SECOND)[1] < 0


@pytest.mark.parametrize('step_ns', [3600 * SECOND, -3600 * SECOND, 2 * JUMP_NS, -2 * JUMP_NS])
def test_step_of_the_wall_clock_is_noticed_and_distrusted_for_the_horizon(wall, step_ns):
    clock = SteadyClock(wall, sim_time=False)
    until(lambda: clock.age_ns(EPOCH_NS) and clock._offset_ns)  # a reading that took too long says nothing
    assert clock.trusted(clock.now_ns(), 0.3)
    wall.offset_ns += step_ns
    before_ns = time.monotonic_ns()
    until(lambda: clock.age_ns(EPOCH_NS) and clock.jumps)
    after_ns = time.monotonic_ns()
    assert clock.jumps == 1
    assert not clock.trusted(before_ns + 300 * MS, 0.3)
    assert clock.trusted(after_ns + 300 * MS + 1, 0.3)


def test_wall_clock_that_is_slewed_is_trusted(wall):
    clock = SteadyClock(wall, sim_time=False)
    for _ in range(20):
        clock.age_ns(EPOCH_NS)
        wall.offset_ns += MS // 10
    assert clock.jumps == 0
    assert clock.trusted(clock.now_ns(), 0.3)


def test_wall_clock_is_never_said_to_stand(wall):
    assert SteadyClock(wall, sim_time=False).stood_ns() == 0


def test_simulated_time_is_the_time(simulated):
    clock = SteadyClock(simulated, sim_time=True)
    show(simulated, 5 * SECOND)
    assert clock.now_ns() == 5 * SECOND
    assert clock.age_ns(4 * SECOND) == (5 * SECOND, SECOND)
    show(simulated, 3600 * SECOND)
    assert clock.age_ns(3600 * SECOND + 1) == (3600 * SECOND, -1)
    assert clock.jumps == 0


@pytest.mark.parametrize('step_ns', [MS, -MS], ids=['forward', 'back'])
def test_simulated_clock_stands_until_it_moves(simulated, step_ns):
    show(simulated, 5 * SECOND)
    clock = SteadyClock(simulated, sim_time=True)
    begun_ns = time.monotonic_ns()
    assert clock.now_ns() == 5 * SECOND
    until(lambda: clock.stood_ns() > 30 * MS)
    assert clock.stood_ns() <= time.monotonic_ns() - begun_ns
    assert not clock.trusted(clock.now_ns(), 0.03)
    moved_ns = time.monotonic_ns()
    show(simulated, 5 * SECOND + step_ns)
    assert clock.stood_ns() <= time.monotonic_ns() - moved_ns
    assert clock.trusted(clock.now_ns(), DEADLINE)
