"""The pipeline on a disk that is full, slow or has damaged the spool: real processes, stops that come and go."""

import hashlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import ExitStack, closing, contextmanager, suppress

import cv2
import numpy as np
import pytest
from mqtt_broker import Consumer, wait_until

rclpy = pytest.importorskip('rclpy')
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from std_msgs.msg import Bool, String  # noqa: E402

from edge_vision.bench.disk import Disk, build  # noqa: E402
from edge_vision.demo.processes import Child  # noqa: E402
from edge_vision.nodes import diagnostics, qos  # noqa: E402
from edge_vision.rescue import rescued  # noqa: E402
from edge_vision.share import fast_dds_environment  # noqa: E402
from edge_vision.spool import DATABASE  # noqa: E402
from models import mean_colours  # noqa: E402

SIZE = 64  # pixels
DEADLINE = 60.0  # s, far more than anything takes; a busy machine must not fail a test
DELAY = 1.0  # s that a slow disk lets wait
SMALL = 1 << 20  # bytes of a small disk


class Watcher:
    """Notes what the pipeline says, in a thread of its own."""

    def __init__(self):
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('watcher')
        self.stops, self.red, self.announced, self.health = [], set(), {}, (0.0, None)
        self._node.create_subscription(Bool, 'stop', self._on_stop, qos.LATCHED)
        self._node.create_subscription(DiagnosticStatus, 'state', self._on_state, qos.LATCHED)
        self._node.create_subscription(String, 'events', self._on_event, qos.EVENTS)
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 100)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        with suppress(ExternalShutdownException):
            while not self._ending.is_set():
                self._executor.spin_once(timeout_sec=0.1)

    def _on_stop(self, msg):
        """Keep when it changes."""
        if not self.stops or self.stops[-1][1] != msg.data:
            self.stops.append((time.time(), msg.data))

    def _on_state(self, msg):
        """Keep the stamps, ns, of the pictures that red stopped at."""
        self.red.update(int(said.value) for said in msg.values if said.key == 'red@detections.stamp_ns')

    def _on_event(self, msg):
        event = json.loads(msg.data)
        self.announced.setdefault(event['id'], (time.time(), event))

    def _on_diagnostics(self, msg):
        for status in msg.status:
            if status.name == 'bridge':
                self.health = (time.monotonic(), status)

    def close(self):
        self._ending.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.try_shutdown()

    def wait(self, condition, what):
        assert wait_until(condition, DEADLINE), f'{what}: this never came true; {self.health[1]}'

    def stops_come_and_go(self, times=2):
        """Wait until it has been stopped and let go that often from now on."""
        since = time.time()
        self.wait(lambda: [stop for at, stop in self.stops if at > since].count(False) >= times, 'stops come and go')

    def bridge_says(self, level, *words):
        """Wait until the bridge's diagnostics have a level and say something, from now on."""
        since = time.monotonic()

        def says():
            at, status = self.health
            return at > since and status.level == level and all(word in status.message for word in words)

        self.wait(says, f'the bridge says {words}')


class Pipeline:
    """The composed pipeline in front of pictures of which half are red, which is a defect."""

    def __init__(self, directory, spool, port):
        self._directory = directory
        make_pictures(directory / 'pictures')
        model = mean_colours(directory / 'colours.onnx', input_size=(SIZE, SIZE))
        self._parameters = {
            'camera:video_device': directory / 'pictures',
            'camera:framerate': 30.0,
            'camera:loop': 'true',
            'detector:model_file_path': model,
            'detector:backend': 'onnxruntime',
            'detector:threads': 1,
            'decision:rules': '["red"]',
            'decision:red.classes': '["red"]',
            'decision:red.min_score': 0.6,
            'decision:red.evidence': 'frame',
            'bridge:broker.port': port,
            'bridge:spool.directory': spool,
            'bridge:device_id': 'disk',
        }
        self.log = directory / 'pipeline.log'
        self._child = None

    def start(self, environment=None):
        chosen = [word for name, value in self._parameters.items() for word in ('-p', f'{name}:={value}')]
        command = ['edge_vision.nodes', 'pipeline', '--ros-args', *chosen]
        self._child = Child('pipeline', command, self.log, {**fast_dds_environment(), **(environment or {})})

    @property
    def pid(self):
        return self._child.process.pid

    def is_alive(self):
        return self._child.process.poll() is None

    def end(self, number=signal.SIGTERM):
        self._child.process.send_signal(number)
        self._child.wait()


