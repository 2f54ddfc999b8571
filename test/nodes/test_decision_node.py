import json
import os
import threading
import time
from functools import cached_property

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import LivelinessPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionClass

from edge_vision.detections import Detections, InferenceTimes
from edge_vision.errors import ConfigurationError
from edge_vision.frames import Frame
from edge_vision.nodes import qos
from edge_vision.nodes.convert import detections_to_msg, ns_from_stamp, stamp_from_ns
from edge_vision.nodes.decision_node import DecisionNode
from edge_vision.nodes.detector_node import facts_to_msg
from edge_vision.nodes.spin import make_executor
from edge_vision.picture import Picture

DEADLINE = 30.0  # s
PATIENT = {'source_timeout': 20.0, 'release_consecutive_frames': 2}  # no pause of a busy machine is silence
GATE = {**PATIENT, 'rules': ['gate'], 'gate.trigger_consecutive_frames': 2, 'gate.release_consecutive_frames': 2}


class Robot(Node):
    """Stands for the robot and the detector: shows what is in ``labels`` 50 times a second, and notes what comes."""

    def __init__(self, **kwargs):
        super().__init__('robot', **kwargs)
        self.stops, self.runs, self.cmd_vels, self.alarms = [], [], [], []
        self.states, self.flagged, self.events, self.reports = [], [], [], []
        self.labels, self.box, self.age = None, (10, 10, 30, 30), 0.0
        self.tracks, self.picture = (), None
        self._detections_pubs = {}
        self.info_pub = self.create_publisher(CameraInfo, 'camera_info', qos.EACH)
        self.cmd_vel_pub = self.create_publisher(Twist, 'cmd_vel_in', 1)
        self.create_subscription(Bool, 'stop', lambda msg: self.stops.append(msg.data), qos.LATCHED)
        self.create_subscription(Bool, 'conveyor/run', lambda msg: self.runs.append(msg.data), qos.LATCHED)
        self.create_subscription(Bool, 'alarm', lambda msg: self.alarms.append(msg.data), qos.LATCHED)
        self.create_subscription(Twist, 'cmd_vel_out', lambda msg: self.cmd_vels.append(msg.linear.x), 10)
        self.create_subscription(DiagnosticStatus, 'state', self.states.append, qos.LATCHED)
        self.create_subscription(Detection2DArray, 'flagged', self.flagged.append, qos.EACH)
        self.create_subscription(String, 'events', lambda msg: self.events.append(json.loads(msg.data)), qos.EVENTS)
        self.create_subscription(DiagnosticArray, '/diagnostics', self.reports.append, 10)
        self.create_timer(0.02, self._show)

    def see(self, *labels, stamp_ns=None, topic='detections'):
        """Publish one frame's detections and return their stamp."""
        n = len(labels)
        stamp_ns = time.time_ns() - round(self.age * 1e9) if stamp_ns is None else stamp_ns
        boxes, scores = np.tile(np.float32(self.box), (n, 1)), np.full(n, 0.9, np.float32)
        found = Detections(stamp_ns, 'camera', boxes, scores, labels, self.tracks[:n], picture=self.picture)
        if self.picture is not None:
            self.facts_pub.publish(facts_to_msg(found, InferenceTimes(0, 0)))
        self.publish(detections_to_msg(found), topic)
        return stamp_ns

    @cached_property
    def facts_pub(self):
        """Stand for a detector that tells of its pictures only where a test needs one."""
        return self.create_publisher(DiagnosticArray, 'detections/facts', 10)

    def publish(self, msg, topic='detections'):
        if topic not in self._detections_pubs:
            self._detections_pubs[topic] = self.create_publisher(Detection2DArray, topic, 10)
        self._detections_pubs[topic].publish(msg)

    def _show(self):
        if self.labels is not None:
            self.see(*self.labels)

    @property
    def stopped(self):
        return self.stops[-1:] == [True] and self.runs[-1:] == [False]

    @property
    def running(self):
        return self.stops[-1:] == [False] and self.runs[-1:] == [True]

    @property
    def message(self):
        return self.states[-1].message if self.states else ''

    @property
    def state(self):
        return {pair.key: pair.value for pair in self.states[-1].values}


