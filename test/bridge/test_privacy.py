"""What leaves the device while a line runs, byte for byte, seen by one who listens to everything on the broker."""

import hashlib
import json
import math
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from mqtt_broker import Consumer, Mosquitto, wait_until
from rcl_interfaces.msg import Log
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from edge_vision.demo.processes import Child, end
from edge_vision.nodes import qos
from edge_vision.share import CONVEYOR_MODEL, fast_dds_environment, share_file

NODES = ('camera', 'detector', 'decision', 'bridge')
ROOT = 'edge_vision/line_1'
# A stop with its frame, a flag with a crop, and a flag without a picture, of what comes along every few seconds.
RULES = {'defect': ('stop', 'frame'), 'seen': ('flag', 'crop'), 'counted': ('flag', 'none')}
MARGIN = 0.25
FRAMING = 64  # bytes that MQTT puts around a message, at most
GREETING = 512  # bytes of connecting, keeping alive and taking leave, at most
ASK_AGAIN = 2.0  # s
DEADLINE = 90.0  # s, far more than anything takes


class Meter:
    """A TCP forwarder that counts what goes to a port."""

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, far = self._listener.accept()[0], socket.create_connection(('127.0.0.1', self._target))
                threading.Thread(target=self._forward, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._forward, args=(far, near, False), daemon=True).start()

    def _forward(self, source, sink, counted):
        with suppress(OSError):
            while data := source.recv(65536):
                self.bytes += len(data) * counted
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


class Observer(Node):
    """Hears on the device what the nodes say."""

    def __init__(self):
        super().__init__('observer')
        self.events, self.reports, self.log = [], [], []
        self.create_subscription(String, 'events', lambda msg: self.events.append(json.loads(msg.data)), qos.EVENTS)
        self.create_subscription(DiagnosticArray, '/diagnostics', self.reports.append, 100)
        self.create_subscription(Log, '/rosout', self.log.append, 1000)

    def ask(self, service_type, name, request):
        """Call a service until it answers: an answer can be lost while the two are still getting to know each other."""
        client, asked = self.create_client(service_type, name), []

        def answer():
            if client.service_is_ready() and (not asked or time.monotonic() > asked[-1][0] + ASK_AGAIN):
                asked.append((time.monotonic(), client.call_async(request)))
            return next((future for _, future in asked if future.done()), None)

        answered = wait_until(answer, DEADLINE)
        assert answered, f'{name} does not answer'
        return answered.result()


