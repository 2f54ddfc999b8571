"""Turns detections into commands, at once, and stops when nothing fresh is seen."""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray

from ..account import Look, begin_event, end_event, facts_of, summary
from ..decision import STARTING, Cause, Command, Decision, Outcome
from ..detections import Detections, InferenceTimes
from ..events import Event, default_device_id
from ..frames import Frame
from ..metrics import Window
from ..params import DecisionParams, from_values
from ..rules import Rule, RuleParams, check_names, rules_from_values
from . import diagnostics, qos
from .convert import detections_from_msg, detections_to_msg, ns_from_stamp
from .detector_node import latency_from_msg
from .parameters import declare, follow, given_names
from .spin import Worker
from .steady import SteadyClock, every

OnEvent = Callable[[Event, 'Frame | None', Callable[[], None]], None]
TICK_PERIOD = 0.02  # s between looks at the clock for images that have become too old
OWN_TOPIC = 'detections'
LATENCY_WAIT = 0.1  # s an event waits for the detector's figures from another process
LATENCIES_KEPT = 256


class DecisionNode(Node):
    """Applies the rules to every frame's detections and commands the machine.

    Args:
        composed: Whether a detector in this process calls `decide_own`; the topic ``detections`` is then not
            subscribed.
        on_event: Called with every event, the frame that caused it and what announces it once it is safe, off the
            thread that decides; None announces at once.
        kwargs: Passed to `rclpy.node.Node`.

    """

    def __init__(self, *, composed: bool = False, on_event: OnEvent | None = None, **kwargs: Any) -> None:
        self._cleanup = ExitStack()
        super().__init__('decision', allow_undeclared_parameters=True, **kwargs)
        self._params, self._rules = self._declare_parameters()
        self._on_event = on_event
        self._device_id = default_device_id()
        self._clock_now = SteadyClock(self.get_clock(), sim_time=self.get_parameter('use_sim_time').value)
        self._lock = threading.Lock()
        self._decision = Decision(self._params, self._rules, self._clock_now.now_ns())
        self._commanded = self._decision.command
        self._ending = False
        self._sizes: dict[str, tuple[int, int]] = {}
        self._latencies: OrderedDict[int, InferenceTimes] = OrderedDict()
        self._latency_known = threading.Condition()
        self._decided = self._malformed = self._stale = 0
        self._reaction_ms, self._decide_ms = Window(), Window()
        self._looks: dict[tuple[object, int], Look] = {}
        self._create_outputs()
        self._create_inputs(composed=composed)
        self._aftermath: queue.SimpleQueue[tuple[Outcome, Look | None] | None] = queue.SimpleQueue()
        self._cleanup.callback(Worker('decision-aftermath', self._follow_up).join)
        self._cleanup.callback(self._aftermath.put, None)
        self._cleanup.callback(self.say_stop)
        self._heartbeat()
        self._publish_state()
        every(self, 1.0 / self._params.heartbeat_rate, self._heartbeat)
        every(self, TICK_PERIOD, self._tick)
        every(self, 1.0, self._publish_state)
        self._cleanup.callback(diagnostics.publish_health(self, self._health))
        follow(self, self._apply)

    def destroy_node(self) -> None:
        """Say stop for the last time, end the thread and destroy the node."""
        self._cleanup.close()
        super().destroy_node()

    def say_stop(self) -> None:
        """Stop for good: from now on this node says nothing else."""
        with self._lock:
            self._ending = True
            self._publish_stop(stop=True)

    def _declare_parameters(self) -> tuple[DecisionParams, tuple[Rule, ...]]:
        params = declare(self, DecisionParams)
        names = given_names(self, DecisionParams)
        described = {name.partition('.')[0] for name in names if '.' in name}
        for rule in sorted(set(params.rules) | {name for name in described if name.isidentifier()}):
            declare(self, RuleParams, f'{rule}.')
        unused = check_names(names, params.rules)
        rules = rules_from_values({name: p.value for name, p in self.get_parameters_by_prefix('').items()})
        if unused:
            self.get_logger().warning(f'described but not in force: {unused}; add them to the parameter rules')
        if not rules:
            self.get_logger().warning('no rules: nothing that is seen will stop anything')
        return params, rules

    def _create_outputs(self) -> None:
        self._twist = TwistStamped if self._params.stamped_cmd_vel else Twist
        self._stop_pub = self.create_publisher(Bool, 'stop', qos.LATCHED)
        self._run_pub = self.create_publisher(Bool, 'conveyor/run', qos.LATCHED)
        self._cmd_vel_pub = self.create_publisher(self._twist, 'cmd_vel_out', 1)
        self._alarm_pub = self.create_publisher(Bool, 'alarm', qos.LATCHED)
        self._flagged_pub = self.create_publisher(Detection2DArray, 'flagged', qos.EACH)
        self._state_pub = self.create_publisher(DiagnosticStatus, 'state', qos.LATCHED)
        self._events_pub = self.create_publisher(String, 'events', qos.EVENTS)

    def _create_inputs(self, *, composed: bool) -> None:
        self.create_subscription(self._twist, 'cmd_vel_in', self._on_cmd_vel, 1)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(SetBool, '~/stop', self._on_stop)
        for topic in self._params.detections_topics:
            if composed and self.takes_own:
                continue
            beside = topic[: topic.rfind('/') + 1]
            self.create_subscription(
                Detection2DArray, topic, lambda msg, topic=topic: self._on_detections(topic, msg), 10
            )
            self.create_subscription(
                CameraInfo, f'{beside}camera_info', lambda msg, topic=topic: self._on_info(topic, msg), qos.EACH
            )
            self.create_subscription(DiagnosticArray, f'{beside}latency', self._on_latency, qos.EACH)

    @property
    def takes_own(self) -> bool:
        """Whether ``detections`` of this pipeline is what is decided on, and nothing else."""
        return self._params.detections_topics == (OWN_TOPIC,)

    def decide_own(self, detections: Detections, frame: Frame, times: InferenceTimes) -> None:
        """Decide on what the detector of this process found."""
        self.decide(OWN_TOPIC, detections, frame, times)

    def decide(self, source: str, detections: Detections, frame: Frame | None, times: InferenceTimes | None) -> None:
        """Decide on one frame and command the machine before anything else happens."""
        with self._lock:
            now_ns, age_ns = self._clock_now.age_ns(detections.stamp_ns)
            trusted = self._clock_now.trusted(now_ns, self._params.source_timeout)
            captured_ns = now_ns - age_ns if trusted else -1
            outcome = self._decision.observe(source, detections, captured_ns, now_ns)
            self._command(outcome.command)
            decide_ns = self._clock_now.now_ns() - now_ns
            self._flagged_pub.publish(detections_to_msg(detections, outcome.flagged))
        self._decided += 1
        self._stale += not outcome.fresh
        self._reaction_ms.add((age_ns + decide_ns) / 1e6)
        self._decide_ms.add(decide_ns / 1e6)
        self._carry_out(outcome, Look(source, detections, frame, times, age_ns, decide_ns))

    def _command(self, command: Command) -> None:
        """Publish what changed, most urgent first; the caller holds the lock, so that commands keep their order."""
        before, self._commanded = self._commanded, command
        if command.stop != before.stop:
            self._publish_stop(stop=command.stop)
        if command.alarm != before.alarm:
            self._alarm_pub.publish(Bool(data=command.alarm))

    def _publish_stop(self, *, stop: bool) -> None:
        stop = stop or self._ending
        self._stop_pub.publish(Bool(data=stop))
        self._run_pub.publish(Bool(data=not stop))
        if stop:
            self._cmd_vel_pub.publish(self._zero())

    def _zero(self) -> Twist | TwistStamped:
        msg = self._twist()
        if self._params.stamped_cmd_vel:
            msg.header.stamp = self.get_clock().now().to_msg()
        return msg

    def _heartbeat(self) -> None:
        with self._lock:
            self._publish_stop(stop=self._commanded.stop)
            self._alarm_pub.publish(Bool(data=self._commanded.alarm))

    def _tick(self) -> None:
        with self._lock:
            outcome = self._decision.tick(self._clock_now.now_ns())
            self._command(outcome.command)
        self._carry_out(outcome)

    def reject_own(self, reason: str) -> None:
        """Note that the detector of this process could not use a frame."""
        self._reject(OWN_TOPIC, reason)

    def _on_detections(self, topic: str, msg: Detection2DArray) -> None:
        size = (self._params.image_width, self._params.image_height)
        try:
            detections = detections_from_msg(msg, size if all(size) else self._sizes.get(topic))
        except ValueError as error:
            self._reject(topic, str(error))
            return
        self.decide(topic, detections, None, None)

    def _reject(self, topic: str, reason: str) -> None:
        self._malformed += 1
        with self._lock:
            outcome = self._decision.reject(topic, self._clock_now.now_ns())
            self._command(outcome.command)
        self._carry_out(outcome)
        self.get_logger().error(f'dropped a message of {topic}: {reason}', throttle_duration_sec=5.0)

    def _on_info(self, topic: str, msg: CameraInfo) -> None:
        if msg.width and msg.height:
            self._sizes[topic] = (msg.width, msg.height)

    def _on_latency(self, msg: DiagnosticArray) -> None:
        try:
            times = latency_from_msg(msg)
        except ValueError as error:
            self._malformed += 1
            self.get_logger().error(f'dropped a message of latency: {error}', throttle_duration_sec=5.0)
            return
        with self._latency_known:
            self._latencies[ns_from_stamp(msg.header.stamp)] = times
            if len(self._latencies) > LATENCIES_KEPT:
                self._latencies.popitem(last=False)
            self._latency_known.notify_all()

    def _on_cmd_vel(self, msg: Twist | TwistStamped) -> None:
        with self._lock:
            command = self._commanded
            if command.stop:
                self._cmd_vel_pub.publish(self._zero())
                return
            if command.speed_ratio != 1.0:
                _scale(msg.twist if self._params.stamped_cmd_vel else msg, command.speed_ratio)
            self._cmd_vel_pub.publish(msg)

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            outcome = self._decision.reset()
            self._command(outcome.command)
            held = self._decision.causes
        self._carry_out(outcome)
        response.success = not any(cause.action == 'stop' for cause in held)
        reasons = '; '.join(f'{cause.name}: {cause.reason}' for cause in held)
        response.message = f'still held by {reasons}' if held else 'nothing holds a stop'
        return response

    def _on_stop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            outcome = self._decision.operator_stop(request.data, self._clock_now.now_ns())
            self._command(outcome.command)
        self._carry_out(outcome)
        response.success, response.message = True, 'stopped' if request.data else 'operator stop released'
        return response

    def _apply(self, values: Mapping[str, Any]) -> None:
        params = from_values(DecisionParams, values)
        rules = rules_from_values(values)
        check_names(values, params.rules)
        with self._lock:
            self._params, self._rules = params, rules
            outcome = self._decision.configure(params, rules)
            self._command(outcome.command)
        self._carry_out(outcome)

    def _carry_out(self, outcome: Outcome, look: Look | None = None) -> None:
        """Leave what need not happen now to another thread."""
        if outcome.changed:
            self._aftermath.put((outcome, look))

    def _follow_up(self) -> None:
        while (item := self._aftermath.get()) is not None:
            outcome, look = item
            if look is not None:
                look = self._with_times(look)
            for cause in outcome.started:
                self._tell_begin(cause, look)
            for cause in outcome.ended:
                self._tell_end(cause, look)
            self._publish_state()

    def _tell_begin(self, cause: Cause, look: Look | None) -> None:
        self.get_logger().warning(f'{cause.action}: {cause.name}: {cause.reason}')
        if look is not None and cause.box >= 0:
            self._looks[cause.key, cause.since_ns] = look
        self._emit(begin_event(cause, look, evidence=self._evidence_of(cause.name), **self._origin(cause)), look)

    def _tell_end(self, cause: Cause, look: Look | None) -> None:
        self.get_logger().info(f'clear: {cause.name}')
        self._looks.pop((cause.key, cause.since_ns), None)
        if cause.name != STARTING:
            self._emit(end_event(cause, look, **self._origin(cause)), None)

    def _origin(self, cause: Cause) -> dict[str, Any]:
        now_ns = self.get_clock().now().nanoseconds
        return {'camera': self._camera_name(cause.source), 'device_id': self._device_id, 'now_ns': now_ns}

    def _emit(self, event: Event, look: Look | None) -> None:
        if self._on_event is None:
            self._announce(event)
        else:
            self._on_event(event, look.frame if look is not None else None, partial(self._announce, event))

    def _announce(self, event: Event) -> None:
        with suppress(InvalidHandle):  # this node may be gone by the time the event is safe
            self._events_pub.publish(String(data=event.to_json()))

    def _evidence_of(self, rule: str) -> str:
        return next((r.params.evidence for r in self._rules if r.name == rule), 'none')

    def _camera_name(self, source: str) -> str:
        if not source:
            return 'operator'
        return self.resolve_topic_name(source).rpartition('/')[0].strip('/') or 'camera'

    def _with_times(self, look: Look) -> Look:
        """Complete a look by the detector's figures, which come from another process a little later."""
        if look.times is not None:
            return look
        stamp_ns = look.detections.stamp_ns
        with self._latency_known:
            self._latency_known.wait_for(lambda: stamp_ns in self._latencies, LATENCY_WAIT)
            return look._replace(times=self._latencies.get(stamp_ns))

    def _publish_state(self) -> None:
        with self._lock:
            command, causes = self._decision.command, self._decision.causes
        level = diagnostics.ERROR if command.stop else diagnostics.WARN if causes else diagnostics.OK
        values: dict[str, object] = {'stop': command.stop, 'alarm': command.alarm, 'speed_ratio': command.speed_ratio}
        now_ns = self._clock_now.now_ns()
        for cause in causes:
            values.update(facts_of(cause, self._looks.get((cause.key, cause.since_ns)), now_ns))
        self._state_pub.publish(
            DiagnosticStatus(
                level=level,
                name=self.get_fully_qualified_name().lstrip('/'),
                message=summary(causes),
                values=diagnostics.key_values(values),
            )
        )

    def _health(self) -> diagnostics.Health:
        reaction_p50, reaction_p99 = self._reaction_ms.percentiles(50, 99)
        decide_p50, decide_p99 = self._decide_ms.percentiles(50, 99)
        figures = {
            'decided': self._decided,
            'not_fresh': self._stale,
            'malformed': self._malformed,
            'clock_jumps': self._clock_now.jumps,
            'capture_to_command_p50_ms': reaction_p50,
            'capture_to_command_p99_ms': reaction_p99,
            'decide_p50_ms': decide_p50,
            'decide_p99_ms': decide_p99,
        }
        causes = self._decision.causes
        return diagnostics.Health(diagnostics.WARN if causes else diagnostics.OK, summary(causes), figures)


def _scale(twist: Twist, ratio: float) -> None:
    for vector in (twist.linear, twist.angular):
        vector.x, vector.y, vector.z = vector.x * ratio, vector.y * ratio, vector.z * ratio


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [DecisionNode()]