@pytest.fixture
def robot(make_node):
    return make_node(Robot)


@pytest.fixture
def decide(make_node, robot, spin_until):
    """Make the node and wait until it hears the robot; with ``run`` also until it lets the robot run."""

    def make(parameters=PATIENT, *, run=True, **kwargs):
        node = make_node(DecisionNode, parameters=parameters, **kwargs)
        spin_until(lambda: robot.stopped and robot.count_subscribers('cmd_vel_in'))
        if run:
            robot.labels = ()
            spin_until(lambda: robot.running)
        return node

    return make


def test_it_says_stop_from_the_start_and_repeats_it(decide, robot, spin_until):
    decide(run=False)
    spin_until(lambda: len(robot.stops) >= 5)
    assert set(robot.stops) == {True}
    assert set(robot.runs) == {False}
    spin_until(lambda: robot.states and len(robot.cmd_vels) >= 3 and robot.alarms)
    assert set(robot.cmd_vels) == {0.0}
    assert set(robot.alarms) == {False}
    assert robot.message == 'stop: starting'
    assert robot.state['starting@detections.reason'] == 'no 2 fresh images in a row yet on detections'


def test_fresh_detections_release_the_start(decide, robot, spin_until):
    decide()
    assert robot.stops.index(False) > 0
    spin_until(lambda: robot.message == 'running')
    assert robot.states[-1].level == DiagnosticStatus.OK


def test_every_decided_frame_is_answered_by_its_stamp(decide, robot, spin_until):
    decide(GATE)
    robot.labels = None
    stamps = [robot.see(), robot.see('dent')]
    spin_until(lambda: len(robot.flagged) >= 2 and ns_from_stamp(robot.flagged[-1].header.stamp) == stamps[1])
    assert [ns_from_stamp(msg.header.stamp) for msg in robot.flagged[-2:]] == stamps
    assert [len(msg.detections) for msg in robot.flagged[-2:]] == [0, 1]
    assert robot.flagged[-1].header.frame_id == 'camera'


def test_rule_stops_and_says_why_and_releases(decide, robot, spin_until):
    decide({**GATE, 'gate.classes': ['dent']})
    robot.labels = ('cup', 'dent')
    spin_until(lambda: robot.stopped and 'gate@detections.class_id' in robot.state)
    assert robot.states[-1].level == DiagnosticStatus.ERROR
    state = robot.state
    assert (state['stop'], state['speed_ratio']) == ('True', '0.000')
    assert (state['gate@detections.class_id'], state['gate@detections.frames']) == ('dent', '2')
    assert state['gate@detections.reason'].startswith('dent 0.90 in gate, 2 frames in a row')
    assert float(state['gate@detections.capture_to_command_ms']) > 0
    robot.labels = ('cup',)
    spin_until(lambda: robot.running and robot.message == 'running')


def test_event_is_told_at_its_begin_and_end(decide, robot, spin_until):
    node = decide({**GATE, 'gate.evidence': 'frame'})
    robot.labels = ('dent',)
    spin_until(lambda: robot.stopped)
    robot.labels = ()
    spin_until(lambda: len(robot.events) >= 2)
    begin, end = (event['data'] for event in robot.events)
    assert (begin['phase'], begin['rule'], begin['action'], begin['class_id']) == ('new', 'gate', 'stop', 'dent')
    assert begin['evidence']['kind'] == 'frame'
    assert begin['bbox'] == {'center_x': 20.0, 'center_y': 20.0, 'size_x': 20.0, 'size_y': 20.0}
    assert begin['latency_ms']['capture_to_command'] >= begin['latency_ms']['decide'] >= 0
    assert begin['stamp_ns'] in {ns_from_stamp(msg.header.stamp) for msg in robot.flagged if msg.detections}
    assert (end['phase'], end['rule'], end['class_id']) == ('end', 'gate', 'dent')
    assert end['stamp_ns'] > begin['stamp_ns']
    assert robot.events[0]['id'] < robot.events[1]['id']
    assert node.get_name() == 'decision'


