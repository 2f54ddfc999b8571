import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone

import paho.mqtt.client as paho
import pytest
from mqtt_broker import DEADLINE, Consumer, Link, Mosquitto, wait_until

from edge_vision.cloud_sink.report import daily, table
from edge_vision.cloud_sink.store import MAX_EVENT_BYTES, REJECTED_KEPT, Arrival, Store, file_name, open_for_reading
from edge_vision.errors import ConfigurationError
from edge_vision.events import Event, Evidence, event_id, topic_segment

DAY = datetime(2026, 3, 5, tzinfo=timezone.utc)
NOON_NS = int(DAY.timestamp() + 12 * 3600) * 10**9
SECOND_NS = 10**9
COMMAND = (sys.executable, '-m', 'edge_vision', 'cloud-sink')
JPEG = b'\xff\xd8 a picture \xff\xd9'


def event(stamp_ns=NOON_NS, **fields):
    given = {'rule': 'defect', 'action': 'stop', 'phase': 'new', 'device_id': 'left', 'camera': 'camera', **fields}
    return Event(id=event_id(stamp_ns), stamp_ns=stamp_ns, **given)


def with_picture(told, picture=JPEG):
    told = replace(told, evidence=Evidence('crop'))
    return told.with_picture(picture, f'edge_vision/{told.device_id}/evidence/{told.id}')


def said(told, at_ns=None, copies=1):
    payload = told.to_json().encode()
    return [arrival(f'{topic_segment(told.device_id)}/events', payload, at_ns or told.stamp_ns)] * copies


def arrival(topic, payload, at_ns=NOON_NS):
    return Arrival(topic, payload, at_ns, len(topic) + len(payload))


def shown(told, picture=JPEG):
    return [arrival(f'{told.device_id}/evidence/{told.id}', picture, told.stamp_ns)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / 'cloud') as opened:
        yield opened


def pictures(directory, folder='pictures'):
    return sorted(path.relative_to(directory / folder).as_posix() for path in directory.glob(f'{folder}/**/*.*'))


def rows(directory, query):
    with closing(sqlite3.connect(directory / 'events.db')) as connection:
        return connection.execute(query).fetchall()


# Storing


def test_event_that_comes_again_is_stored_once_and_counted(store, tmp_path):
    told = event()
    store.take(said(told, copies=2))
    store.take(said(told))
    assert rows(tmp_path / 'cloud', 'SELECT id, copies, event FROM events') == [(told.id, 3, told.to_json())]


def test_same_id_of_another_device_is_another_event(store, tmp_path):
    told = event()
    store.take(said(told) + said(replace(told, device_id='right')))
    assert rows(tmp_path / 'cloud', 'SELECT device FROM events ORDER BY device') == [('left',), ('right',)]


@pytest.mark.parametrize('order', ['picture first', 'event first', 'one batch'])
def test_picture_is_filed_under_the_id_of_its_event(store, tmp_path, order):
    told = with_picture(event())
    parts = [shown(told), said(told)]
    if order == 'event first':
        parts.reverse()
    for part in [parts[0] + parts[1]] if order == 'one batch' else parts:
        store.take(part)
    assert pictures(tmp_path / 'cloud') == [f'left/2026-03-05/{told.id}.jpg']
    assert pictures(tmp_path / 'cloud', 'waiting') == []
    assert (tmp_path / f'cloud/pictures/left/2026-03-05/{told.id}.jpg').read_bytes() == JPEG


@pytest.mark.parametrize('first', ['picture', 'event'])
def test_picture_with_another_sha256_is_said_and_not_filed_as_good(store, tmp_path, first):
    told = with_picture(event())
    parts = [shown(told, b'something else'), said(told)]
    notes = [note for part in (parts if first == 'picture' else parts[::-1]) for note in store.take(part)]
    assert len(notes) == 1
    assert 'another sha256' in notes[0]
    assert pictures(tmp_path / 'cloud') == []
    assert len(pictures(tmp_path / 'cloud', 'mismatched')) == 1


def test_right_picture_after_a_wrong_one_is_filed(store, tmp_path):
    told = with_picture(event())
    store.take(said(told) + shown(told, b'something else') + shown(told))
    assert pictures(tmp_path / 'cloud') == [f'left/2026-03-05/{told.id}.jpg']


