"""Turns detections into commands, at once, and stops when nothing fresh is seen."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.clock import Clock, ClockType  # Humble has both here
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo

from ..account import Look, Teller, facts_of, summary
from ..causes import BUILT_IN, OPERATOR_STOP, STARTING, UNREADABLE_LATCHES
from ..decision import Cause, Command, Decision, Outcome, Sighting
from ..detections import Detections, InferenceTimes
from ..events import Event, default_device_id
from ..frames import Frame
from ..metrics import Window
from ..params import DecisionParams, from_values
from ..picture import Picture
from ..rules import Rule, RuleParams, check_names, rules_from_values, unknown_classes
from . import diagnostics, qos
from .callers import callers
from .convert import detections_from_msg, detections_to_msg, ns_from_stamp
from .detector_node import facts_from_msg
from .latch_file import LatchFile
from .parameters import declare, follow, given_names
from .spin import Worker
from .steady import SteadyClock, every

OnEvent = Callable[[Event, 'Frame | None', Callable[[], None]], None]
TICK_PERIOD = 0.02  # s between looks at the clock for images that have become too old
DECLARE_PERIOD = 0.2  # s until the parameters of an added rule are declared
OWN_TOPIC = 'detections'
COMMANDS = ('stop', 'conveyor/run', 'cmd_vel_out', 'alarm')  # outputs that a second node would contradict
HEARD_ON = {
    'stop': ('stop', 'conveyor/run', 'cmd_vel_out'),
    'slowdown': ('cmd_vel_out',),
    'alarm': ('alarm',),
    'flag': ('flagged', 'events'),
}
FACTS_WAIT = 0.1  # s an event waits for the detector's figures from another process
FACTS_KEPT = 256
DEPTH = 10  # messages of detections, and of their facts, that may wait
BACKLOG = 8  # outcomes waiting to be told from which on none waits for its figures
NO_RULE = RuleParams(evidence='none')


class Aftermath(NamedTuple):
    """What is told of an outcome, off the thread that decided.

    Attributes:
        outcome: The outcome.
        look: The frame it is of, where it is of one.
        by: Who asked for it.
        answer: What was answered to a reset.

    """

    outcome: Outcome
    look: Look | None = None
    by: tuple[str, ...] = ()
    answer: str = ''


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
        self._lock = threading.Lock()  # of what is commanded; heartbeats and speeds wait for it
        self._telling = threading.Lock()  # of what is told besides; taken before the other one
        now_ns = self._clock_now.now_ns()
        self._latches = self._open_latch_file(now_ns)
        held = self._latches.held if self._latches else ()
        self._decision = Decision(self._params, self._rules, now_ns, held)
        self._commanded = self._decision.command
        self._ending = False
        self._sizes: dict[str, tuple[int, int]] = {}
        self._facts: OrderedDict[tuple[str, int], tuple[InferenceTimes, Picture | None]] = OrderedDict()
        self._facts_known = threading.Condition()
        self._with_facts: set[str] = set()
        self._labels: dict[str, tuple[str, ...]] = {}
        self._warned: set[str] = set()
        self._decided = self._malformed = self._stale = 0
        self._undeclared: set[str] = set()
        self._declaring = False
        self._shared_with_another = ''
        self._reaction_ms, self._decide_ms = Window(), Window()
        self._looks: dict[tuple[object, int], Look] = {}
        self._create_outputs()
        self._create_inputs(composed=composed)
        self._cameras = {topic: self._camera_name(topic) for topic in ('', *self._params.detections_topics)}
        self._aftermath: queue.SimpleQueue[Aftermath | None] = queue.SimpleQueue()
        self._cleanup.callback(Worker('decision-aftermath', self._follow_up).join)
        self._cleanup.callback(self._aftermath.put, None)
        self._cleanup.callback(self.say_stop)
        self._heartbeat()
        self._publish_state()
        self._cleanup.callback(every(1.0 / self._params.heartbeat_rate, self._heartbeat))
        self._cleanup.callback(every(TICK_PERIOD, self._tick))
        self._cleanup.callback(every(1.0, self._look_after))
        self.create_timer(DECLARE_PERIOD, self._declare_added, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._cleanup.callback(diagnostics.publish_health(self, self._health))
        self._warn_of_unheard_rules()
        follow(self, self._apply, declaring=lambda: self._declaring)

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

    def _warn_once(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.get_logger().warning(sentence)

    def _warn_of_unheard_rules(self) -> None:
        for name, rule in ((rule.name, rule.params) for rule in self._rules if rule.params.enabled):
            heard_on, outputs = HEARD_ON[rule.action_type], list(self._params.outputs)
            if not set(heard_on) & set(outputs):
                self._warn_once(
                    f'{name}.action_type is {rule.action_type!r}, which nobody will hear of: '
                    f'outputs is {outputs}, without {" or ".join(heard_on)}'
                )

    def _open_latch_file(self, now_ns: int) -> LatchFile | None:
        if not self._params.latch_file:
            return None
        opened = LatchFile(Path(self._params.latch_file).expanduser(), now_ns, self._kept, self.get_logger())
        self._cleanup.callback(opened.close)
        return opened

    def _kept(self) -> tuple[Cause, ...]:
        with self._lock:
            return self._decision.kept

    def _create_outputs(self) -> None:
        self._twist = TwistStamped if self._params.stamped_cmd_vel else Twist
        heartbeat = qos.heartbeat(self._params.heartbeat_rate)
        offered = {
            'stop': (Bool, heartbeat),
            'conveyor/run': (Bool, heartbeat),
            'cmd_vel_out': (self._twist, 1),
            'alarm': (Bool, heartbeat),
            'flagged': (Detection2DArray, qos.EACH),
            'state': (DiagnosticStatus, qos.LATCHED),
            'events': (String, qos.EVENTS),
        }
        outputs = self._params.outputs
        self._pubs = {t: self.create_publisher(kind, t, how) for t, (kind, how) in offered.items() if t in outputs}
        if not {'stop', 'conveyor/run', 'cmd_vel_out'} & set(outputs):
            self.get_logger().warning(f'outputs is {list(outputs)}: nothing that could stop a machine is published')

    def _create_inputs(self, *, composed: bool) -> None:
        if 'cmd_vel_out' in self._pubs:
            self.create_subscription(self._twist, 'cmd_vel_in', self._on_cmd_vel, 1)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(SetBool, '~/stop', self._on_stop)
        for topic in self._params.detections_topics:
            if composed and self.takes_own:
                continue
            beside = topic[: topic.rfind('/') + 1]
            # Where an executor takes what is ready in the order of creation, facts are there before their detections.
            self.create_subscription(
                DiagnosticArray, f'{topic}/facts', lambda msg, topic=topic: self._on_facts(topic, msg), DEPTH
            )
            self.create_subscription(
                LabelInfo, f'{beside}label_info', lambda msg, topic=topic: self._on_label_info(topic, msg), qos.LATCHED
            )
            self.create_subscription(
                CameraInfo, f'{beside}camera_info', lambda msg, topic=topic: self._on_info(topic, msg), qos.EACH
            )
            self.create_subscription(
                Detection2DArray, topic, lambda msg, topic=topic: self._on_detections(topic, msg), DEPTH
            )

    @property
    def takes_own(self) -> bool:
        """Whether ``detections`` of this pipeline is what is decided on, and nothing else."""
        return self._params.detections_topics == (OWN_TOPIC,)

    def decide_own(self, detections: Detections, frame: Frame, times: InferenceTimes) -> None:
        """Decide on what the detector of this process found."""
        self.decide(OWN_TOPIC, detections, frame, times)

    def decide(self, source: str, detections: Detections, frame: Frame | None, times: InferenceTimes | None) -> None:
        """Decide on one frame and command the machine before anything else happens."""
        with self._telling:
            with self._lock:
                now_ns, age_ns = self._clock_now.age_ns(detections.stamp_ns)
                trusted = self._clock_now.trusted(now_ns, self._params.source_timeout)
                captured_ns = now_ns - age_ns if trusted else None
                outcome = self._decision.observe(source, detections, captured_ns, now_ns)
                self._command(outcome.command)
                decide_ns = self._clock_now.now_ns() - now_ns
            look = Look(source, detections, frame, times, age_ns, decide_ns)
            self._carry_out(Aftermath(outcome, look))
            if 'flagged' in self._pubs:
                self._publish('flagged', detections_to_msg(detections, outcome.flagged))
            told = self._decision.complete(outcome)
            self._carry_out(Aftermath(Outcome(told.command, appeared=told.appeared, left=told.left), look))
        self._decided += 1
        self._stale += not outcome.fresh
        self._reaction_ms.add((age_ns + decide_ns) / 1e6)
        self._decide_ms.add(decide_ns / 1e6)

    def _command(self, command: Command) -> None:
        """Publish what changed, most urgent first; the caller holds the lock, so that commands keep their order."""
        before, self._commanded = self._commanded, command
        if command.stop != before.stop:
            self._publish_stop(stop=command.stop)
        if command.alarm != before.alarm:
            self._publish('alarm', Bool(data=command.alarm))

    def _publish_stop(self, *, stop: bool) -> None:
        stop = stop or self._ending
        self._publish('stop', Bool(data=stop))
        self._publish('conveyor/run', Bool(data=not stop))
        if stop:
            self._publish('cmd_vel_out', self._zero())

    def _publish(self, topic: str, msg: Any) -> None:
        """Publish on an output, unless it is switched off."""
        if topic in self._pubs:
            self._pubs[topic].publish(msg)

    def _zero(self) -> Twist | TwistStamped:
        msg = self._twist()
        if self._params.stamped_cmd_vel:
            msg.header.stamp = self.get_clock().now().to_msg()
        return msg

    def _heartbeat(self) -> None:
        with self._lock:
            outcome = self._look_at_the_time()
            self._publish_stop(stop=self._commanded.stop)
            self._publish('alarm', Bool(data=self._commanded.alarm))
        self._carry_out(Aftermath(outcome))

    def _tick(self) -> None:
        with self._lock:
            outcome = self._look_at_the_time()
        self._carry_out(Aftermath(outcome))

    def _look_at_the_time(self) -> Outcome:
        """Stop for what has become too old, before anything is repeated or let through; the caller holds the lock.

        Whoever is woken from a pause must not say first what was right before it.
        """
        outcome = self._decision.tick(self._clock_now.now_ns(), self._clock_now.stood_ns())
        self._command(outcome.command)
        return outcome

    def _declare_added(self) -> None:
        """Let tools describe the parameters of rules that were added."""
        self._declaring = True  # in the executor, as every set
        while self._undeclared:
            declare(self, RuleParams, f'{self._undeclared.pop()}.')
        self._declaring = False

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
        times, picture = self._facts.get((topic, detections.stamp_ns), (None, None))
        if topic not in self._with_facts and self._commanded.stop and self.count_publishers(f'{topic}/facts'):
            self._expect_facts(topic)
        self.decide(topic, dataclasses.replace(detections, picture=picture), None, times)

    def _reject(self, topic: str, reason: str) -> None:
        self._malformed += 1
        with self._lock:
            outcome = self._decision.reject(topic, self._clock_now.now_ns())
            self._command(outcome.command)
        self._carry_out(Aftermath(outcome))
        self.get_logger().error(f'dropped a message of {topic}: {reason}', throttle_duration_sec=5.0)

    def _on_label_info(self, topic: str, msg: LabelInfo) -> None:
        self.know_labels(topic, tuple(entry.class_name for entry in msg.class_map))

    def know_own_labels(self, labels: tuple[str, ...]) -> None:
        """Note what the detector of this process can find."""
        self.know_labels(OWN_TOPIC, labels)

    def know_labels(self, source: str, labels: tuple[str, ...]) -> None:
        """Note what a source can find, and warn of rules that are about something else: they would never act."""
        self._labels[source] = labels
        self._warn_of_unknown_classes()

    def _warn_of_unknown_classes(self) -> None:
        if self._labels.keys() < set(self._params.detections_topics):
            return
        labels = [label for known in self._labels.values() for label in known]
        for sentence in unknown_classes(self._rules, labels):
            self._warn_once(sentence)

    def _on_info(self, topic: str, msg: CameraInfo) -> None:
        if msg.width and msg.height:
            self._sizes[topic] = (msg.width, msg.height)

    def _on_facts(self, topic: str, msg: DiagnosticArray) -> None:
        try:
            facts = facts_from_msg(msg)
        except ValueError as error:
            self._malformed += 1
            self.get_logger().error(f'dropped a message of {topic}/facts: {error}', throttle_duration_sec=5.0)
            return
        if topic not in self._with_facts:
            self._expect_facts(topic)
        with self._facts_known:
            self._facts[topic, ns_from_stamp(msg.header.stamp)] = facts
            if len(self._facts) > FACTS_KEPT:
                self._facts.popitem(last=False)
            self._facts_known.notify_all()

    def _expect_facts(self, topic: str) -> None:
        """From now on no frame of a topic releases anything of whose picture nothing is known."""
        with self._lock:
            self._with_facts.add(topic)
            self._decision.expect_pictures(topic)

    def _on_cmd_vel(self, msg: Twist | TwistStamped) -> None:
        with self._lock:
            outcome = self._look_at_the_time()
            ratio = self._commanded.speed_ratio
            if self._commanded.stop or self._ending:
                msg = self._zero()
            elif ratio != 1.0:
                _scale(msg.twist if self._params.stamped_cmd_vel else msg, ratio)
            self._publish('cmd_vel_out', msg)
        self._carry_out(Aftermath(outcome))

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._telling, self._lock:
            outcome, refusal = self._decision.reset(self._clock_now.now_ns(), self._clock_now.stood_ns())
            self._command(outcome.command)
        let_go = ', '.join(cause.name for cause in outcome.ended) or 'nothing: there was no latch'
        response.success, response.message = not refusal, refusal or f'let go of {let_go}'
        self._carry_out(Aftermath(outcome, by=callers(self, '~/reset'), answer=response.message))
        return response

    def _on_stop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._lock:
            outcome = self._decision.operator_stop(request.data, self._clock_now.now_ns())
            self._command(outcome.command)
        self._carry_out(Aftermath(outcome, by=callers(self, '~/stop')))
        response.success, response.message = True, 'stopped' if request.data else 'operator stop released'
        return response

    def _apply(self, values: Mapping[str, Any]) -> None:
        params = from_values(DecisionParams, values)
        rules = rules_from_values(values)
        check_names(values, params.rules)
        self._undeclared |= {rule.name for rule in rules} - {rule.name for rule in self._rules}
        if self._rules and not rules:
            self.get_logger().warning('no rules any more: nothing that is seen will stop anything')
        with self._telling, self._lock:
            self._params, self._rules = params, rules
            outcome = self._decision.configure(params, rules)
            self._command(outcome.command)
        self._carry_out(Aftermath(outcome))
        self._warn_of_unknown_classes()
        self._warn_of_unheard_rules()

    def _carry_out(self, aftermath: Aftermath) -> None:
        """Leave what need not happen now to another thread."""
        if aftermath.outcome.changed or aftermath.answer:
            self._aftermath.put(aftermath)
            self._keep_latches()

    def _follow_up(self) -> None:
        while (item := self._aftermath.get()) is not None:
            outcome, look = item.outcome, item.look
            if look is not None:
                look = self._with_times(look)
            for cause in outcome.started:
                self._tell_begin(cause, _of(cause, look), item.by)
            for sighting in outcome.appeared:
                self._tell_appeared(sighting, look)
            for sighting in outcome.left:
                self._emit(self._teller(sighting.cause.source).leave(sighting, _of(sighting.cause, look)))
            if item.answer:
                self.get_logger().info(f'reset asked for by {list(item.by)}: {item.answer}')
                self._emit(self._teller('').reset(item.answer, item.by))
            for cause in outcome.ended:
                self._tell_end(cause, _of(cause, look), item.by)
            self._publish_state()

    def _keep_latches(self) -> None:
        if self._latches is not None:
            self._latches.update()

    def _tell_begin(self, cause: Cause, look: Look | None, by: tuple[str, ...]) -> None:
        self.get_logger().warning(f'{cause.action}: {cause.name}: {cause.reason}')
        if look is not None and cause.box >= 0:
            self._looks[cause.key, cause.since_ns] = look
        if cause.name in BUILT_IN:
            event = self._teller(cause.source).begin(cause, look)
            self._emit(dataclasses.replace(event, by=by if cause.name == OPERATOR_STOP else ()))

    def _tell_appeared(self, sighting: Sighting, look: Look | None) -> None:
        if look is not None:
            rule = self._rule(sighting.cause.name)
            self._emit(self._teller(sighting.cause.source).appear(sighting, look, rule), look.frame)

    def _tell_end(self, cause: Cause, look: Look | None, by: tuple[str, ...]) -> None:
        self.get_logger().info(f'clear: {cause.name}')
        self._looks.pop((cause.key, cause.since_ns), None)
        if cause.name in BUILT_IN and cause.name not in (STARTING, UNREADABLE_LATCHES):
            event = self._teller(cause.source).end(cause, look)
            self._emit(dataclasses.replace(event, by=by if cause.name == OPERATOR_STOP else ()))

    def _teller(self, source: str) -> Teller:
        return Teller(self._cameras.get(source, source), self._device_id, self.get_clock().now().nanoseconds)

    def _emit(self, event: Event, frame: Frame | None = None) -> None:
        if self._on_event is None:
            self._announce(event)
        else:
            self._on_event(event, frame, partial(self._announce, event))

    def _announce(self, event: Event) -> None:
        with suppress(InvalidHandle):  # this node may be gone by the time the event is safe
            self._publish('events', String(data=event.to_json()))

    def _rule(self, name: str) -> RuleParams:
        return next((rule.params for rule in self._rules if rule.name == name), NO_RULE)

    def _camera_name(self, source: str) -> str:
        if not source:
            return 'operator'
        return self.resolve_topic_name(source).rpartition('/')[0].strip('/') or 'camera'

    def _with_times(self, look: Look) -> Look:
        """Complete a look by the detector's figures, which may come from another process a little later."""
        if look.times is not None:
            return look
        key = look.source, look.detections.stamp_ns
        patience = FACTS_WAIT if look.source in self._with_facts and self._aftermath.qsize() < BACKLOG else 0.0
        with self._facts_known:
            self._facts_known.wait_for(lambda: key in self._facts, patience)
            return look._replace(times=self._facts.get(key, (None, None))[0])

    def _look_after(self) -> None:
        self._keep_latches()
        self._look_for_another()
        self._publish_state()

    def _look_for_another(self) -> None:
        """Notice whoever else publishes what commands the machine: of two that differ, it obeys now one, now the other.

        That is no reason to stop: who was killed is listed for some seconds more, and holds nothing.
        """
        topics = [self._pubs[name].topic_name for name in COMMANDS if name in self._pubs]
        shared = ', '.join(topic for topic in topics if self.count_publishers(topic) > 1)
        if shared == self._shared_with_another:
            return
        self._shared_with_another = shared
        if shared:
            self.get_logger().error(_another(shared))
        else:
            self.get_logger().info('no other node publishes what commands the machine any more')

    def _publish_state(self) -> None:
        with self._lock:
            command, causes = self._decision.command, self._decision.causes
        level = diagnostics.ERROR if command.stop else diagnostics.WARN if causes else diagnostics.OK
        values: dict[str, object] = {'stop': command.stop, 'alarm': command.alarm, 'speed_ratio': command.speed_ratio}
        now_ns = self._clock_now.now_ns()
        for cause in causes:
            look = self._looks.get((cause.key, cause.since_ns))
            values.update(facts_of(cause, look, self._rule(cause.name).points, now_ns))
        self._publish(
            'state',
            DiagnosticStatus(
                level=level,
                name=self.get_fully_qualified_name().lstrip('/'),
                message=summary(causes),
                values=diagnostics.key_values(values),
            ),
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
        another = _another(self._shared_with_another) if self._shared_with_another else ''
        latch_file = self._latches.trouble if self._latches else ''
        if wrong := '; '.join(filter(None, (another, latch_file))):
            return diagnostics.Health(diagnostics.ERROR, wrong, figures)
        return diagnostics.Health(diagnostics.WARN if causes else diagnostics.OK, summary(causes), figures)


def _another(shared: str) -> str:
    return (
        f'another node publishes {shared} too and may contradict this one; give each line a namespace or ROS_DOMAIN_ID '
        'of its own (one killed a moment ago may be listed for some seconds more)'
    )


def _of(cause: Cause, look: Look | None) -> Look | None:
    """Return the look if it is one of the cause's own camera."""
    return look if look is not None and look.source == cause.source else None


def _scale(twist: Twist, ratio: float) -> None:
    for vector in (twist.linear, twist.angular):
        vector.x, vector.y, vector.z = vector.x * ratio, vector.y * ratio, vector.z * ratio


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [DecisionNode()]
