"""A recorded run of the line, played to the decision and judged against what the line knew.

Once in real time to a decision node in a process of its own, whose commands are taken from DDS as a conveyor would;
and in virtual time to the decision alone, also with pictures lost, late and out of order. What is asserted is counted
in pictures, so no machine is too slow for it; the times are printed when the tests are over. `record_line.py` makes
the recording.

A flaw's box is not centred on the flaw to the pixel, so at the border of the zone the truth has a margin: a picture
counts for sure while a flaw is deeper in the zone than that, and cannot count while none is within that of it.
"""

import hashlib
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import dropwhile, pairwise
from statistics import median
from typing import NamedTuple

import pytest
import rclpy
from figures import Change, measure
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from recording import PATH, RULE, Recording, demo_parameters, spans
from std_msgs.msg import Bool, String
from vision_msgs.msg import Detection2DArray

from edge_vision.causes import NO_FRESH_IMAGE, STARTING
from edge_vision.decision import Decision
from edge_vision.nodes import qos
from edge_vision.nodes.convert import detections_to_msg, ns_from_stamp
from edge_vision.nodes.spin import make_executor
from edge_vision.params import DecisionParams, from_values, specs
from edge_vision.rules import rules_from_values
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.world import DEFECT_CLASSES, ZONE_MARGIN_M

DEADLINE = 60.0  # s, far more than anything takes
MOST_BEHIND = 3  # pictures; the player waits for a node that is further behind, so that none is lost
START_NS = 1_000_000_000
LATENCY_NS = 20_000_000
LATE_NS = 400_000_000  # more than source_timeout
TICK_NS = 20_000_000


@pytest.fixture(scope='module')
def recording():
    return Recording.read(PATH)


@pytest.fixture(scope='module')
def rule(recording):
    (rule,) = rules_from_values(recording.parameters)
    return rule.params


def test_recording_was_made_with_the_model_and_the_rule_that_are_shipped(recording):
    checksum = hashlib.sha256(share_file(CONVEYOR_MODEL).read_bytes()).hexdigest()
    assert recording.made['model_sha256'] == checksum, f'run {recording.made["by"]} again'
    assert recording.parameters == demo_parameters(), f'run {recording.made["by"]} again'


def test_recording_shows_what_it_is_for(recording, rule):
    pictures, stays = recording.pictures, spans(recording.flawed())
    near, deep = (spans(recording.flawed(margin)) for margin in (ZONE_MARGIN_M, -ZONE_MARGIN_M))
    assert len(near) == len(deep) == len(stays) >= 10
    for class_id in DEFECT_CLASSES:
        assert any({f.class_id for i in stay for f in pictures[i].flaws} == {class_id} for stay in stays), class_id
    standing = [i for stay in deep for i in stay if pictures[i].speed_m_s == 0]
    assert len(standing) >= 3 * recording.rate_hz
    pauses = [
        after.start - before.stop for before, after in pairwise([range(0), *near, range(len(pictures), len(pictures))])
    ]
    assert max(pauses) >= 3 * recording.rate_hz
    assert min(pauses) > rule.release_consecutive_frames, 'stops must be apart to be told apart'


class Decided(NamedTuple):
    """What came of one picture."""

    picture: int
    stop: bool
    fresh: bool


class Run(NamedTuple):
    """What came of a recording that was played to the decision alone; ``triggers`` are pictures."""

    changes: list[Change]
    decided: list[Decided]
    triggers: list[int]


def play(recording, arrivals):
    """Play pictures to the decision in virtual time.

    Args:
        recording: Where they come from.
        arrivals: Time in ns and picture, in any order.

    """
    values = recording.parameters
    known = {spec.name for spec in specs(DecisionParams)}
    params = from_values(DecisionParams, {name: value for name, value in values.items() if name in known})
    decision = Decision(params, rules_from_values(values), START_NS)
    (source,) = params.detections_topics
    run = Run([], [], [])
    ticks = [(at_ns, None) for at_ns in range(START_NS, max(arrivals)[0], TICK_NS)]
    captured_ns = capture_times(recording)
    stopped = True
    for at_ns, picture in sorted([*arrivals, *ticks], key=lambda arrival: arrival[0]):
        if picture is None:
            outcome = decision.tick(at_ns)
        else:
            stamp_ns = captured_ns[picture]
            outcome = decision.observe(source, recording.detections(picture, stamp_ns), stamp_ns, at_ns)
            run.decided.append(Decided(picture, outcome.command.stop, outcome.fresh))
            run.triggers.extend(picture for cause in outcome.started if cause.name == RULE)
        if outcome.command.stop != stopped:
            stopped = outcome.command.stop
            causes = tuple(cause.name for cause in (outcome.started if stopped else outcome.ended))
            newest = sum(captured <= at_ns for captured in captured_ns) - 1
            run.changes.append(Change(at_ns, stopped, newest if picture is None else picture, causes))
    return run


def capture_times(recording):
    return [START_NS + round(i * 1e9 / recording.rate_hz) for i in range(len(recording.pictures))]