def test_wrong_picture_after_the_right_one_does_not_replace_it(store, tmp_path):
    told = with_picture(event())
    store.take(said(told) + shown(told) + shown(told, b'something else'))
    assert (tmp_path / f'cloud/pictures/left/2026-03-05/{told.id}.jpg').read_bytes() == JPEG


def test_store_that_was_killed_after_it_moved_a_picture_takes_the_event_again(store, tmp_path):
    told = with_picture(event())
    store.take(shown(told))
    (waiting,) = (tmp_path / 'cloud/waiting').rglob('*.jpg')
    place = tmp_path / f'cloud/pictures/left/2026-03-05/{told.id}.jpg'
    place.parent.mkdir(parents=True)
    waiting.replace(place)
    store.take(said(told))
    assert pictures(tmp_path / 'cloud') == [f'left/2026-03-05/{told.id}.jpg']


def test_batch_that_the_disk_refuses_is_not_stored_at_all(store, tmp_path):
    told = with_picture(event())
    (tmp_path / 'cloud/waiting').write_text('not a directory')
    with pytest.raises(Exception, match='stays with the broker'):
        store.take(said(event()) + shown(told))
    assert rows(tmp_path / 'cloud', 'SELECT count(*) FROM events') == [(0,)]


@pytest.mark.parametrize(
    'name', ['..', '.', '.hidden', '%2E', 'a b', 'c:\\x', 'x' * 300, 'ü' * 300, '~', 'a%2Fb', '\x7f', '-rf']
)
def test_hostile_names_stay_below_the_output_directory(store, tmp_path, name):
    told = replace(with_picture(event(device_id=name)), id=name)
    store.take([arrival(f'{name}/evidence/{name}', JPEG), arrival(f'{name}/events', told.to_json().encode())])
    files = {path for path in tmp_path.rglob('*') if path.is_file()}
    (picture,) = [path for path in files if path.suffix == '.jpg'] or [None]
    if topic_segment(name) == name:
        assert picture.relative_to(tmp_path / 'cloud/pictures').parts == (
            file_name(name), '2026-03-05', f'{file_name(name)}.jpg',
        )  # fmt: skip
    assert all(path.is_relative_to(tmp_path / 'cloud') for path in files)


def test_file_names_differ_where_the_names_do():
    names = ['.', '%2E', '..', '%2E.', 'a', 'A', 'a/b', 'a%2Fb', 'x' * 300, 'x' * 301, 'x' * 128, '']
    made = [file_name(name) for name in names[:-1]]
    assert len(set(made)) == len(made)
    assert all(name and len(name) <= 165 and '/' not in name and not name.startswith('.') for name in made)


def broken(**changes):
    envelope = json.loads(event().to_json())
    data = envelope['data']
    for name, value in changes.items():
        (envelope if name in envelope else data)[name] = value
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    ('topic', 'payload', 'reason'),
    [
        ('left/events', b'', 'not JSON'),
        ('left/events', b'\xff\xfe', "can't decode"),
        ('left/events', b'[' * 60_000, 'not JSON'),
        ('left/events', b'[]', 'expected a JSON object'),
        ('left/events', b'{"specversion": "1.0"}', 'event.type is None'),
        ('left/events', broken(stamp_ns=1 << 63), 'expected a whole number'),
        ('left/events', broken(id='a/b'), 'can be a level of a topic'),
        ('left/events', broken(id='\ud800'), 'surrogates not allowed'),
        ('left/events', broken(rule='\ud800'), 'surrogates not allowed'),
        ('right/events', broken(), "its source is the device 'left'"),
        ('left/events', b' ' * (MAX_EVENT_BYTES + 1), 'expected at most'),
        ('left/evidence/some', b'', 'has 0 bytes'),
        ('left/evidence/', JPEG, 'a picture of event'),
        ('left/available', b'ONLINE', 'expected b'),
        ('left/stats', b'\xff', "can't decode"),
        ('/events', b'{}', 'names no device'),
    ],
)  # fmt: skip
def test_malformed_message_is_set_aside_and_counted(store, tmp_path, topic, payload, reason):
    notes = store.take([arrival(topic, payload), *said(event())])
    ((kept_topic, kept_reason),) = rows(tmp_path / 'cloud', 'SELECT topic, reason FROM rejected')
    assert kept_topic == topic
    assert reason in kept_reason
    assert len(notes) == 1
    assert rows(tmp_path / 'cloud', 'SELECT sum(rejected) FROM traffic') == [(1,)]
    assert rows(tmp_path / 'cloud', 'SELECT count(*) FROM events') == [(1,)]