def test_event_carries_the_figures_of_a_detector_in_another_process(decide, robot, spin_until):
    decide({**GATE, 'gate.trigger_consecutive_frames': 1})
    robot.labels = None
    spin_until(robot.facts_pub.get_subscription_count)
    found = Detections(time.time_ns(), 'camera', np.float32([[1, 1, 9, 9]]), np.float32([0.9]), ('dent',))
    robot.facts_pub.publish(facts_to_msg(found, InferenceTimes(2_000_000, 30_000_000)))
    robot.facts_pub.publish(DiagnosticArray(status=[DiagnosticStatus(values=[KeyValue(key='infer_ms', value='x')])]))
    robot.facts_pub.publish(DiagnosticArray())
    spin_until(lambda: any(figures(report).get('malformed') == '2' for report in robot.reports))
    robot.publish(detections_to_msg(found))
    spin_until(lambda: robot.events)
    latency_ms = robot.events[0]['data']['latency_ms']
    assert (latency_ms['capture_to_infer'], latency_ms['infer']) == (2.0, 30.0)


def figures(report):
    return {pair.key: pair.value for status in report.status for pair in status.values}


def test_silence_stops(decide, robot, spin_until):
    decide({'source_timeout': 1.0, 'release_consecutive_frames': 2})
    robot.labels = None
    spin_until(lambda: robot.stopped and robot.message == 'stop: no_fresh_image')
    assert 's old, allowed are 1.0 s' in robot.state['no_fresh_image@detections.reason']
    spin_until(lambda: robot.events and robot.events[-1]['data']['rule'] == 'no_fresh_image')
    robot.labels = ()
    spin_until(lambda: robot.running)


@pytest.mark.parametrize('age', [21.0, -1.0], ids=['old', 'from the future'])
def test_images_that_are_not_fresh_release_nothing(decide, robot, spin_until, age):
    decide(run=False)
    robot.labels, robot.age = (), age
    spin_until(lambda: len(robot.flagged) >= 10)
    assert set(robot.stops) == {True}
    assert robot.message == 'stop: starting'


MALFORMED = {'nan box': {'x': float('nan')}, 'empty label': {'label': ''}, 'nan score': {'score': float('nan')}}


@pytest.mark.parametrize('change', MALFORMED.values(), ids=MALFORMED)
def test_malformed_message_is_no_fresh_look_and_is_counted(decide, robot, spin_until, change):
    decide(run=False)
    for _ in range(5):
        robot.see()
        time.sleep(0.002)
        robot.publish(malformed(**change))
    spin_until(lambda: any(figures(report).get('malformed') == '5' for report in robot.reports))
    assert set(robot.stops) == {True}
    robot.labels = ()
    spin_until(lambda: robot.running)


def malformed(x=1.0, label='dent', score=0.9):
    box, scores = np.float32([[0, 0, 9, 9]]), np.float32([0.9])
    msg = detections_to_msg(Detections(time.time_ns(), 'camera', box, scores, ('dent',)))
    msg.detections[0].bbox.center.position.x = x
    msg.detections[0].results[0].hypothesis.class_id = label
    msg.detections[0].results[0].hypothesis.score = score
    return msg


def drive(robot, speed, spin_until, expected):
    """Command a speed until the expected one comes out."""

    def comes_out():
        robot.cmd_vel_pub.publish(command(speed))
        return robot.cmd_vels and robot.cmd_vels[-1] == expected

    robot.cmd_vels.clear()
    spin_until(comes_out)


def command(speed):
    msg = Twist()
    msg.linear.x = speed
    return msg


def test_speed_is_let_through_slowed_down_and_cut(decide, robot, spin_until):
    slow = {'slow.classes': ['person'], 'slow.action_type': 'slowdown', 'slow.slowdown_ratio': 0.25}
    decide({**GATE, **slow, 'rules': ['gate', 'slow'], 'gate.classes': ['dent']})
    drive(robot, 0.8, spin_until, expected=0.8)
    robot.labels = ('person',)
    drive(robot, 0.8, spin_until, expected=0.2)
    robot.labels = ('person', 'dent')
    spin_until(lambda: robot.stopped)
    robot.cmd_vels.clear()
    for _ in range(5):
        robot.cmd_vel_pub.publish(command(0.8))
    spin_until(lambda: len(robot.cmd_vels) >= 8)
    assert set(robot.cmd_vels) == {0.0}