def on_time(recording):
    return [(captured_ns + LATENCY_NS, i) for i, captured_ns in enumerate(capture_times(recording))]


def with_every_7th_lost(recording):
    return [arrival for arrival in on_time(recording) if arrival[1] % 7 != 6]


def with_half_a_second_late(recording):
    """Deliver 15 pictures in a row too late, every 50, when newer ones are there already."""
    return [(at_ns + LATE_NS * (i % 50 >= 35), i) for at_ns, i in on_time(recording)]


def with_neighbours_swapped(recording):
    """Deliver every 11th picture right after the one that follows it."""
    behind_ns = round(1e9 / recording.rate_hz) + 1_000_000
    return [(at_ns + behind_ns * (i % 11 == 5), i) for at_ns, i in on_time(recording)]


def with_everything(recording):
    lost = {i for _, i in on_time(recording)} - {i for _, i in with_every_7th_lost(recording)}
    late = dict(map(reversed, with_half_a_second_late(recording)))
    swapped = dict(map(reversed, with_neighbours_swapped(recording)))
    return [(max(late[i], swapped[i]), i) for i in late if i not in lost]


def freshness(recording, arrivals):
    """Tell of each picture, in the order of arrival, whether it is a newer one than before and not too old."""
    captured_ns, newest = capture_times(recording), -1
    for at_ns, picture in sorted(arrivals):
        fresh = picture > newest and at_ns - captured_ns[picture] <= recording.parameters['source_timeout'] * 1e9
        newest = picture if fresh else newest
        yield fresh


FAULTS = [with_every_7th_lost, with_half_a_second_late, with_neighbours_swapped, with_everything]


def assert_caused_by_the_right_pictures(recording, rule, changes):
    """Every stop comes with the last picture of the row that triggers, every release with the last that clears."""
    near, deep = (spans(recording.flawed(margin)) for margin in (ZONE_MARGIN_M, -ZONE_MARGIN_M))
    seen, trigger, release = recording.seen(), rule.trigger_consecutive_frames, rule.release_consecutive_frames
    first, *rest = changes
    assert not first.stop
    assert [change.stop for change in rest] == [True, False] * len(deep)
    for (_, _, picture, _), outer, inner in zip(rest[0::2], near, deep, strict=True):
        assert seen[picture - trigger : picture + 1] == [False] + [True] * trigger
        assert outer.start + trigger - 1 <= picture <= inner.start + trigger - 1
    for (_, _, picture, _), outer, inner in zip(rest[1::2], near, deep, strict=True):
        assert seen[picture - release : picture + 1] == [True] + [False] * release
        assert inner.stop + release - 1 <= picture <= outer.stop + release - 1


def assert_released_by_fresh_pictures_only(recording, rule, run):
    """Every release follows on as many fresh pictures in a row as it takes, clear ones if it is the rule's."""
    seen, order = recording.seen(), [decided.picture for decided in run.decided]
    for change in run.changes:
        if change.stop:
            continue
        at = order.index(change.picture)
        last = run.decided[at - rule.release_consecutive_frames + 1 : at + 1]
        assert len(last) == rule.release_consecutive_frames
        assert all(decided.fresh for decided in last)
        assert RULE not in change.causes or not any(seen[decided.picture] for decided in last)


def assert_answered(figures):
    assert (figures.missed, figures.false_stops) == (0, 0)
    assert min(figures.hold) >= 0.99


def test_decision_stops_holds_and_releases_by_the_right_pictures(recording, rule, show):
    run = play(recording, on_time(recording))
    figures = measure(recording, capture_times(recording), run.changes)
    show('decision, in virtual time', figures)
    assert all(decided.fresh for decided in run.decided)
    assert_caused_by_the_right_pictures(recording, rule, run.changes)
    assert_answered(figures)
    assert figures.blind_stops == 0
    assert len(figures.to_resume_ms) == figures.stays


@pytest.mark.parametrize('arrivals', FAULTS, ids=lambda f: f.__name__)
def test_faults_neither_release_nor_stop_what_they_should_not(recording, rule, show, arrivals):
    run = play(recording, arrivals(recording))
    figures = measure(recording, capture_times(recording), run.changes)
    show('decision, ' + arrivals.__name__.replace('_', ' '), figures)
    assert_answered(figures)
    assert [decided.fresh for decided in run.decided] == list(freshness(recording, arrivals(recording)))
    assert_released_by_fresh_pictures_only(recording, rule, run)
    near = recording.flawed(ZONE_MARGIN_M)
    assert [picture for picture in run.triggers if not near[picture]] == []
    for stay in spans(recording.flawed(-ZONE_MARGIN_M)):
        commands = [decided.stop for decided in run.decided if decided.picture in stay and decided.fresh]
        assert all(dropwhile(lambda stop: not stop, commands)), stay


@pytest.mark.parametrize('arrivals', [with_every_7th_lost, with_neighbours_swapped], ids=lambda f: f.__name__)
def test_single_pictures_lost_or_swapped_are_no_lack_of_vision(recording, arrivals):
    run = play(recording, arrivals(recording))
    assert [change.causes for change in run.changes if change.stop] == [(RULE,)] * len(spans(recording.flawed()))


