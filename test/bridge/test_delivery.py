"""What the cloud gets while everything between the decision and it dies.

What is promised, with a bridge in a process of its own: an event that is announced on ``events`` reaches the cloud,
and counts once there, as long as the process that announced it lives and announces no more than 1000 others before a
bridge is up again. An event is first kept by its publisher, which gives the last 1000 to every bridge that comes; then
by the bridge's spool; then by the broker, which acknowledges what it has handed to the consumer's socket. A bridge that
is killed between two of these gets the event again and knows by its id whether it has it.

A picture is not kept by anybody before the spool: an event whose bridge died first arrives without, and says why.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import rclpy
from mqtt_broker import Consumer, Link, Mosquitto, wait_until
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import String

from edge_vision.events import BBox, Event, Evidence, event_id
from edge_vision.frames import Frame
from edge_vision.nodes import qos
from edge_vision.nodes.convert import image_to_msg

EVENTS = 2000
KILLS = 20
RATE = 100.0  # events per second while a bridge is up
AHEAD = 500  # events announced and not yet at the consumer, at most: half of what their publisher keeps
LONGEST_LIFE = 1.0  # s of a bridge after it has said that it is online
DEADLINE = 120.0  # s, far more than anything takes
SEED = int(os.environ.get('EDGE_VISION_SEED', '4'))


class Bridge:
    """The real bridge as a process that can be killed."""

    def __init__(self, directory, **parameters):
        self._log = directory / 'bridge.log'
        self._arguments = []
        for name, value in {'spool.directory': directory / 'spool', 'device_id': 'line', **parameters}.items():
            self._arguments += ['-p', f'{name}:={value}']
        self.process = None

    def start(self, **environment):
        """Start it; what it says goes into one file."""
        command = [sys.executable, '-m', 'edge_vision.nodes', 'bridge_node', '--ros-args', *self._arguments]
        with self._log.open('ab') as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})

    def kill(self):
        """Kill it with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def said(self):
        """All that it has said."""
        return self._log.read_text()


@pytest.fixture
def announcer(by_udp):  # noqa: ARG001  it is the environment that counts
    """Stand in for the camera and the decision."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node('decision')
    node.events_pub = node.create_publisher(String, 'events', qos.EVENTS)
    node.image_pub = node.create_publisher(Image, 'image_raw', qos.NEWEST)
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def announce(node, n):
    """Publish a picture and the event that it caused; return the event's id."""
    stamp_ns = time.time_ns()
    image = np.full((48, 64, 3), n % 256, np.uint8)
    node.image_pub.publish(image_to_msg(Frame(image, stamp_ns, 'camera')))
    told = Event(
        id=event_id(stamp_ns),
        camera='camera',
        rule='gate',
        action='stop' if n % 3 else 'flag',
        phase='new',
        stamp_ns=stamp_ns,
        class_id='dent',
        score=0.9,
        bbox=BBox(32.0, 24.0, 20.0, 20.0),
        image=(64, 48),
        evidence=Evidence('crop'),
    )
    node.events_pub.publish(String(data=told.to_json()))
    return told.id


@contextmanager
def in_background(step):
    """Call a step again and again in a thread of its own; what it raises is raised here."""
    over, errors = threading.Event(), []

    def run():
        try:
            while not over.is_set():
                step(over)
        except BaseException as error:  # noqa: BLE001  it is raised below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


class Trouble:
    """Stops, kills and restarts a broker and cuts the way to it by turns, healed each time."""

    def __init__(self, broker, link, consumer, chance):
        self._broker, self._link, self._consumer, self._chance = broker, link, consumer, chance
        self.counts = dict.fromkeys((self.hang, self.unreachable, self.restart, self.die), 0)

    def next(self, over):
        """Bring the trouble that came least often, after a while of peace."""
        if over.wait(self._chance.uniform(1.0, 2.0)):
            return
        trouble = min(self.counts, key=self.counts.get)
        trouble(over)
        self.counts[trouble] += 1

    def hang(self, over):
        """Stop the broker's process for a while: connections stay, and nothing answers."""
        self._broker.send_signal(signal.SIGSTOP)
        over.wait(self._chance.uniform(0.2, 1.0))
        self._broker.send_signal(signal.SIGCONT)

    def unreachable(self, over):
        """Cut all connections to the broker and refuse new ones for a while."""
        self._link.pull()
        over.wait(self._chance.uniform(0.2, 1.0))
        self._link.plug()

    def restart(self, _over):
        """End the broker in an orderly way and start it again."""
        self._broker.stop()
        self._come_back()

    def die(self, _over):
        """Kill the broker with SIGKILL and start it again."""
        self._broker.kill()
        self._come_back()

    def _come_back(self):
        """Start the broker; the consumer is the first to be let in, as a broker without memory would lose the rest."""
        self._link.pull()
        self._consumer.wait_cut_off()
        self._broker.start()
        self._consumer.wait_subscribed()
        self._link.plug()