def test_only_the_newest_rejected_messages_are_kept(store, tmp_path):
    store.take([arrival('left/events', b'%d' % i) for i in range(REJECTED_KEPT + 5)])
    assert rows(tmp_path / 'cloud', 'SELECT count(*), max(payload) FROM rejected')[0][0] == REJECTED_KEPT


# Reporting


def test_database_of_a_newer_format_is_left_alone(tmp_path):
    with Store(tmp_path) as store:
        store.connection.execute('PRAGMA user_version = 2')
    with pytest.raises(ConfigurationError, match='has format 2, expected 1; use the edge_vision that wrote it'):
        Store(tmp_path).open()
    with pytest.raises(ConfigurationError, match='has format 2, expected 1'):
        open_for_reading(tmp_path)


def test_store_that_could_not_be_opened_keeps_nothing_to_itself(tmp_path):
    (tmp_path / 'events.db').write_bytes(b'no database' * 100)
    failed = Store(tmp_path)
    with pytest.raises(ConfigurationError, match='which cannot be used: file is not a database'):
        failed.open()
    failed.close()
    (tmp_path / 'events.db').unlink()
    with Store(tmp_path) as store:  # while the one that failed is still there
        store.take(said(event()))


def reported(store, now_ns=NOON_NS + 3600 * SECOND_NS):
    return daily(store.connection, DAY.date(), now_ns)


def test_report_of_a_known_day_is_exact(store):
    begun = [
        with_picture(event(NOON_NS + i * SECOND_NS, track_id=str(i), latency_ms={'capture_to_command': 10.0 + i}))
        for i in range(3)
    ]
    ends = [event(e.stamp_ns + (i + 1) * SECOND_NS, track_id=e.track_id, phase='end') for i, e in enumerate(begun[:2])]
    stray = event(NOON_NS, track_id='9', phase='end')
    flagged = event(NOON_NS, rule='dust', action='flag')
    wrong = shown(begun[2], b'something else')
    messages = [
        *shown(begun[0]), *said(begun[0], begun[0].stamp_ns + 5_000_000, copies=2),
        *shown(begun[1]), *shown(begun[1]), *said(begun[1], begun[1].stamp_ns + 7_000_000),
        *wrong, *said(begun[2], begun[2].stamp_ns + 9_000_000),
        *(message for told in [*ends, stray, flagged] for message in said(told, told.stamp_ns + 6_000_000)),
        arrival('left/events', b'{'),
    ]  # fmt: skip
    store.take(messages)
    (device,) = reported(store)['devices']
    defect, dust = device['rules']
    assert device['messages'] == len(messages)
    assert device['bytes'] == sum(message.size for message in messages)
    assert device['rejected'] == 1
    assert (defect['rule'], defect['events'], defect['stops'], defect['duplicates']) == ('defect', 6, 3, 1)
    assert defect['stopped_s'] == {'p50': 1.0, 'max': 2.0, 'sum': 3.0}
    assert defect['gaps'] == {'no_end': 1, 'no_beginning': 1}
    assert defect['evidence'] == {'received': 2, 'missing': 1, 'mismatched': 1}
    assert defect['capture_to_command_ms'] == {'p50': 11.0, 'p99': 12.0}
    assert defect['capture_to_arrival_ms'] == {'p50': 6.0, 'p99': 9.0}
    assert (dust['rule'], dust['events'], dust['stops'], dust['bytes']) == ('dust', 1, 0, said(flagged)[0].size)
    assert defect['bytes'] + dust['bytes'] + 1 + len('left/events') == device['bytes']


def test_stop_over_midnight_belongs_to_the_day_of_its_beginning(store):
    last_ns = int(DAY.timestamp() + 86_390) * 10**9
    store.take(said(event(last_ns)) + said(event(last_ns + 60 * SECOND_NS, phase='end')))
    (device,) = reported(store)['devices']
    assert device['rules'][0]['stopped_s']['sum'] == 60.0
    assert device['rules'][0]['gaps'] == {'no_end': 0, 'no_beginning': 0}


def test_lost_end_spoils_one_stop_and_not_those_that_follow(store):
    for at, phase in ((0, 'new'), (100, 'new'), (101, 'end'), (200, 'new'), (202, 'end')):
        store.take(said(event(NOON_NS + at * SECOND_NS, phase=phase)))
    (device,) = reported(store)['devices']
    assert device['rules'][0]['stopped_s'] == {'p50': 1.0, 'max': 2.0, 'sum': 3.0}
    assert device['rules'][0]['gaps'] == {'no_end': 1, 'no_beginning': 0}