def test_stamped_speed_is_gated_too(robot, make_node, spin_until):
    make_node(DecisionNode, parameters={**PATIENT, 'stamped_cmd_vel': True}, namespace='stamped')
    received = []
    robot.create_subscription(TwistStamped, 'stamped/cmd_vel_out', received.append, 10)
    spin_until(lambda: len(received) >= 3)
    assert {msg.twist.linear.x for msg in received} == {0.0}
    assert ns_from_stamp(received[-1].header.stamp) > time.time_ns() - 60_000_000_000
    publisher = robot.create_publisher(TwistStamped, 'stamped/cmd_vel_in', 1)
    moving = TwistStamped(twist=command(0.8))

    def moves():
        robot.see(topic='stamped/detections')
        publisher.publish(moving)
        return received[-1].twist.linear.x == 0.8

    spin_until(moves)


def test_alarm_holds_as_long_as_its_rule(decide, robot, spin_until):
    decide({**GATE, 'gate.action_type': 'alarm'})
    robot.labels = ('dent',)
    spin_until(lambda: robot.alarms[-1])
    assert robot.running
    robot.labels = ()
    spin_until(lambda: not robot.alarms[-1])


def test_reset_says_what_still_holds_and_releases_a_latch(decide, robot, spin_until, call):
    decide({**GATE, 'gate.latch': True})
    reset = robot.create_client(Trigger, 'decision/reset')
    assert call(reset, Trigger.Request()).success
    robot.labels = ('dent',)
    spin_until(lambda: robot.stopped)
    answer = call(reset, Trigger.Request())
    assert not answer.success
    assert answer.message.startswith('still held by gate: dent 0.90 in gate')
    robot.labels = ()
    spin_until(lambda: robot.state.get('gate@detections.latched') == 'True')
    assert robot.stopped
    answer = call(reset, Trigger.Request())
    assert (answer.success, answer.message) == (True, 'let go of gate')
    spin_until(lambda: robot.running)


def test_operator_stops_and_releases(decide, robot, spin_until, call):
    decide()
    stop = robot.create_client(SetBool, 'decision/stop')
    assert call(stop, SetBool.Request(data=True)).success
    spin_until(lambda: robot.stopped and robot.message == 'stop: operator_stop')
    assert not call(robot.create_client(Trigger, 'decision/reset'), Trigger.Request()).success
    assert call(stop, SetBool.Request(data=False)).success
    spin_until(lambda: robot.running)
    spin_until(lambda: len(robot.events) >= 3)
    told = [(event['subject'], event['data']['phase']) for event in robot.events]
    assert told == [('operator_stop', 'new'), ('operator_reset', 'new'), ('operator_stop', 'end')]
    assert {tuple(event['data']['by']) for event in robot.events} == {('/robot',)}
    assert robot.events[1]['data']['reason'] == 'still held by operator_stop: the operator stopped it'


def test_latch_and_operator_stop_outlive_a_restart(make_node, robot, spin_until, call, tmp_path):
    path = tmp_path / 'latches.json'
    kept = {**GATE, 'gate.latch': True, 'latch_file': str(path)}
    before = DecisionNode(parameter_overrides=[Parameter(name, value=value) for name, value in kept.items()])
    own = make_executor()  # nothing of a node that is gone may wait in the executor of the others
    own.add_node(before)
    robot.labels = ('dent',)
    stop = robot.create_client(SetBool, 'decision/stop')
    asked = []

    def is_kept():
        own.spin_once(timeout_sec=0.01)
        if not asked and stop.service_is_ready():
            asked.append(stop.call_async(SetBool.Request(data=True)))
        text = path.read_text(encoding='utf-8') if path.exists() else ''
        return 'operator_stop' in text and 'gate' in text

    spin_until(is_kept)
    own.shutdown()
    before.destroy_node()
    robot.labels = ()
    robot.states.clear()
    make_node(DecisionNode, parameters=kept)
    spin_until(lambda: robot.states and 'starting' not in robot.message)
    assert set(robot.message.split('; ')) == {'stop: gate', 'stop: operator_stop'}
    assert robot.state['gate@detections.reason'].endswith('; kept over a restart')
    assert call(stop, SetBool.Request(data=False)).success
    assert robot.stopped
    assert call(robot.create_client(Trigger, 'decision/reset'), Trigger.Request()).success
    spin_until(lambda: robot.running)


