"""A conveyor's drive that obeys edge_vision, as an example to start from.

Single idea: moving needs permission that is fresh. What does not come any more is no permission.

Drive it::

    ros2 launch edge_vision demo.launch.py
    python3 examples/conveyor.py

Expected output: ``conveyor stands: nothing heard yet``, ``conveyor runs``, and ``conveyor stands: ...`` with the reason
whenever edge_vision says so or falls silent, as when its process is killed or frozen.
"""

from __future__ import annotations

import threading
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

TIMEOUT = 0.2  # s; edge_vision repeats itself 20 times a second
WATCH_PERIOD = 0.02  # s
# Not transient local: a permission from before this one listened is not fresh when it arrives.
PERMISSION = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)


class Conveyor(Node):
    """Runs the belt while ``conveyor/run`` says so, and stops it when that has not come for 0.2 s."""

    def __init__(self) -> None:
        super().__init__('conveyor')
        self._heard_at: float | None = None
        self._allowed = False
        self._running: bool | None = None
        self._lock = threading.Lock()
        self.create_subscription(Bool, 'conveyor/run', self._on_run, PERMISSION)
        # No timer of ROS: while the wall clock is set back, it may not come.
        threading.Thread(target=self._watch, daemon=True).start()

    def _on_run(self, msg: Bool) -> None:
        with self._lock:
            self._heard_at, self._allowed = time.monotonic(), msg.data
            self._drive()

    def _watch(self) -> None:
        while True:
            with self._lock:
                self._drive()
            time.sleep(WATCH_PERIOD)

    def _drive(self) -> None:
        if self._heard_at is None:
            self._set(False, 'nothing heard yet')
        elif time.monotonic() - self._heard_at > TIMEOUT:
            self._set(False, f'nothing heard for {TIMEOUT} s')
        else:
            self._set(self._allowed, 'told to')

    def _set(self, run: bool, reason: str) -> None:
        """Switch the drive; here is the place for the relay, the fieldbus or the PLC."""
        if run != self._running:
            self._running = run
            self.get_logger().info('conveyor runs' if run else f'conveyor stands: {reason}')


def main() -> None:
    """Run until Ctrl-C."""
    rclpy.init()
    try:
        rclpy.spin(Conveyor())
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