def test_pictures_that_come_too_late_stop_and_release_nothing(recording):
    run = play(recording, with_half_a_second_late(recording))
    late = {decided.picture for decided in run.decided if not decided.fresh}
    assert late == {i for i in range(len(recording.pictures)) if i % 50 >= 35}
    assert any(NO_FRESH_IMAGE in change.causes for change in run.changes if change.stop)
    assert [change for change in run.changes if not change.stop and change.picture in late] == []


class Line(Node):
    """Stands for the detector and the conveyor: shows what was recorded, and notes what it is told and when."""

    def __init__(self):
        super().__init__('line')
        self.shown, self.answered = [], []
        self.edges, self.events = [], []
        self.create_subscription(Bool, 'stop', self._on_stop, qos.LATCHED)
        self.create_subscription(String, 'events', self._on_event, qos.EVENTS)
        self.create_subscription(Detection2DArray, 'flagged', self._on_flagged, qos.EACH)
        self._detections_pub = self.create_publisher(Detection2DArray, 'detections', 10)
        self._executor = make_executor()
        self._executor.add_node(self)

    def spin(self, until, *, until_ns=0):
        """Spin until a condition and an instant."""
        deadline = time.monotonic() + DEADLINE
        while (left_ns := until_ns - time.time_ns()) > 0 or not until():
            assert time.monotonic() < deadline, 'this never came true'
            self._executor.spin_once(timeout_sec=min(left_ns / 1e9, 0.02) if left_ns > 0 else 0.001)

    def show(self, recording, picture):
        self.shown.append(time.time_ns())
        self._detections_pub.publish(detections_to_msg(recording.detections(picture, self.shown[-1])))

    @property
    def behind(self):
        """How many of the newest pictures the node has not decided on yet."""
        decided_ns = self.answered[-1] if self.answered else 0
        return sum(stamp_ns > decided_ns for stamp_ns in self.shown)

    @property
    def stopped(self):
        return not self.edges or self.edges[-1][1]

    def _on_stop(self, msg):
        if msg.data != self.stopped:
            self.edges.append((time.time_ns(), msg.data))

    def _on_event(self, msg):
        data = json.loads(msg.data)['data']
        if data['rule'] == RULE:
            self.events.append((data['phase'], data['stamp_ns']))

    def _on_flagged(self, msg):
        self.answered.append(ns_from_stamp(msg.header.stamp))


@pytest.fixture
def line(ros_environment):  # noqa: ARG001  it is the environment that counts
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Line()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@contextmanager
def decision_node(recording):
    """Run the node with the demo's parameters.

    Only what it does about pictures that come late is switched off: that would be about this machine.
    """
    width, height = recording.image_size
    settings = {'source_timeout': 20.0, 'image_width': width, 'image_height': height}
    command = [sys.executable, '-m', 'edge_vision.nodes', 'decision_node', '--ros-args']
    command += ['--params-file', str(share_file('config/demo.yaml'))]
    for name, value in settings.items():
        command += ['-p', f'{name}:={value}']
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)


def release_start(line, recording):
    """Show what is clear until the node has let the line run."""
    showing = line.create_timer(0.05, lambda: line.show(recording, 0))
    line.spin(lambda: not line.stopped and line.answered)
    showing.cancel()
    line.spin(lambda: not line.behind)


def play_in_real_time(line, recording):
    """Play the recording at its rate, or at what the node can follow, and return the stamps."""
    line.shown.clear()
    line.answered.clear()
    period_ns = round(1e9 / recording.rate_hz)
    due_ns = time.time_ns()
    for i in range(len(recording.pictures)):
        line.spin(lambda: line.behind <= MOST_BEHIND, until_ns=due_ns)
        line.show(recording, i)
        due_ns = max(due_ns + period_ns, line.shown[-1])
    line.spin(lambda: not line.behind and not line.stopped and len(line.events) == len(line.edges) - 1)
    return line.shown


def test_node_stops_holds_and_releases_in_real_time(recording, rule, line, show):
    with decision_node(recording) as process:
        release_start(line, recording)
        stamps = play_in_real_time(line, recording)
        assert process.poll() is None
    assert line.answered == stamps
    (released_ns, _), *edges = line.edges
    assert [stop for _, stop in edges] == [phase == 'new' for phase, _ in line.events]
    causes = [stamps.index(stamp_ns) for _, stamp_ns in line.events]
    changes = [
        Change(released_ns, stop=False, picture=-1, causes=(STARTING,)),
        *(Change(at_ns, stop, picture, (RULE,)) for (at_ns, stop), picture in zip(edges, causes, strict=True)),
    ]
    figures = measure(recording, stamps, changes)
    show('node, over DDS in real time', figures)
    assert_caused_by_the_right_pictures(recording, rule, changes)
    assert causes == [change.picture for change in play(recording, on_time(recording)).changes[1:]]
    assert all(change.at_ns > stamps[change.picture] for change in changes[1:])
    assert_answered(figures)
    assert median(figures.to_stop_ms) < 1000
