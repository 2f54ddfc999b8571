import threading
import time

from edge_vision.nodes.steady import every

DEADLINE = 30.0


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