def test_events_are_paired_whatever_the_order_in_which_they_come(store):
    begun, ended = event(NOON_NS), event(NOON_NS + 3 * SECOND_NS, phase='end')
    store.take(said(ended) + said(begun))
    (device,) = reported(store)['devices']
    assert device['rules'][0]['stopped_s']['sum'] == 3.0


def test_report_says_since_when_a_device_is_away_and_for_how_long_it_was(store):
    for at_s, state in ((-86_400, b'online'), (0, b'offline'), (30, b'online'), (40, b'online'), (3540, b'offline')):
        store.take([arrival('left/available', state, NOON_NS + at_s * SECOND_NS)])
    (device,) = reported(store)['devices']
    assert (device['online'], device['since']) == (False, '2026-03-05T12:59:00Z')
    assert device['offline'] == {'times': 2, 'sum_s': 90.0}


def test_report_counts_pictures_whose_event_never_came(store):
    told = with_picture(event())
    store.take(shown(told))
    (device,) = reported(store)['devices']
    assert device['pictures_without_event'] == 1


@pytest.mark.parametrize(
    ('stats', 'given_up'),
    [(b'{"events_dropped": 7}', 7), (b'{}', None), (b'[1]', None), (b'{', None), (b'{"events_dropped": "7"}', None)],
)
def test_report_tells_what_the_device_itself_gave_up(store, stats, given_up):
    store.take([arrival('left/stats', stats)])
    (device,) = reported(store)['devices']
    assert device['given_up'] == given_up


def test_table_shows_hostile_names_without_their_control_characters(store):
    store.take(said(event(device_id='le\u202eft', rule='\x1b[2J' + 'x' * 200)))
    text = table(reported(store))
    assert '\x1b' not in text
    assert '\u202e' not in text
    assert max(map(len, text.splitlines())) < 260


def test_report_of_a_day_without_anything_says_so(store):
    assert 'no device has said anything' in table(reported(store))


# The command, against a real broker


