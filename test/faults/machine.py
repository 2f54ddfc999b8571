"""A machine that obeys as a twist_mux lock and a conveyor drive do, and keeps what it was told."""

import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool
from vision_msgs.msg import Detection2DArray

from edge_vision.nodes import qos
from edge_vision.nodes.convert import ns_from_stamp

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # before Jazzy
    from rclpy.qos_event import SubscriptionEventCallbacks

LOCK_TIMEOUT = 0.2  # s after which a word that it may move is worth nothing
SPEED = 0.5  # m/s, asked for 50 times a second
KEPT = 2000  # messages of a topic that wait while this process does not get to run
DEADLINE = 60.0  # s, far more than anything takes; a busy machine must not fail a test


class Told(NamedTuple):
    """One message that arrived.

    Attributes:
        topic: Where.
        at: When, s of the steady clock here.
        sent: When it was sent, s since the epoch by the sender's clock; orders what one process sent.
        value: What it said.

    """

    topic: str
    at: float
    sent: float
    value: Any

    @property
    def moves(self):
        """Whether it lets something move."""
        return (self.topic, self.value) in {('stop', False), ('conveyor/run', True)} or (
            self.topic == 'cmd_vel_out' and self.value != 0.0
        )


class Machine(Node):
    """Asks for speed all the time, and moves only while it is told so, in time."""

    def __init__(self):
        super().__init__('machine')
        self.log = []
        self.health = {}
        self.hears_silence = True
        each = QoSProfile(depth=KEPT, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=KEPT, reliability=each.reliability, durability=qos.LATCHED.durability)
        self._listen(Bool, 'stop', lambda msg: msg.data, latched)
        self._listen(Bool, 'conveyor/run', lambda msg: msg.data, latched)
        self._listen(Bool, 'alarm', lambda msg: msg.data, latched)
        self._listen(DiagnosticStatus, 'state', lambda msg: msg.message, latched)
        self._listen(Twist, 'cmd_vel_out', lambda msg: msg.linear.x, each)
        self._listen(Detection2DArray, 'flagged', lambda msg: ns_from_stamp(msg.header.stamp) / 1e9, each)
        self._listen_for_silence()
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 100)
        self.cmd_vel_pub = self.create_publisher(Twist, 'cmd_vel_in', 1)

    def _listen(self, msg_type, topic, read, profile):
        def on_message(msg, info):
            self.log.append(Told(topic, time.monotonic(), info['source_timestamp'] / 1e9, read(msg)))

        self.create_subscription(msg_type, topic, on_message, profile)

    def _listen_for_silence(self):
        """Note when the middleware says that nobody says stop or go any more, if that is offered."""
        limit = Duration(seconds=LOCK_TIMEOUT)
        profile = QoSProfile(
            depth=1,
            reliability=qos.LATCHED.reliability,
            durability=qos.LATCHED.durability,
            deadline=limit,
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
            liveliness_lease_duration=limit,
        )
        events = SubscriptionEventCallbacks(
            deadline=lambda event: self._note('deadline missed', event.total_count),
            liveliness=lambda event: event.alive_count or self._note('liveliness lost', event.not_alive_count),
            incompatible_qos=self._on_incompatible,
            use_default_callbacks=False,
        )
        self.create_subscription(Bool, 'stop', lambda _: None, profile, event_callbacks=events)

    def _on_incompatible(self, _):
        self.hears_silence = False

    def _note(self, topic, value):
        self.log.append(Told(topic, time.monotonic(), time.time(), value))

    def _on_diagnostics(self, msg):
        for status in msg.status:
            self.health[status.name] = (time.monotonic(), status)

    def ask(self):
        """Ask for speed."""
        msg = Twist()
        msg.linear.x = SPEED
        self.cmd_vel_pub.publish(msg)

    def last(self, topic):
        """What was said last on a topic; None before anything was."""
        return next((told for told in reversed(self.log[:]) if told.topic == topic), None)

    def first(self, topic, since, value=True):
        """The first message on a topic that arrived at a time, s, or later and says so; None if there is none."""
        log = self.log[:]
        return next((t for t in log if t.topic == topic and t.at >= since and t.value == value), None)

    def after(self, topic, since):
        """The first message on a topic that arrived after a time, s; None if there is none."""
        return next((told for told in self.log[:] if told.topic == topic and told.at > since), None)

    def stops(self, after):
        """What was said on ``stop`` and sent after a time, s since the epoch."""
        return [told for told in self.log[:] if told.topic == 'stop' and told.sent > after]

    def times_stopped(self, since):
        """How often it was told to stop after a time, s, when it might have moved before."""
        stops = [told for told in self.log[:] if told.topic == 'stop']
        return sum(b.value and not a.value and b.at > since for a, b in zip(stops, stops[1:]))  # noqa: B905, RUF007

    @property
    def moving(self):
        """Whether it may move now, and is asked to."""
        stop, speed = self.last('stop'), self.last('cmd_vel_out')
        told = stop is not None and not stop.value and time.monotonic() - stop.at < LOCK_TIMEOUT
        return told and speed is not None and speed.value == SPEED

    def held_since(self, since):
        """The time from ``since`` on, s, at which it stopped being allowed to move; `None` while it is allowed."""
        stops = [told for told in self.log[:] if told.topic == 'stop']
        end = since
        for told, after in zip(stops, [*stops[1:], None]):  # noqa: B905  strict= is newer than Humble's Python
            lasts = told.at + LOCK_TIMEOUT if not told.value else told.at
            until = lasts if after is None else min(lasts, after.at)
            if told.at <= end < until:
                end = until
        return end if end <= time.monotonic() else None

    def moves(self, after, before):
        """Commands to move that were sent between two times, s since the epoch."""
        return [told for told in self.log[:] if told.moves and after < told.sent < before]

    def oldest_move(self, after, before):
        """How old the newest decided picture was, s, when a command to move was sent: the greatest such age."""
        newest = oldest = 0.0
        for told in sorted(self.log[:], key=lambda told: told.sent):
            if told.topic == 'flagged':
                newest = max(newest, told.value)
            elif told.moves and newest and after < told.sent < before:
                oldest = max(oldest, told.sent - newest)
        return oldest

    def forget(self):
        """Start a new log and wait until it says that the machine moves."""
        self.log.clear()
        self.wait(lambda: self.moving, 'the machine moves')

    def reported(self, node, since):
        """The latest diagnostics of a node, if they came after a time, s; None otherwise."""
        at, status = self.health.get(node, (0.0, None))
        return status if at > since else None

    def wait(self, condition, what):
        """Wait until a condition holds and return its value; ``what`` says what it is, or gives what says so."""
        deadline = time.monotonic() + DEADLINE
        while not (value := condition()):
            if time.monotonic() > deadline:
                said = what() if callable(what) else what
                pytest.fail(f'this never came true: {said}; told last: {self.log[-20:]}')
            time.sleep(0.005)
        return value


class Spinning:
    """Runs a node that asks 50 times a second, in threads of its own.

    Args:
        node_type: Called once rclpy is up.

    """

    def __init__(self, node_type):
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._executor = SingleThreadedExecutor()  # the events executor gives no message info
        self.node = node_type()
        self._executor.add_node(self.node)
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._spin, self._ask)]
        for thread in self._threads:
            thread.start()

    def _spin(self):
        with suppress(ExternalShutdownException):
            while not self._ending.is_set():
                self._executor.spin_once(timeout_sec=0.1)

    def _ask(self):
        while not self._ending.wait(0.02):
            self.node.ask()

    def close(self):
        """End the threads and the node."""
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()