def test_latch_file_that_cannot_be_read_holds_until_it_is_reset(decide, robot, spin_until, call, tmp_path):
    path = tmp_path / 'latches.json'
    path.write_text('{"held": [{"name"', encoding='utf-8')
    decide({**PATIENT, 'latch_file': str(path)}, run=False)
    robot.labels = ()
    spin_until(lambda: robot.message == 'stop: latch_file')
    assert call(robot.create_client(Trigger, 'decision/reset'), Trigger.Request()).success
    spin_until(lambda: robot.running and '"held": []' in path.read_text(encoding='utf-8'))


def test_latch_file_that_cannot_be_written_is_refused_at_the_start(make_node, tmp_path):
    with pytest.raises(ConfigurationError, match='expected a file in a directory that can be written'):
        make_node(DecisionNode, parameters={**PATIENT, 'latch_file': str(tmp_path / 'absent' / 'latches.json')})


PICTURES = {'frozen': Picture(False, 80.0), 'blinded': Picture(True, 2.0)}


@pytest.mark.parametrize('name', PICTURES)
def test_pictures_that_are_no_use_stop_and_useful_ones_release(decide, robot, spin_until, name):
    robot.picture = Picture(True, 80.0)
    decide({**PATIENT, 'frozen_timeout': 0.2, 'blinded_timeout': 0.2})
    robot.picture = PICTURES[name]
    spin_until(lambda: robot.stopped and robot.message == f'stop: {name}')
    spin_until(lambda: robot.events and robot.events[-1]['subject'] == name)
    robot.picture = Picture(True, 80.0)
    spin_until(lambda: robot.running)


def test_outputs_that_are_switched_off_are_not_there(make_node, robot, spin_until):
    make_node(DecisionNode, parameters={**PATIENT, 'outputs': ['stop', 'state']})
    robot.labels = ()
    spin_until(lambda: robot.stops[-1:] == [False])
    names = {name for name, _ in robot.get_publisher_names_and_types_by_node('decision', '/')}
    assert {'/stop', '/state'} <= names
    assert not names & {'/conveyor/run', '/cmd_vel_out', '/alarm', '/flagged', '/events'}
    assert not robot.count_subscribers('cmd_vel_in')


@pytest.mark.parametrize('topic', ['stop', 'conveyor/run', 'alarm'])
def test_what_a_machine_obeys_is_offered_with_a_deadline_and_liveliness(decide, robot, topic):
    decide(run=False)
    (offered,) = [info.qos_profile for info in robot.get_publishers_info_by_topic(f'/{topic}')]
    assert offered.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC
    assert offered.deadline.nanoseconds == offered.liveliness_lease_duration.nanoseconds == 100_000_000


def test_second_object_has_an_event_of_its_own(decide, robot, spin_until):
    decide(GATE)
    robot.tracks = ('7', '8')
    robot.labels = ('dent',)
    spin_until(lambda: len(robot.events) >= 1)
    robot.labels = ('dent', 'scratch')
    spin_until(lambda: len(robot.events) >= 2)
    robot.labels = ()
    spin_until(lambda: len(robot.events) >= 4)
    told = sorted((data['phase'], data['track_id'], data['class_id']) for data in (e['data'] for e in robot.events))
    assert told == [('end', '7', 'dent'), ('end', '8', 'scratch'), ('new', '7', 'dent'), ('new', '8', 'scratch')]


def test_rule_added_while_it_runs_is_in_force_and_can_be_described(decide, robot, spin_until):
    node = decide()
    added = [Parameter('late.classes', value=['dent']), Parameter('rules', value=['late'])]
    assert node.set_parameters_atomically(added).successful
    robot.labels = ('dent',)
    spin_until(lambda: robot.stopped and robot.message == 'stop: late')
    spin_until(lambda: node.has_parameter('late.cooldown'))
    assert node.describe_parameter('late.min_area').description
    assert node.set_parameters([Parameter('rules', value=[''])])[0].successful is False
    assert node.set_parameters([Parameter('rules', Parameter.Type.STRING_ARRAY, [])])[0].successful
    spin_until(lambda: robot.running)