class Seen:
    """Counts what a consumer got, looking at each message once: whoever looks again and again slows all down."""

    def __init__(self, consumer):
        self._consumer = consumer
        self._looked_at = 0
        self.online = 0
        self.ids = []

    def look(self):
        """Look at what is new."""
        new = self._consumer.messages[self._looked_at :]
        self._looked_at += len(new)
        for message in new:
            if message.topic.endswith('/events'):
                self.ids.append(json.loads(message.payload)['id'])
            self.online += message.topic.endswith('/available') and message.payload == b'online' and not message.retain
        return self


def live_and_die(bridge, seen, chance, life):
    """Start a bridge and kill it at a random moment; every fifth one before it may have come up."""
    before = seen.look().online
    bridge.start()
    if life % 5:
        assert wait_until(lambda: seen.look().online > before, DEADLINE), bridge.said
        time.sleep(chance.uniform(0.0, LONGEST_LIFE))
    else:
        time.sleep(chance.uniform(0.0, 1.5))
    bridge.kill()


def test_every_event_arrives_and_counts_once_whatever_dies(tmp_path, announcer, figures):
    chance = random.Random(SEED)
    (tmp_path / 'broker').mkdir()
    announced, lives = [], 0

    with (
        Mosquitto(tmp_path / 'broker', extra='max_queued_messages 0') as broker,
        Consumer(broker.port, 'edge_vision/#') as consumer,
    ):
        link = Link(broker.port)
        link.plug()
        bridge = Bridge(tmp_path, **{'broker.port': link.port})
        trouble = Trouble(broker, link, consumer, random.Random(SEED + 1))
        seen, seen_by_announcer = Seen(consumer), Seen(consumer)

        def announce_one(over):
            arrived = len(seen_by_announcer.look().ids)
            due = min(EVENTS, (lives + 1) * EVENTS // KILLS, arrived + AHEAD)
            if len(announced) < due:
                announced.append(announce(announcer, len(announced)))
            over.wait(1 / RATE)

        try:
            with in_background(announce_one):
                with in_background(trouble.next):
                    for life in range(KILLS):
                        live_and_die(bridge, seen, chance, life)
                        lives = life + 1
                bridge.start()
                assert wait_until(lambda: len(announced) == EVENTS, DEADLINE), bridge.said
                assert wait_until(lambda: len(set(seen.look().ids)) == EVENTS, DEADLINE), bridge.said
        finally:
            bridge.kill()
            link.close()
    check(consumer, announced)
    events = len(seen.look().ids) - EVENTS
    pictures = [m.topic for m in consumer.messages if '/evidence/' in m.topic]
    again = len(pictures) - len(set(pictures))
    counts = ', '.join(f'{trouble.__name__} {count}' for trouble, count in trouble.counts.items())
    figures(f'{KILLS} bridges killed; broker: {counts}; seed {SEED}')
    share = f'{100 * events / EVENTS:.2f} %'
    figures(f'{events} of {EVENTS} events twice on the wire ({share}), {again} of {len(pictures)} pictures')
    assert min(trouble.counts.values()) > 0
    assert events < EVENTS / 20  # less than 1 % where the machine is not busy; how much is in the air depends on it


def check(consumer, announced):
    """Check that every event is there, in order, with the picture that it tells of."""
    events = {}
    for payload in consumer.payloads('events'):
        event = json.loads(payload)
        assert events.setdefault(event['id'], event) == event  # the same each time
    assert list(events) == announced
    pictures = {m.topic: m.payload for m in consumer.messages if '/evidence/' in m.topic}
    told = [event['data']['evidence'] for event in events.values()]
    with_picture = [evidence for evidence in told if evidence['kind'] == 'crop']
    for evidence in with_picture:
        assert hashlib.sha256(pictures[evidence['topic']]).hexdigest() == evidence['sha256']
    assert len(with_picture) > EVENTS / 20
    assert all(evidence['reason'] for evidence in told if evidence['kind'] == 'none')