class Process:
    """``edge_vision cloud-sink`` as a process."""

    def __init__(self, port, output, *arguments):
        self.output = output
        self._command = [
            sys.executable,
            '-m',
            'edge_vision',
            'cloud-sink',
            '--port',
            str(port),
            '--output',
            str(output),
        ]
        self._command += arguments
        self._log = output.parent / f'{output.name}.log'

    def start(self):
        """Start it and wait until it has subscribed."""
        before = self.said().count('connected to broker')
        with self._log.open('ab') as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert wait_until(lambda: self.said().count('connected to broker') > before), self.said()

    def said(self):
        return self._log.read_text() if self._log.exists() else ''

    def kill(self):
        self._process.kill()
        self._process.communicate()

    def stop(self):
        """End it with SIGTERM; return what it reported."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=DEADLINE)
        assert self._process.returncode == 0, self.said()
        return output

    def count(self, query='SELECT count(*) FROM events'):
        return rows(self.output, query)[0][0]


@contextmanager
def sink(port, output, *arguments):
    process = Process(port, output, *arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def publisher(port, **options):
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    for name, value in options.items():
        getattr(client, name)(*value)
    client.connect('127.0.0.1', port)
    client.loop_start()

    def publish(*messages):
        sent = [client.publish(f'edge_vision/{topic}', payload, qos=1) for topic, payload, *_ in messages]
        for info in sent:
            info.wait_for_publish(DEADLINE)
            assert info.is_published()

    try:
        yield publish
    finally:
        client.disconnect()
        client.loop_stop()


def told_with_pictures(count, device='left'):
    events = [event(time.time_ns(), device_id=device, track_id=str(i)) for i in range(count)]
    return [with_picture(e, b'picture %d' % i) if i % 3 == 0 else e for i, e in enumerate(events)]


def test_every_event_and_picture_is_stored_once_however_often_the_sink_is_killed(tmp_path):
    (tmp_path / 'broker').mkdir()
    chance = random.Random(4)
    told = told_with_pictures(900)
    with (
        Mosquitto(tmp_path / 'broker', extra='max_queued_messages 0\nmax_inflight_messages 100') as broker,
        sink(broker.port, tmp_path / 'cloud') as process,
        publisher(broker.port) as publish,
    ):
        process.kill()  # the session stays with the broker

        def send():
            for i, one in enumerate(told):
                picture = shown(one, b'picture %d' % i) if one.evidence.sha256 else []
                publish(*picture, *said(one, copies=2 if i % 100 == 0 else 1))

        sending = threading.Thread(target=send)
        sending.start()
        for _ in range(8):
            process.start()
            time.sleep(chance.uniform(0.0, 0.15))
            process.kill()
        sending.join()
        process.start()
        assert wait_until(lambda: process.count() == 900 and process.count('SELECT sum(copies) FROM events') >= 909)
        report = process.stop()
    assert sorted(rows(tmp_path / 'cloud', 'SELECT id FROM events')) == sorted((one.id,) for one in told)
    filed = {path.stem: path.read_bytes() for path in (tmp_path / 'cloud/pictures').rglob('*.jpg')}
    assert filed == {one.id: b'picture %d' % i for i, one in enumerate(told) if i % 3 == 0}
    assert not list((tmp_path / 'cloud/waiting').rglob('*.jpg'))
    assert ' 900 ' in report


def test_what_comes_while_the_sink_is_away_is_kept_by_the_broker(mosquitto, tmp_path):
    told = told_with_pictures(20)
    with sink(mosquitto.port, tmp_path / 'cloud') as process, publisher(mosquitto.port) as publish:
        process.stop()
        publish(*(message for one in told for message in said(one)))
        process.start()
        assert wait_until(lambda: process.count() == 20)
        assert 'the session goes on' in process.said()


def test_nothing_is_acknowledged_before_it_is_on_disk(mosquitto, tmp_path):
    told = with_picture(event(time.time_ns()))
    with sink(mosquitto.port, tmp_path / 'cloud') as process, publisher(mosquitto.port) as publish:
        (tmp_path / 'cloud/waiting').write_text('not a directory')  # the disk refuses
        publish(*shown(told), *said(told))
        assert wait_until(lambda: 'stays with the broker' in process.said())
        (tmp_path / 'cloud/waiting').unlink()
        process.start()
        assert wait_until(lambda: process.count() == 1 and pictures(tmp_path / 'cloud'))


def test_sink_survives_a_broker_that_is_killed_and_comes_back(tmp_path):
    (tmp_path / 'broker').mkdir()
    with Mosquitto(tmp_path / 'broker') as broker, sink(broker.port, tmp_path / 'cloud') as process:
        broker.kill()
        assert wait_until(lambda: 'trying again' in process.said())
        broker.start()
        assert wait_until(lambda: process.said().count('connected to') == 2)
        with publisher(broker.port) as publish:
            publish(*said(event(time.time_ns())))
        assert wait_until(lambda: process.count() == 1)


def test_sink_survives_a_cable_that_is_pulled(mosquitto, tmp_path):
    link = Link(mosquitto.port)
    link.plug()
    with closing(link), sink(link.port, tmp_path / 'cloud') as process, publisher(mosquitto.port) as publish:
        link.pull()
        assert wait_until(lambda: 'trying again' in process.said())
        publish(*said(event(time.time_ns())))
        link.plug()
        assert wait_until(lambda: process.count() == 1)


def test_devices_are_marked_by_what_they_and_their_last_wills_say(mosquitto, tmp_path):
    with sink(mosquitto.port, tmp_path / 'cloud', '--json') as process:
        will = ('edge_vision/left/available', b'offline', 1, True)
        with suppress(Exception), publisher(mosquitto.port, will_set=will) as publish:
            publish(('left/available', b'online'))
            assert wait_until(lambda: process.count('SELECT max(online) FROM devices') == 1)
        with publisher(mosquitto.port) as publish:
            publish(('left/available', b'offline'))
        assert wait_until(lambda: process.count('SELECT max(online) FROM devices') == 0)
        (device,) = json.loads(process.stop())['devices']
    assert (device['device'], device['online'], device['offline']['times']) == ('left', False, 1)


def test_sink_publishes_nothing(mosquitto, tmp_path):
    with Consumer(mosquitto.port) as everything, sink(mosquitto.port, tmp_path / 'cloud') as process:
        told = with_picture(event(time.time_ns()))
        with publisher(mosquitto.port) as publish:
            publish(*shown(told), *said(told), ('left/available', b'online'))
        assert wait_until(lambda: process.count() == 1 and pictures(tmp_path / 'cloud'))
        process.stop()
        assert len(everything.wait(lambda messages: len(messages) >= 3)) == 3


def test_hostile_messages_from_the_wire_are_set_aside(mosquitto, tmp_path):
    with sink(mosquitto.port, tmp_path / 'cloud') as process, publisher(mosquitto.port) as publish:
        publish(('../events', b'{'), ('../evidence/..', JPEG), ('left/events', b'\xff'), *said(event(time.time_ns())))
        assert wait_until(lambda: process.count() == 1)
        assert process.count('SELECT count(*) FROM rejected') == 2
        process.stop()
    (picture,) = tmp_path.rglob('*.jpg')
    assert picture.is_relative_to(tmp_path / 'cloud/waiting/%2E.')


def test_messages_that_are_too_large_do_not_hold_up_the_others(mosquitto, tmp_path):
    with sink(mosquitto.port, tmp_path / 'cloud') as process, publisher(mosquitto.port) as publish:
        publish(('left/evidence/huge', bytes(17 * 1024 * 1024)), *said(event(time.time_ns())))
        assert wait_until(lambda: process.count() == 1)
    assert not list(tmp_path.rglob('*.jpg'))


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_report_of_a_date_needs_no_broker(store, tmp_path):
    store.take(said(event(), copies=2))
    result = run('--output', tmp_path / 'cloud', '--report', '2026-03-05')
    assert result.returncode == 0
    assert 'defect' in result.stdout
    parsed = json.loads(run('--output', tmp_path / 'cloud', '--report', '2026-03-05', '--json').stdout)
    assert parsed['devices'][0]['rules'][0]['duplicates'] == 1


@pytest.mark.parametrize(
    ('arguments', 'sentence'),
    [
        (['--port', '70000'], 'port is 70000, expected 1..65535'),
        (['--port', '1'], 'broker 127.0.0.1:1: it cannot be reached: Connection refused'),
        (['--host', 'user:secret@there'], '--host is no bare host name'),
        (['--prefix', 'edge_vision/#'], "--prefix is 'edge_vision/#', expected levels of a topic"),
        (['--client-id', ''], '--client-id is empty'),
        (['--tls-key', 'key.pem'], "--tls-key is 'key.pem' without --tls-cert"),
        (['--tls-ca', 'none.pem'], "cannot use --tls-ca 'none.pem'"),
        (['--credentials-file', 'none'], "--credentials-file is 'none', which cannot be read"),
        (['--output', '/proc/none'], "--output is '/proc/none', which cannot be used"),
        (['--output', '/proc', '--report', 'today'], "--output is '/proc', expected the directory of a cloud-sink"),
    ],
)  # fmt: skip
def test_unusable_argument_is_refused_in_one_line(tmp_path, arguments, sentence):
    result = run('--output', tmp_path / 'cloud', *arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f'edge_vision: error: {sentence}')
    assert result.stderr.count('\n') == 1
    assert 'secret' not in result.stderr


@pytest.mark.parametrize('arguments', [[], ['--output', 'x', '--report', 'monday']])
def test_unusable_command_line_is_refused_with_the_usage(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert 'usage: edge_vision cloud-sink' in result.stderr


def test_broker_that_refuses_the_password_is_named_and_the_password_is_not(tmp_path):
    (tmp_path / 'broker').mkdir()
    (tmp_path / 'credentials').write_text('sink\nwrong-secret\n')
    with Mosquitto(tmp_path / 'broker', users={'sink': 'right'}) as broker:
        arguments = [
            '--port',
            broker.port,
            '--output',
            tmp_path / 'cloud',
            '--credentials-file',
            tmp_path / 'credentials',
        ]
        result = run(*arguments)
    assert result.returncode == 1
    assert f'broker 127.0.0.1:{broker.port}: it refuses the connection: Not authorized' in result.stderr
    assert 'secret' not in result.stderr


@pytest.mark.usefixtures('store')
def test_second_sink_in_the_same_directory_is_refused(mosquitto, tmp_path):
    result = run('--port', mosquitto.port, '--output', tmp_path / 'cloud')
    assert result.returncode == 1
    assert 'which another cloud-sink uses' in result.stderr


def test_checksums_are_those_of_the_pictures(store, tmp_path):
    told = with_picture(event())
    store.take(shown(told) + said(told))
    (picture,) = (tmp_path / 'cloud/pictures').rglob('*.jpg')
    assert hashlib.sha256(picture.read_bytes()).hexdigest() == told.evidence.sha256