def test_zone_is_of_the_image_that_camera_info_tells(decide, robot, spin_until):
    points = [0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0]
    decide({**GATE, 'gate.points': points})
    robot.box, robot.labels = (100, 100, 120, 120), ('dent',)
    spin_until(lambda: robot.stopped)
    robot.info_pub.publish(CameraInfo(width=640, height=480))
    spin_until(lambda: robot.running)
    robot.box = (400, 100, 420, 120)
    spin_until(lambda: robot.stopped)
    spin_until(lambda: len(robot.events) >= 3)
    assert robot.events[2]['data']['image'] == {'width': 640, 'height': 480}


def test_image_size_given_as_parameter_goes_before_camera_info(decide, robot, spin_until):
    points = [0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0]
    decide({**GATE, 'gate.points': points, 'image_width': 200, 'image_height': 200})
    robot.info_pub.publish(CameraInfo(width=640, height=480))
    robot.box, robot.labels = (110, 100, 120, 120), ('dent',)
    spin_until(lambda: robot.stopped)


def test_every_camera_must_be_seen(decide, robot, spin_until):
    decide({**PATIENT, 'detections_topics': ['left/detections', 'right/detections']}, run=False)

    def shown(*sides):
        for side in sides:
            robot.see(topic=f'{side}/detections')
        return len(robot.flagged) >= 20

    spin_until(lambda: shown('left'))
    assert set(robot.stops) == {True}
    spin_until(lambda: shown('left', 'right') and robot.running)


def test_rule_changed_while_it_runs_is_in_force_at_once(decide, robot, spin_until):
    node = decide({**GATE, 'gate.classes': ['dent']})
    robot.labels = ('person',)
    assert node.set_parameters([Parameter('gate.classes', value=['person'])])[0].successful
    spin_until(lambda: robot.stopped)
    assert not node.set_parameters([Parameter('gate.action_type', value='halt')])[0].successful
    assert robot.stopped
    assert node.set_parameters([Parameter('gate.enabled', value=False)])[0].successful
    spin_until(lambda: robot.running)


def test_detector_of_the_same_process_is_decided_on_and_its_frame_goes_with_the_event(decide, robot, spin_until):
    told = []
    node = decide(
        {**GATE, 'gate.trigger_consecutive_frames': 1}, run=False, composed=True, on_event=lambda *a: told.append(a)
    )
    robot.see('dent')
    for label in ((), (), ('dent',)):
        stamp_ns = time.time_ns()
        frame = Frame(np.zeros((480, 640, 3), np.uint8), stamp_ns, 'camera')
        n = len(label)
        boxes, scores = np.zeros((n, 4), np.float32), np.full(n, 0.9, np.float32)
        found = Detections(stamp_ns, 'camera', boxes, scores, label, image_size=frame.size)
        node.decide_own(found, frame, InferenceTimes(1_000_000, 2_000_000))
        time.sleep(0.002)
    spin_until(lambda: told and len(robot.flagged) >= 3)
    assert len(robot.flagged) == 3
    event, same_frame, announce = told[0]
    assert same_frame is frame
    assert not robot.events
    announce()
    spin_until(lambda: robot.events)
    assert (event.rule, event.stamp_ns, event.image) == ('gate', stamp_ns, (640, 480))
    assert (event.latency_ms['capture_to_infer'], event.latency_ms['infer']) == (1.0, 2.0)


def test_rule_about_a_class_that_no_detector_knows_is_warned_of_once(decide, robot, spin_until, capfd):
    node = decide({**GATE, 'gate.classes': ['pesron', 'car']})
    label_pub = robot.create_publisher(LabelInfo, 'label_info', qos.LATCHED)
    for _ in range(2):
        label_pub.publish(
            LabelInfo(
                class_map=[VisionClass(class_id=0, class_name='person'), VisionClass(class_id=1, class_name='car')]
            )
        )
    spin_until(lambda: node._labels)
    node.know_labels('detections', ('person', 'car'))
    said = capfd.readouterr().err
    assert said.count("gate.classes holds 'pesron', which the detector does not report, did you mean 'person'?") == 1
    assert "holds 'car'" not in said