def make_pictures(folder):
    """Write a loop of moving pictures."""
    folder.mkdir()
    blocks = np.random.default_rng(1).integers(0, 200, (6, 6), dtype=np.uint8)
    texture = cv2.resize(blocks, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)[..., None]
    for i in range(48):
        moving = np.roll(texture, i * SIZE // 12, axis=1)
        red = [moving // 3, moving // 3, 180 + moving // 4]
        image = np.concatenate(red if i >= 24 else [moving, moving, moving // 3], axis=2)
        assert cv2.imwrite(str(folder / f'{i:02}.bmp'), image)


@pytest.fixture
def watcher(by_udp):  # noqa: ARG001  it is the environment that counts
    watcher = Watcher()
    yield watcher
    watcher.close()


@pytest.fixture
def spool(tmp_path):
    directory = tmp_path / 'spool'
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def pipeline(tmp_path, spool, mosquitto):
    made = Pipeline(tmp_path, spool, mosquitto.port)
    yield made
    if made.is_alive():
        made.end(signal.SIGKILL)


@pytest.fixture
def consumer(mosquitto):
    with Consumer(mosquitto.port) as made:
        yield made


def everything_arrives(watcher, pipeline, consumer, since):
    """End a pipeline in order and see that the consumer has every event since a time, and every picture of them."""
    pipeline.end()
    seen = {stamp for stamp in watcher.red if stamp > since * 1e9}
    announced = watcher.announced
    assert wait_until(lambda: set(announced) <= received(consumer), DEADLINE), 'an event is missing'
    began = [e['data'] for e in {e['id']: e for e in events(consumer)}.values() if e['data']['phase'] == 'new']
    assert seen
    assert seen <= {e['stamp_ns'] for e in began if e['rule'] == 'red'}
    pictures = [m for m in list(consumer.messages) if '/evidence/' in m.topic]
    shown = {m.topic.rpartition('/')[2]: hashlib.sha256(m.payload).hexdigest() for m in pictures}
    promised = {e['id']: e['data']['evidence']['sha256'] for e in events(consumer) if e['data']['evidence']['bytes']}
    assert promised
    assert shown == promised


def events(consumer):
    return [json.loads(payload) for payload in consumer.payloads('events')]


def received(consumer):
    return {event['id'] for event in events(consumer)}


@contextmanager
def file_size_limit(pipeline, spool):  # noqa: ARG001  like `small_disk`
    """Let no file of a process grow: what a quota does, for whoever may not mount anything."""
    limits = resource.prlimit(pipeline.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pipeline.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pipeline.pid, resource.RLIMIT_FSIZE, limits)


@contextmanager
def filled_disk(pipeline, spool):  # noqa: ARG001
    """Fill the disk of the spool to the last byte."""
    filler = spool / 'spool.filler'
    with filler.open('wb', buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture
def small_disk(spool):
    command = ['mount', '-t', 'tmpfs', '-o', f'size={SMALL},mode=0700', 'tmpfs', str(spool)]
    mounted = shutil.which('mount') and subprocess.run(command, capture_output=True, text=True, check=False)
    if not mounted or mounted.returncode:
        pytest.skip('a tmpfs may not be mounted here; the limit of file sizes stands in for it')
    yield
    subprocess.run(['umount', '--lazy', str(spool)], check=True)


@pytest.mark.parametrize('trouble', [filled_disk, file_size_limit], ids=lambda trouble: trouble.__name__)
def test_full_disk_is_said_and_stops_go_on_and_nothing_is_lost(request, watcher, pipeline, consumer, spool, trouble):
    if trouble is filled_disk:
        request.getfixturevalue('small_disk')
    pipeline.start()
    watcher.stops_come_and_go(1)
    watcher.bridge_says(diagnostics.OK)
    since = time.time()
    with trouble(pipeline, spool):
        watcher.bridge_says(diagnostics.ERROR, 'cannot write to the spool', 'check the disk')
        before = len(watcher.announced)
        watcher.stops_come_and_go()
        assert len(watcher.announced) == before  # what is not on disk is not announced
    watcher.bridge_says(diagnostics.OK)
    watcher.stops_come_and_go(1)
    assert pipeline.is_alive()
    everything_arrives(watcher, pipeline, consumer, since)


def test_disk_that_is_full_from_the_start_stops_nothing(tmp_path, watcher, pipeline, consumer, spool):
    library = build(tmp_path)
    if library is None:
        (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)('there is no C compiler cc')
    disk = Disk(spool, tmp_path / 'state')
    disk.behave(full=True)
    since = time.time()
    pipeline.start(disk.environment(library))
    watcher.bridge_says(diagnostics.ERROR, 'cannot open the spool', 'check the disk')
    watcher.stops_come_and_go()
    assert not watcher.announced
    disk.behave()
    watcher.bridge_says(diagnostics.OK)
    everything_arrives(watcher, pipeline, consumer, since)


def test_slow_disk_lets_events_wait_and_no_stop(tmp_path, watcher, pipeline, consumer, spool):
    library = build(tmp_path)
    if library is None:
        (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)('there is no C compiler cc')
    disk = Disk(spool, tmp_path / 'state')
    pipeline.start(disk.environment(library))
    watcher.stops_come_and_go(1)
    watcher.bridge_says(diagnostics.OK)
    since = time.time()
    disk.behave(delay=DELAY)
    watcher.stops_come_and_go(4)
    told = {at: e['data']['stamp_ns'] / 1e9 for at, e in watcher.announced.values() if e['data']['phase'] == 'new'}
    stops = [at for at, stop in watcher.stops if stop]
    disk.behave()
    waited = {at: seen for at, seen in told.items() if seen > since}
    assert waited
    assert all(at - seen >= DELAY for at, seen in waited.items())  # an event is on disk before it is announced
    assert any(seen < stop < at for at, seen in waited.items() for stop in stops)  # its stop did not wait for that
    watcher.stops_come_and_go(1)
    everything_arrives(watcher, pipeline, consumer, since)


@pytest.mark.parametrize('damage', ['truncated', 'corrupted'])
def test_damaged_spool_is_set_aside_and_what_is_sound_arrives(tmp_path, watcher, pipeline, mosquitto, spool, damage):
    mosquitto.stop()
    pipeline.start()
    watcher.stops_come_and_go(4)
    watcher.wait(lambda: len(watcher.announced) >= 8, 'events are on disk')
    pipeline.end(signal.SIGKILL)
    database = spool / DATABASE
    with closing(sqlite3.connect(database)) as connection:
        connection.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    content = database.read_bytes()
    third = len(content) // 3
    broken = content[: 2 * third] if damage == 'truncated' else content[:third] + os.urandom(4096) + content[third:]
    database.write_bytes(broken)
    copy = tmp_path / 'copy.db'
    copy.write_bytes(broken)
    sound = {event.id for event in rescued(copy)}

    since = time.time()
    pipeline.start()
    watcher.stops_come_and_go()
    assert 'is damaged' in pipeline.log.read_text()
    assert len(list(spool.glob('spool.damaged-*.db'))) == 1
    with ExitStack() as stack:
        mosquitto.start()
        consumer = stack.enter_context(Consumer(mosquitto.port))
        watcher.wait(lambda: sound <= received(consumer), 'what is sound arrives')
        watcher.bridge_says(diagnostics.WARN, 'a damaged spool was set aside as spool.damaged-')
        new = {e for e, (at, _) in watcher.announced.items() if at > since}
        watcher.wait(lambda: new <= received(consumer), 'what is new arrives')
    assert new
    assert pipeline.is_alive()