@contextmanager
def observing():
    """Give an observer that is spun in a thread of its own."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    observer, executor, ending = Observer(), SingleThreadedExecutor(), threading.Event()
    executor.add_node(observer)

    def spin():
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.05)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield observer
    finally:
        ending.set()
        thread.join()
        executor.shutdown()
        observer.destroy_node()
        rclpy.try_shutdown()


class Run(NamedTuple):
    """What left the device in a run.

    Attributes:
        messages: All that the broker was sent, in order.
        flagged: The events that the device itself told of, by id.
        bytes: What went to the broker on the wire.

    """

    messages: list[Any]
    flagged: dict[str, Any]
    bytes: int

    @property
    def events(self):
        return [json.loads(m.payload) for m in self.messages if m.topic == f'{ROOT}/events']

    @property
    def pictures(self):
        return {m.topic: m.payload for m in self.messages if m.topic.startswith(f'{ROOT}/evidence/')}

    @property
    def stats(self):
        """Return what the statistics say, each with what had been sent before it."""
        sent = 0
        for message in self.messages:
            if message.topic == f'{ROOT}/stats':
                yield json.loads(message.payload), sent
            sent += size(message)


def size(message):
    return len(message.topic.encode()) + len(message.payload)


def parameters_file(directory):
    """Write the rules of the line."""
    rules = {'rules': list(RULES)}
    for name, (action, evidence) in RULES.items():
        classes = ['part'] if name == 'counted' else ['scratch', 'dent', 'stain']
        rules |= {
            f'{name}.classes': classes,
            f'{name}.min_score': 0.5,
            f'{name}.action_type': action,
            f'{name}.evidence': evidence,
        }
    # The simulated line takes a part away that it stops for there; elsewhere it would stand for ever.
    rules['defect.points'] = [0.45, 0.0, 0.75, 0.0, 0.75, 1.0, 0.45, 1.0]
    path = directory / 'line.yaml'
    path.write_text(yaml.safe_dump({'/**/decision': {'ros__parameters': rules}}))
    return path


def start(mode, directory, port):
    """Start the line in front of the simulator, in one process or four."""
    chosen = {
        'camera': {'video_device': 'sim://conveyor?seed=1', 'framerate': 15.0},
        'detector': {'model_file_path': share_file(CONVEYOR_MODEL), 'threads': 1},
        'decision': {'source_timeout': 2.0},
        'bridge': {
            'broker.port': port, 'spool.directory': directory / 'spool', 'device_id': 'line_1', 'crop_margin': MARGIN
        },
    }  # fmt: skip
    words = {
        node: [word for name, value in values.items() for word in ('-p', f'{node}:{name}:={value}')]
        for node, values in chosen.items()
    }
    common = ['--ros-args', '--params-file', str(parameters_file(directory))]
    if mode == 'composed':
        commands = {'pipeline': [word for node in NODES for word in words[node]]}
    else:
        commands = {f'{node}_node': words[node] for node in reversed(NODES)}
    return [
        Child(name, ['edge_vision.nodes', name, *common, *own], directory / f'{name}.log', fast_dds_environment())
        for name, own in commands.items()
    ]


@pytest.fixture(scope='module', params=['composed', 'separate'])
def run(request, ros_environment, tmp_path_factory):  # noqa: ARG001  it is the environment that counts
    """Run a line until it has sent pictures and statistics, and end it."""
    directory = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(directory))
        meter = Meter(broker.port)
        stack.callback(meter.close)
        consumer = stack.enter_context(Consumer(broker.port, '#'))
        observer = stack.enter_context(observing())
        children = start(request.param, directory, meter.port)
        stack.callback(lambda: [child.process.kill() for child in children])

        def enough(messages):
            for child in children:
                child.check()
            seen = Run(messages, {}, 0)
            kinds = [event['data']['evidence']['kind'] for event in seen.events]
            return len(list(seen.stats)) >= 1 and {'none', 'crop', 'frame'} <= set(kinds)

        consumer.wait(enough, DEADLINE)
        end([child for child in children if child.name != 'bridge_node'])
        end(children)
        consumer.wait(lambda messages: messages[-1].payload == b'offline')
        assert wait_until(lambda: len(Run(consumer.messages, {}, 0).events) <= len(observer.events))
        return Run(list(consumer.messages), {event['id']: event for event in observer.events}, meter.bytes)


def test_only_topics_of_the_device_are_written_to(run):
    known = {f'{ROOT}/events', f'{ROOT}/available', f'{ROOT}/stats', *run.pictures}
    assert {message.topic for message in run.messages} == known
    assert all(m.payload in {b'online', b'offline'} for m in run.messages if m.topic == f'{ROOT}/available')


def test_every_flagged_event_leaves_once_and_nothing_else_does(run):
    ids = [event['id'] for event in run.events]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(run.flagged)
    for event in run.events:
        told = run.flagged[event['id']]
        assert {**event, 'source': told['source'], 'data': {**event['data'], 'evidence': None}} == {
            **told,
            'data': {**told['data'], 'evidence': None},
        }


def test_every_picture_belongs_to_an_event_whose_rule_asked_for_it(run):
    given = {}
    for event in run.events:
        data, evidence = event['data'], event['data']['evidence']
        if evidence['kind'] == 'none':
            assert (evidence['topic'], evidence['sha256'], evidence['bytes']) == ('', '', 0)
            continue
        assert evidence['kind'] == RULES[data['rule']][1]
        assert data['phase'] == 'new'
        assert evidence['topic'] == f'{ROOT}/evidence/{event["id"]}'
        given[evidence['topic']] = (evidence['bytes'], evidence['sha256'])
    assert given == {topic: (len(p), hashlib.sha256(p).hexdigest()) for topic, p in run.pictures.items()}


def test_picture_shows_no_more_than_the_rule_allows(run):
    for event in run.events:
        data, evidence = event['data'], event['data']['evidence']
        if evidence['kind'] == 'none':
            continue
        picture = cv2.imdecode(np.frombuffer(run.pictures[evidence['topic']], np.uint8), cv2.IMREAD_COLOR)
        height, width = picture.shape[:2]
        if evidence['kind'] == 'frame':
            assert (width, height) == (data['image']['width'], data['image']['height'])
            continue
        box = data['bbox']
        extra = 2 * MARGIN * max(box['size_x'], box['size_y'])
        assert width <= math.ceil(box['size_x'] + extra) + 1
        assert height <= math.ceil(box['size_y'] + extra) + 1


def test_no_picture_hides_in_another_message(run):
    for message in run.messages:
        if message.topic not in run.pictures:
            message.payload.decode('ascii' if message.topic != f'{ROOT}/events' else 'utf-8')
            assert len(message.payload) < 2048
            assert b'/9j/' not in message.payload  # how a JPEG begins in base64
    names = {name for event in run.events for name in event['data']}
    assert names <= {
        'phase', 'rule', 'action', 'class_id', 'score', 'track_id', 'bbox', 'image', 'stamp_ns', 'latency_ms',
        'evidence', 'frames', 'zone', 'reason', 'by',
    }  # fmt: skip
    assert all(isinstance(value, int | float) for stats, _ in run.stats for value in stats.values())


def test_statistics_say_to_the_byte_what_was_sent_before_them(run):
    assert [stats['bytes_sent'] for stats, _ in run.stats] == [sent for _, sent in run.stats]


def test_statistics_count_what_was_flagged_and_what_stayed(run):
    *_, (last, sent) = run.stats
    assert 0 < last['events_sent'] <= last['events'] <= len(run.events)
    assert last['events_dropped'] == 0
    assert last['bytes_captured'] % (640 * 480 * 3) == 0
    assert last['bytes_captured'] > 20 * sent
    assert last['estimated_cost_avoided'] == pytest.approx(
        (0.04 * last['bytes_captured'] - sent) / 1e9 * 0.05, abs=1e-6
    )


def test_no_byte_goes_to_the_broker_but_in_these_messages(run):
    told = sum(size(message) for message in run.messages)
    assert told < run.bytes < told + FRAMING * len(run.messages) + GREETING


SECRET = 'Xq7-vault-93'


@pytest.mark.parametrize('password', [SECRET, 'another'], ids=['right password', 'wrong password'])
@pytest.mark.parametrize('given_by', ['file', 'environment'])
def test_password_of_the_broker_is_shown_nowhere(ros_environment, tmp_path, password, given_by):  # noqa: ARG001
    secret = SECRET if password == SECRET else f'wrong-{SECRET}'
    parameters = {'device_id': 'line_1', 'spool.directory': tmp_path / 'spool'}
    environment = {}
    if given_by == 'file':
        credentials = tmp_path / 'credentials'
        credentials.write_text(f'line\n{secret}\n')
        parameters['client.credentials_file'] = credentials
    else:
        environment = {'EDGE_VISION_MQTT_USERNAME': 'line', 'EDGE_VISION_MQTT_PASSWORD': secret}
    with Mosquitto(tmp_path, users={'line': SECRET}) as broker, observing() as observer:
        parameters['broker.port'] = broker.port
        said = everything_said(observer, 'bridge', parameters, tmp_path, environment)
    assert ('connected by' in said or 'hears of no decision' in said) == (secret == SECRET), said
    assert ('bad user name or password' in said or 'not authorised' in said) == (secret != SECRET)
    assert SECRET not in said


def test_password_in_the_address_of_a_camera_is_shown_nowhere(ros_environment, tmp_path):  # noqa: ARG001
    with socket.create_server(('127.0.0.1', 0)) as nobody, observing() as observer:
        port = nobody.getsockname()[1]
        nobody.close()
        parameters = {'video_device': f'rtsp://viewer:{SECRET}@127.0.0.1:{port}/stream', 'reopen_period': 0.1}
        said = everything_said(observer, 'camera', parameters, tmp_path, {}, but='video_device')
    assert f'rtsp://***@127.0.0.1:{port}/stream' in said
    assert 'cannot be opened' in said
    assert SECRET not in said


def test_password_in_the_address_of_a_broker_is_refused_and_not_shown(ros_environment, tmp_path):  # noqa: ARG001
    log = tmp_path / 'bridge.log'
    command = ['bridge_node', '--ros-args', '-p', f'broker.host:=mqtt://line:{SECRET}@localhost']
    bridge = Child('bridge', ['edge_vision.nodes', *command], log, {})
    bridge.wait(DEADLINE)
    assert bridge.process.returncode == 1
    assert 'no bare host name' in log.read_text()
    assert SECRET not in log.read_text()


def everything_said(observer, node, parameters, directory, environment, but=''):
    """Run a node until it has reported three times; return its log at the finest level, diagnostics and parameters."""
    chosen = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    command = ['edge_vision.nodes', f'{node}_node', '--ros-args', '--log-level', 'debug', *chosen]
    log = directory / f'{node}.log'
    child = Child(node, command, log, {**environment, 'ROS_LOG_DIR': str(directory / 'ros_log')})

    def reports():
        return [report for report in observer.reports if report.status[0].name == node]

    try:
        names = observer.ask(ListParameters, f'{node}/list_parameters', ListParameters.Request()).result.names
        asked = [name for name in names if name != but]
        values = observer.ask(GetParameters, f'{node}/get_parameters', GetParameters.Request(names=asked)).values
        assert wait_until(lambda: len(reports()) >= 3, DEADLINE), f'{node} does not report'
    finally:
        end([child])
    files = [path.read_text(errors='replace') for path in (directory / 'ros_log').rglob('*') if path.is_file()]
    return '\n'.join([log.read_text(), *files, str(values), str(reports()), str(observer.log)])