@pytest.mark.parametrize('outputs', [['stop'], ['stop', 'cmd_vel_out', 'events']])
def test_rule_whose_action_nobody_would_hear_of_is_warned_of_once(make_node, capfd, outputs):
    rules = {'gate.action_type': 'alarm', 'slow.action_type': 'slowdown', 'note.action_type': 'flag'}
    node = make_node(DecisionNode, parameters={'rules': ['gate', 'slow', 'note'], 'outputs': outputs, **rules})
    assert node.set_parameters([Parameter('gate.min_score', value=0.7)])[0].successful
    said = capfd.readouterr().err
    assert said.count("gate.action_type is 'alarm', which nobody will hear of: outputs is ['stop'") == 1
    for told in ("slow.action_type is 'slowdown'", "note.action_type is 'flag'"):
        assert said.count(told) == (len(outputs) == 1)


def test_building_what_is_told_of_a_frame_holds_up_no_heartbeat(decide, robot, spin_until):
    node = decide(GATE)
    go_on, stuck = threading.Event(), threading.Event()
    convert, complete = node._pubs['flagged'].publish, node._decision.complete

    def slowly(step):
        def run(*args):
            stuck.set()
            go_on.wait(DEADLINE)
            return step(*args)

        return run

    robot.labels = None
    found = Detections(time.time_ns(), 'camera', np.zeros((0, 4), np.float32), np.zeros(0, np.float32), ())
    for slow in ('flagged', 'complete'):
        node._pubs['flagged'].publish = slowly(convert) if slow == 'flagged' else convert
        node._decision.complete = slowly(complete) if slow == 'complete' else complete
        deciding = threading.Thread(target=node.decide, args=('detections', found, None, None), daemon=True)
        deciding.start()
        assert stuck.wait(DEADLINE)
        robot.stops.clear()
        spin_until(lambda: len(robot.stops) >= 5)
        drive(robot, 0.8, spin_until, expected=0.8)
        go_on.set()
        deciding.join()
        go_on.clear()
        stuck.clear()


def test_simulated_clock_that_stands_stops_and_goes_on(make_node, robot, spin_until):
    clock_pub = robot.create_publisher(Clock, '/clock', 1)
    parameters = {**PATIENT, 'source_timeout': 1.0, 'use_sim_time': True}
    now = {'ns': 100_000_000_000, 'goes': True}

    def show():
        if now['goes']:
            now['ns'] += 20_000_000
            clock_pub.publish(Clock(clock=stamp_from_ns(now['ns'])))
            robot.see(stamp_ns=now['ns'])

    make_node(DecisionNode, parameters=parameters)
    robot.create_timer(0.02, show)
    spin_until(lambda: robot.running)
    now['goes'] = False
    clock_pub.publish(Clock(clock=stamp_from_ns(now['ns'] + 20_000_000)))
    spin_until(lambda: robot.stopped and robot.message == 'stop: no_fresh_image')
    assert ' on a simulated clock that has stood for ' in robot.state['no_fresh_image@detections.reason']
    seen, before = len(robot.flagged), len(robot.stops)
    for ns in (5_000_000, 10_000_000, 15_000_000):
        robot.see(stamp_ns=now['ns'] + ns)
    spin_until(lambda: len(robot.flagged) >= seen + 3 and len(robot.stops) >= before + 3)
    assert set(robot.stops[before:]) == {True}
    now['ns'] += 20_000_000
    now['goes'] = True
    spin_until(lambda: robot.running)


def level_and_message(robot):
    statuses = [status for report in robot.reports[-1:] for status in report.status]
    return statuses[0].level if statuses else None, statuses[0].message if statuses else ''


def test_another_node_that_commands_the_same_machine_is_reported(decide, robot, spin_until, capfd):
    decide({**PATIENT, 'outputs': ['stop', 'conveyor/run', 'cmd_vel_out', 'state', 'events']})
    spin_until(lambda: level_and_message(robot) == (DiagnosticStatus.OK, 'running'))
    other = Node('other')
    for _ in range(2):
        other.create_publisher(Bool, 'alarm', 10)  # which the decision does not publish here
    other.create_publisher(String, 'events', qos.EVENTS)
    told = len(robot.reports)
    spin_until(lambda: robot.count_publishers('events') == 2 and len(robot.reports) > told + 2)
    assert level_and_message(robot)[0] == DiagnosticStatus.OK
    other.create_publisher(Bool, 'stop', 10)
    spin_until(lambda: level_and_message(robot)[0] == DiagnosticStatus.ERROR)
    assert level_and_message(robot)[1].startswith('another node publishes /stop too and may contradict this one')
    assert robot.running
    other.destroy_node()
    spin_until(lambda: level_and_message(robot) == (DiagnosticStatus.OK, 'running'))
    assert capfd.readouterr().err.count('another node publishes /stop too') == 1


def test_latch_file_of_another_decision_is_refused(decide, make_node, tmp_path):
    parameters = {**PATIENT, 'latch_file': str(tmp_path / 'latches.json')}
    decide(parameters)
    with pytest.raises(ConfigurationError, match='which another decision keeps; give each decision one of its own'):
        make_node(DecisionNode, parameters=parameters, namespace='line2')


def test_disk_that_hangs_under_the_latch_file_silences_nothing(decide, robot, spin_until, call, tmp_path):
    path = tmp_path / 'latches.json'
    hanging = tmp_path / 'latches.json.part'
    decide({**PATIENT, 'latch_file': str(path)})
    os.mkfifo(hanging)  # whoever opens it to write waits for a reader
    stop = robot.create_client(SetBool, 'decision/stop')
    assert call(stop, SetBool.Request(data=True)).success
    spin_until(lambda: robot.message == 'stop: operator_stop' and len(robot.events) == 1)
    assert call(stop, SetBool.Request(data=False)).success
    spin_until(lambda: robot.message == 'running' and len(robot.events) == 2)
    spin_until(lambda: level_and_message(robot)[0] == DiagnosticStatus.ERROR)
    assert 'which the disk has not written for ' in level_and_message(robot)[1]
    assert call(stop, SetBool.Request(data=True)).success
    seen = len(robot.states)
    spin_until(lambda: robot.message == 'stop: operator_stop' and len(robot.states) > seen + 2)
    assert not path.exists()
    with hanging.open('rb'):
        hanging.unlink()
    spin_until(lambda: path.exists() and 'operator_stop' in path.read_text(encoding='utf-8'))
    spin_until(lambda: level_and_message(robot) == (DiagnosticStatus.WARN, 'stop: operator_stop'))


def test_last_word_is_stop(decide, robot, ros, spin_until):
    node = decide()
    robot.labels = None
    ros.remove_node(node)
    node.destroy_node()
    spin_until(lambda: robot.stopped)
    assert robot.cmd_vels[-1] == 0.0


def test_after_its_last_word_nothing_releases(decide, robot, spin_until):
    node = decide(GATE)
    node.say_stop()
    spin_until(lambda: robot.stops[-1])
    seen, before = len(robot.flagged), len(robot.stops)
    spin_until(lambda: len(robot.flagged) >= seen + 5 and len(robot.stops) >= before + 5)
    assert set(robot.stops[before:]) == {True}


def test_a_frame_that_the_detector_of_the_same_process_could_not_use_is_no_clear_look(decide, robot, spin_until):
    node = decide({**PATIENT, 'release_consecutive_frames': 3}, run=False, composed=True)
    for label in ('fresh', 'fresh', 'unusable', 'fresh', 'fresh'):
        stamp_ns = time.time_ns()
        if label == 'unusable':
            node.reject_own('the model gave boxes that are not finite')
        else:
            nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
            frame = Frame(np.zeros((480, 640, 3), np.uint8), stamp_ns, 'camera')
            node.decide_own(Detections(stamp_ns, 'camera', *nothing, ()), frame, InferenceTimes(0, 0))
        time.sleep(0.002)
    spin_until(lambda: len(robot.flagged) == 4 and len(robot.stops) >= 3)
    assert set(robot.stops) == {True}
