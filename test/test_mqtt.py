import hashlib
import json
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mqtt_broker import (
    DEADLINE,
    Consumer,
    Link,
    Mosquitto,
    Peer,
    free_port,
    wait_until,
)

import edge_vision
from edge_vision.errors import ConfigurationError
from edge_vision.events import Event, Evidence, event_id
from edge_vision.mqtt import PASSWORD_VARIABLE, USERNAME_VARIABLE, BrokerSettings, Sender, TlsSettings, Topics
from edge_vision.spool import Spool

ROOT = Path(edge_vision.__file__).parents[1]
TOPICS = Topics('edge_vision', 'device')


def event(picture=None, **changes):
    identifier = event_id(time.time_ns())
    values = {'camera': 'camera', 'rule': 'rule', 'action': 'stop', 'phase': 'new', 'stamp_ns': time.time_ns()}
    made = Event(id=identifier, device_id='device', evidence=Evidence('crop'), **{**values, **changes})
    return made.with_picture(picture, TOPICS.evidence(identifier)) if picture else made


def jpeg(side=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return bytes(cv2.imencode('.jpg', pixels)[1])


@pytest.fixture
def spool(tmp_path):
    with Spool(tmp_path / 'spool') as opened:
        yield opened


@pytest.fixture
def make_sender(spool):
    senders = []

    def make(port, *, stats=None, stats_period=10.0, **settings):
        sender = Sender(spool, BrokerSettings(port=port, **settings), stats=stats, stats_period=stats_period)
        senders.append(sender)
        sender.start()
        return sender

    yield make
    for sender in senders:
        sender.close(0.2)


def append(spool, count, picture=None):
    events = [event(picture) for _ in range(count)]
    spool.append_many([(e, picture) for e in events])
    return [e.id for e in events]


def event_ids(consumer):
    return [json.loads(payload)['id'] for payload in consumer.payloads('events')]


def test_event_and_picture_arrive_and_leave_the_spool(mosquitto, spool, make_sender):
    picture = jpeg()
    with Consumer(mosquitto.port) as consumer:
        sender = make_sender(mosquitto.port)
        assert sender.wait_connected(DEADLINE)
        assert sender.state.protocol == '5'
        (identifier,) = append(spool, 1, picture)
        assert wait_until(lambda: spool.depth == 0)
        first, second, third = consumer.wait(lambda messages: len(messages) >= 3)
    assert (first.topic, first.payload) == ('edge_vision/device/available', b'online')
    assert (second.topic, second.payload) == (f'edge_vision/device/evidence/{identifier}', picture)
    assert third.topic == 'edge_vision/device/events'
    evidence = json.loads(third.payload)['data']['evidence']
    assert evidence['sha256'] == hashlib.sha256(second.payload).hexdigest()
    assert evidence['topic'] == second.topic
    assert sender.state.events_sent == 1
    assert sender.state.bytes_sent == sum(len(m.topic) + len(m.payload) for m in (first, second, third))
    assert (sender.state.last_error, sender.state.resent) == ('', 0)


def test_event_is_sent_as_soon_as_it_is_stored(mosquitto, spool, make_sender):
    with Consumer(mosquitto.port, '+/+/events') as consumer:
        assert make_sender(mosquitto.port).wait_connected(DEADLINE)
        delays = []
        for count in range(1, 21):
            stored = event()
            started = time.monotonic()
            spool.append(stored)
            while len(consumer.messages) < count:
                assert time.monotonic() - started < DEADLINE
                time.sleep(0.001)
            delays.append(time.monotonic() - started)
    assert sorted(delays)[10] < 0.1  # a look once a second would show


def test_events_stored_while_the_broker_is_down_arrive_once_and_in_order(tmp_path, spool, make_sender):
    broker = Mosquitto(tmp_path)
    link = Link(broker.port)
    sender = make_sender(link.port)
    stored = append(spool, 150, jpeg())
    assert wait_until(lambda: sender.state.last_error)
    with broker, Consumer(broker.port) as consumer:
        link.plug()
        assert wait_until(lambda: spool.depth == 0)
        consumer.wait(lambda _: len(event_ids(consumer)) >= 150)
        assert event_ids(consumer) == stored
        assert (sender.state.events_sent, sender.state.connects) == (150, 1)
    link.close()


def test_events_survive_a_broker_that_is_killed_again_and_again(tmp_path, spool, make_sender):
    picture = jpeg()
    with Mosquitto(tmp_path) as broker, Consumer(broker.port) as consumer:
        link = Link(broker.port)
        link.plug()
        sender = make_sender(link.port, max_events_per_second=500.0)
        stored = []
        for _ in range(3):
            stored += append(spool, 100, picture)
            sent = sender.state.events_sent
            assert wait_until(lambda sent=sent: sender.state.events_sent > sent + 20)
            broker.kill()
            link.pull()
            stored += append(spool, 20, picture)
            broker.start()
            consumer.wait_subscribed()
            link.plug()
        assert wait_until(lambda: spool.depth == 0)
        consumer.wait(lambda _: set(event_ids(consumer)) == set(stored))
        pictures = {m.topic.rpartition('/')[2]: m.payload for m in consumer.messages if '/evidence/' in m.topic}
        assert pictures == dict.fromkeys(stored, picture)
        assert sender.state.events_sent == len(stored)
        assert len(event_ids(consumer)) - len(stored) <= sender.state.resent <= 3 * 64
        link.close()


SENDER = """
import sys, time
import cv2, numpy
from edge_vision.events import Event, Evidence, event_id
from edge_vision.mqtt import BrokerSettings, Sender, Topics
from edge_vision.spool import Spool
directory, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
topics = Topics('edge_vision', 'device')
with Spool(directory) as spool:
    sender = Sender(spool, BrokerSettings(port=port, client_id='device'))
    sender.start()
    for n in range(count):
        name = event_id(time.time_ns())
        picture = bytes(cv2.imencode('.jpg', numpy.full((16, 16, 3), n % 256, numpy.uint8))[1])
        event = Event(name, 'camera', 'rule', 'stop', 'new', time.time_ns(), 'device', evidence=Evidence('crop'))
        spool.append(event.with_picture(picture, topics.evidence(name)), picture)
        print(name, flush=True)
    while spool.depth:
        time.sleep(0.01)
    sender.close()
"""


def run_sender(directory, port, count):
    command = [sys.executable, '-c', SENDER, str(directory), str(port), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_events_survive_a_sender_that_is_killed_again_and_again(tmp_path, mosquitto):
    chance = random.Random(3)
    stored = []
    with Consumer(mosquitto.port) as consumer:
        for _ in range(4):
            child = run_sender(tmp_path / 'spool', mosquitto.port, 10_000)
            for _ in range(chance.randrange(20, 120)):
                stored += child.stdout.readline().split()
            child.send_signal(signal.SIGKILL)
            stored += child.communicate()[0].split()
        last = run_sender(tmp_path / 'spool', mosquitto.port, 1)
        stored += last.communicate(timeout=DEADLINE)[0].split()
        consumer.wait(lambda _: set(event_ids(consumer)) >= set(stored))
        assert consumer.payloads('available')[-1] == b'offline'
        events = [json.loads(payload) for payload in consumer.payloads('events')]
        pictures = {m.topic: m.payload for m in consumer.messages if '/evidence/' in m.topic}
    evidence = {e['id']: e['data']['evidence'] for e in events}
    assert len(set(evidence) - set(stored)) <= 4  # stored, and killed before it could say so
    assert len(events) - len(evidence) <= 4 * 64  # sent again: at most what was in flight
    for one in evidence.values():
        assert hashlib.sha256(pictures[one['topic']]).hexdigest() == one['sha256']


def test_availability_tells_online_and_offline(mosquitto, make_sender):
    with Consumer(mosquitto.port, '#') as consumer:
        sender = make_sender(mosquitto.port)
        consumer.wait(lambda _: consumer.payloads('available') == [b'online'])
        assert sender.close(2.0)
        consumer.wait(lambda _: consumer.payloads('available') == [b'online', b'offline'])
    with Consumer(mosquitto.port) as late:
        (message,) = late.wait(len)
        assert (message.payload, message.retain) == (b'offline', True)


def test_broker_says_offline_when_the_process_is_killed(tmp_path, mosquitto):
    with Consumer(mosquitto.port, '+/+/available') as consumer:
        child = run_sender(tmp_path / 'spool', mosquitto.port, 10_000)
        consumer.wait(lambda messages: messages)
        child.kill()
        child.communicate()
        consumer.wait(lambda messages: [m.payload for m in messages] == [b'online', b'offline'])


def test_close_sends_what_is_left(mosquitto, spool, make_sender):
    with Consumer(mosquitto.port, '+/+/events') as consumer:
        sender = make_sender(mosquitto.port)
        stored = append(spool, 300)
        assert sender.close(DEADLINE)
        consumer.wait(lambda messages: len(messages) == 300)
        assert event_ids(consumer) == stored


def test_close_gives_up_when_the_time_is_over(mosquitto, spool, make_sender):
    sender = make_sender(mosquitto.port, max_events_per_second=5.0)
    append(spool, 100)
    assert sender.wait_connected(DEADLINE)
    started = time.monotonic()
    assert not sender.close(0.3)
    assert time.monotonic() - started < 2.0
    assert 0 < spool.depth < 100


def test_close_does_not_wait_for_an_absent_broker(spool, make_sender):
    sender = make_sender(free_port())
    append(spool, 1)
    assert wait_until(lambda: sender.state.last_error)
    started = time.monotonic()
    assert not sender.close(10.0)
    assert time.monotonic() - started < 2.0


def test_appending_never_waits_for_a_broker_that_hangs(mosquitto, spool, make_sender):
    sender = make_sender(mosquitto.port)
    assert sender.wait_connected(DEADLINE)
    mosquitto.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    append(spool, 300, jpeg(side=128))
    assert time.monotonic() - started < 5.0
    assert wait_until(lambda: sender.state.in_flight > 0)
    assert sender.state.in_flight <= 64
    mosquitto.send_signal(signal.SIGCONT)
    assert wait_until(lambda: spool.depth == 0)


def test_wrong_password_is_told_from_an_absent_broker(tmp_path, spool, make_sender):
    credentials = tmp_path / 'credentials'
    credentials.write_text('robot\nwrong-secret\n')
    with Mosquitto(tmp_path, users={'robot': 'right-secret'}) as broker:
        refused = make_sender(broker.port, credentials_file=str(credentials))
        assert wait_until(lambda: 'not authorised' in refused.state.last_error), refused.state
        assert 'credentials_file' in refused.state.last_error
        assert not refused.state.connected

        credentials.write_text('robot\nright-secret\n')  # read again for each connection
        assert refused.wait_connected(DEADLINE)
        append(spool, 1)
        assert wait_until(lambda: spool.depth == 0)
        assert refused.state.last_error == ''
    absent = make_sender(free_port())
    assert wait_until(lambda: 'unreachable: nothing listens there' in absent.state.last_error)


def test_credentials_may_come_from_the_environment(tmp_path, monkeypatch, make_sender):
    monkeypatch.setenv(USERNAME_VARIABLE, 'robot')
    monkeypatch.setenv(PASSWORD_VARIABLE, 'right-secret')
    with Mosquitto(tmp_path, users={'robot': 'right-secret'}) as broker:
        assert make_sender(broker.port).wait_connected(DEADLINE)
    (tmp_path / 'credentials').write_text('other\n')
    assert BrokerSettings(credentials_file=str(tmp_path / 'credentials')).credentials() == ('other', None)
    monkeypatch.delenv(USERNAME_VARIABLE)
    with pytest.raises(ConfigurationError, match=f'{USERNAME_VARIABLE} is not') as caught:
        BrokerSettings()
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize(
    ('code', 'when', 'reason'),
    [
        (0x86, 'at once', 'refuses the connection: bad user name or password; check client.credentials_file'),
        (0x87, 'at once', 'refuses the connection: not authorised'),
        (0x88, 'at once', 'refuses the connection: server unavailable'),
        (0x89, 'at once', 'refuses the connection: server busy'),
        (0x8A, 'at once', 'refuses the connection: this client is banned'),
        (0x97, 'at once', 'refuses the connection: quota exceeded'),
        (0x9F, 'at once', 'refuses the connection: connection rate exceeded'),
        (0x87, 'later', 'ends the connection: not authorised'),
        (0x89, 'later', 'ends the connection: server busy'),
        (0x96, 'later', 'ends the connection: message rate too high'),
        (0x97, 'later', 'ends the connection: quota exceeded'),
    ],
)
def test_broker_that_refuses_is_told_by_its_reason_and_tried_again(spool, make_sender, code, when, reason):
    with Peer(lambda *_: -code, greeting=code if when == 'at once' else 0) as peer:
        sender = make_sender(peer.port)
        append(spool, 2)
        assert wait_until(lambda: reason in sender.state.last_error), sender.state
        peer.greeting, peer.answer = 0, lambda *_: 0
        assert wait_until(lambda: spool.depth == 0)
        assert wait_until(lambda: sender.state.last_error == '')
    assert sender.state.protocol == '5'


def test_broker_without_room_for_one_more_is_tried_again(tmp_path, make_sender):
    with Mosquitto(tmp_path, extra='max_connections 1') as broker:
        # Some versions let in one more than they are told to.
        with Consumer(broker.port), socket.create_connection(('127.0.0.1', broker.port)):
            sender = make_sender(broker.port)
            assert wait_until(lambda: 'may have no room for one more' in sender.state.last_error), sender.state
        assert sender.wait_connected(DEADLINE)


def test_event_over_the_quota_stays_in_the_spool_until_it_is_taken(spool, make_sender):
    with Peer(lambda topic, _: 0x97 if topic.endswith('events') else 0) as peer:
        sender = make_sender(peer.port)
        stored = append(spool, 3)
        assert wait_until(lambda: 'it refuses a message: quota exceeded' in sender.state.last_error), sender.state
        assert spool.depth == 3
        peer.answer = lambda *_: 0
        assert [json.loads(payload)['id'] for payload in peer.wait_taken(3)] == stored
        assert wait_until(lambda: spool.depth == 0 and sender.state.last_error == '')


def refusing_pictures(answer, largest=0):
    return lambda topic, payload: answer if '/evidence/' in topic and len(payload) > largest else 0


@pytest.mark.parametrize('answer', [0x95, -0x95, None], ids=['odd answer', 'disconnected', 'hung up'])
def test_picture_too_large_for_the_broker_is_made_smaller(spool, make_sender, answer):
    picture = jpeg(side=200)
    assert len(picture) > 30_000
    with Peer(refusing_pictures(answer, largest=30_000)) as peer:
        sender = make_sender(peer.port)
        append(spool, 3, picture)
        events = [json.loads(payload)['data']['evidence'] for payload in peer.wait_taken(3)]
        pictures = peer.wait_taken(3, 'evidence')
        assert wait_until(lambda: spool.depth == 0)
        refused = len([m for m in peer.tried if len(m.payload) > 30_000])
    assert [e['sha256'] for e in events] == [hashlib.sha256(p).hexdigest() for p in pictures]
    assert max(len(p) for p in pictures) <= 30_000
    assert refused == (3 if answer is None else 1)  # learnt once
    assert sender.state.pictures_refused == 1
    assert sender.state.connects == {0x95: 2, -0x95: 2, None: 4}[answer]


@pytest.mark.parametrize(
    ('code', 'reason'), [(0x95, 'could not be made to fit'), (0x99, 'refused it: payload format invalid')]
)
def test_event_goes_without_the_picture_that_the_broker_never_takes(spool, make_sender, code, reason):
    with Peer(refusing_pictures(code)) as peer:
        sender = make_sender(peer.port)
        append(spool, 2, jpeg(side=64))
        for payload in peer.wait_taken(2):
            evidence = json.loads(payload)['data']['evidence']
            assert evidence['kind'] == 'none'
            assert reason in evidence['reason']
        assert wait_until(lambda: spool.depth == 0)
        assert sender.state.pictures_refused > 0


def test_picture_refused_for_now_stays_as_it_is(spool, make_sender):
    picture = jpeg(side=64)
    with Peer(refusing_pictures(0x97)) as peer:
        sender = make_sender(peer.port)
        append(spool, 2, picture)
        assert wait_until(lambda: 'quota exceeded' in sender.state.last_error), sender.state
        assert not peer.payloads('events')
        peer.answer = lambda *_: 0
        assert peer.wait_taken(2, 'evidence') == [picture, picture]
        assert wait_until(lambda: spool.depth == 0)


def test_event_that_the_broker_never_takes_holds_up_no_other(spool, make_sender):
    events = [event() for _ in range(20)]
    bad = events[5].id
    with Peer(lambda _, payload: 0x99 if bad.encode() in payload else 0) as peer:
        sender = make_sender(peer.port)
        spool.append_many([(each, None) for each in events])
        taken = [json.loads(payload)['id'] for payload in peer.wait_taken(19)]
        assert taken == [each.id for each in events if each.id != bad]
        assert wait_until(lambda: spool.depth == 1)
        assert 'it refuses an event: payload format invalid; it waits' in sender.state.last_error
        assert (sender.state.held_back, sender.state.connects) == (1, 1)
        assert len([m for m in peer.tried if bad.encode() in m.payload]) == 1  # not again and again


def test_size_limit_of_a_real_broker_is_found_out(tmp_path, spool, make_sender):
    with Mosquitto(tmp_path, extra='message_size_limit 9000') as broker, Consumer(broker.port) as consumer:
        sender = make_sender(broker.port)
        append(spool, 2, jpeg(side=200))
        consumer.wait(lambda _: len(consumer.payloads('events')) == 2)
        pictures = consumer.payloads('evidence')
        assert max(len(payload) for payload in pictures) <= 9000
        told = [json.loads(payload)['data']['evidence']['sha256'] for payload in consumer.payloads('events')]
        assert told == [hashlib.sha256(payload).hexdigest() for payload in pictures]
        assert sender.state.connects <= 4  # one for each step, and not one for each picture


def test_event_too_large_for_a_real_broker_waits_and_is_told(tmp_path, spool, make_sender):
    with Mosquitto(tmp_path, extra='max_packet_size 300') as broker:
        sender = make_sender(broker.port)
        append(spool, 2, jpeg())
        assert wait_until(lambda: sender.state.held_back == 2), sender.state
        assert 'it refuses an event: the event is larger than the broker takes' in sender.state.last_error
        assert (spool.depth, sender.state.connects) == (2, 1)


def test_event_above_the_size_limit_of_mosquitto_waits_alone_until_that_is_raised(tmp_path, spool, make_sender):
    events = [event(reason='x' * 6000 if n in {5, 12} else '') for n in range(20)]
    large = [events[5].id, events[12].id]
    spool.append_many([(each, None) for each in events])
    broker = Mosquitto(tmp_path, extra='message_size_limit 5000')
    with broker, Consumer(broker.port) as consumer:
        sender = make_sender(broker.port)
        assert wait_until(lambda: sender.state.events_sent == 18), sender.state
        assert event_ids(consumer) == [each.id for each in events if each.id not in large]
        assert wait_until(lambda: sender.state.held_back == spool.depth == 2), sender.state
        assert 'larger than the broker takes; raise its message_size_limit' in sender.state.last_error
        assert sender.state.connects == 2  # learnt once, and not once for each
        (later,) = append(spool, 1)
        assert wait_until(lambda: sender.state.events_sent == 19)

        broker.stop()
        config = tmp_path / 'mosquitto.conf'
        config.write_text(config.read_text().replace('message_size_limit 5000', ''))
        broker.start()
        consumer.wait_subscribed()
        assert wait_until(lambda: spool.depth == 0), sender.state
        assert sorted(event_ids(consumer)) == sorted([each.id for each in events] + [later])


@pytest.mark.parametrize(('answer', 'connects'), [(-0x95, 2), (None, 4)], ids=['disconnected', 'hung up'])
def test_event_that_costs_the_connection_by_its_size_is_found_out(spool, make_sender, answer, connects):
    events = [event(reason='x' * 6000 if n == 5 else '') for n in range(20)]
    with Peer(lambda _, payload: answer if len(payload) > 5000 else 0) as peer:
        sender = make_sender(peer.port)
        spool.append_many([(each, None) for each in events])
        taken = [json.loads(payload)['id'] for payload in peer.wait_taken(19)]
        assert taken == [each.id for each in events if each is not events[5]]
        assert wait_until(lambda: sender.state.held_back == spool.depth == 1), sender.state
        assert sender.state.connects == connects


def test_events_that_are_refused_without_a_word_are_not_called_too_large(spool, make_sender):
    with Peer() as peer:
        sender = make_sender(peer.port)
        first = event(reason='larger than those that follow')
        spool.append(first)
        peer.wait_taken(1)
        peer.answer = lambda topic, _: None if topic.endswith('events') else 0
        stored = append(spool, 2)
        assert wait_until(lambda: sender.state.connects > 4), sender.state
        assert sender.state.held_back == 0
        peer.answer = lambda *_: 0
        assert [json.loads(payload)['id'] for payload in peer.wait_taken(3)] == [first.id, *stored]


def test_picture_of_an_event_that_is_too_large_is_not_sent(tmp_path, spool, make_sender):
    with Mosquitto(tmp_path, extra='max_packet_size 5000') as broker, Consumer(broker.port) as consumer:
        sender = make_sender(broker.port)
        spool.append(event(jpeg(), reason='x' * 6000), jpeg())
        assert wait_until(lambda: sender.state.held_back == 1), sender.state
        append(spool, 1)
        assert wait_until(lambda: spool.depth == 1)
        assert not consumer.payloads('evidence')


def test_newest_stops_go_first_after_an_outage_if_so_wanted(tmp_path, spool, make_sender):
    kinds = [('stop', 'new'), ('flag', 'new'), ('stop', 'end'), ('alarm', 'new')]
    events = [event(action=action, phase=phase) for _ in range(200) for action, phase in kinds]
    spool.append_many([(each, None) for each in events])
    broker = Mosquitto(tmp_path)
    link = Link(broker.port)
    with broker, Consumer(broker.port) as consumer:
        make_sender(link.port, order='stops_first')
        link.plug()
        consumer.wait(lambda _: len(event_ids(consumer)) == len(events))
    link.close()
    stops = [each.id for each in reversed(events) if (each.action, each.phase) == ('stop', 'new')]
    others = [each.id for each in events if (each.action, each.phase) != ('stop', 'new')]
    assert event_ids(consumer) == stops + others


def test_new_stop_overtakes_what_waits(mosquitto, spool, make_sender):
    with Consumer(mosquitto.port) as consumer:
        make_sender(mosquitto.port, order='stops_first', max_events_per_second=100.0)
        spool.append_many([(event(action='flag'), None) for _ in range(400)])
        consumer.wait(lambda _: len(event_ids(consumer)) > 110)
        (stop,) = append(spool, 1)
        consumer.wait(lambda _: stop in event_ids(consumer))
        assert event_ids(consumer).index(stop) < 350


def test_message_that_the_broker_does_not_allow_stays_in_the_spool(tmp_path, spool, make_sender):
    access = tmp_path / 'access'
    access.write_text('topic readwrite other/#\ntopic write edge_vision/device/available\n')
    access.chmod(0o600)
    with Mosquitto(tmp_path, extra=f'acl_file {access}') as broker:
        sender = make_sender(broker.port)
        append(spool, 3)
        assert wait_until(lambda: 'it refuses a message: not authorised' in sender.state.last_error), sender.state
        assert spool.depth == 3
        access.write_text('topic readwrite #\n')
        broker.send_signal(signal.SIGHUP)
        assert wait_until(lambda: spool.depth == 0)
        assert wait_until(lambda: sender.state.last_error == '')


def test_broker_of_mqtt_3_1_1_is_spoken_to_in_its_version(spool, make_sender):
    command = [sys.executable, '-m', 'edge_vision.demo.broker', '--port', '0']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as broker:
        port = int(broker.stdout.readline().rpartition(':')[2])
        with Consumer(port) as consumer:
            started = time.monotonic()
            sender = make_sender(port)
            assert sender.wait_connected(DEADLINE)
            assert time.monotonic() - started < 2.0
            assert sender.state.protocol == '3.1.1'
            stored = append(spool, 50, jpeg())
            assert wait_until(lambda: spool.depth == 0)
            consumer.wait(lambda _: event_ids(consumer) == stored)
            sender.close()
            consumer.wait(lambda _: consumer.payloads('available') == [b'online', b'offline'])
        broker.terminate()


def answering(reply):
    """Start a server that answers each connection with a few bytes and hangs up, or stays silent."""
    listener = socket.create_server(('127.0.0.1', 0))

    def serve():
        while True:
            connection = listener.accept()[0]
            connection.recv(1024)
            connection.sendall(reply)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


@pytest.mark.parametrize(
    ('reply', 'reason'),
    [
        (b'\x20\x02\x00\x01', 'does not answer as a broker of MQTT 3.1.1'),
        (b'\x20\x02\x00\x04', 'bad user name or password'),
        (b'\x20\x02\x00\x03', 'server unavailable'),
        (b'HTTP/1.1 400 Bad Request\r\n\r\n', 'does not answer as a broker'),
        (b'', 'does not answer as a broker'),
    ],
    ids=['version', 'password', 'unavailable', 'web server', 'silence'],
)
def test_refusals_are_told_apart(make_sender, reply, reason):
    sender = make_sender(answering(reply))
    assert wait_until(lambda: reason in sender.state.last_error), sender.state.last_error
    assert sender.state.connects == 0


def test_too_large_picture_is_made_smaller_and_the_event_tells_the_truth(mosquitto, spool, make_sender):
    picture = jpeg(side=200)
    assert len(picture) > 10_000
    with Consumer(mosquitto.port) as consumer:
        make_sender(mosquitto.port, max_payload_bytes=10_000)
        append(spool, 1, picture)
        consumer.wait(lambda _: consumer.payloads('events'))
        (sent,) = consumer.payloads('evidence')
        (stored,) = consumer.payloads('events')
    evidence = json.loads(stored)['data']['evidence']
    assert len(sent) <= 10_000
    assert cv2.imdecode(np.frombuffer(sent, np.uint8), cv2.IMREAD_COLOR) is not None
    assert (evidence['bytes'], evidence['sha256']) == (len(sent), hashlib.sha256(sent).hexdigest())


def test_limit_that_the_broker_sets_on_packets_is_kept(tmp_path, spool, make_sender):
    with Mosquitto(tmp_path, extra='max_packet_size 8000') as broker, Consumer(broker.port) as consumer:
        sender = make_sender(broker.port)
        append(spool, 2, jpeg(side=200))
        consumer.wait(lambda _: len(consumer.payloads('events')) == 2)
        assert max(len(payload) for payload in consumer.payloads('evidence')) <= 8000
        assert sender.state.connects == 1


def test_rate_limits_are_kept(mosquitto, spool, make_sender):
    with Consumer(mosquitto.port, '+/+/events') as consumer:
        make_sender(mosquitto.port, max_events_per_second=40.0)
        started = time.monotonic()
        append(spool, 80)
        consumer.wait(lambda messages: len(messages) == 80)
        assert 0.8 < time.monotonic() - started < 8.0


def test_bytes_per_second_are_kept(mosquitto, spool, make_sender):
    picture = jpeg(side=128)
    with Consumer(mosquitto.port, '+/+/events') as consumer:
        make_sender(mosquitto.port, max_bytes_per_second=4.0 * len(picture))
        started = time.monotonic()
        append(spool, 8, picture)
        consumer.wait(lambda messages: len(messages) == 8)
        assert time.monotonic() - started > 0.8


@pytest.mark.parametrize('in_flight', [1, 2])
def test_smallest_window_still_delivers(mosquitto, spool, make_sender, in_flight):
    with Consumer(mosquitto.port) as consumer:
        make_sender(mosquitto.port, max_in_flight=in_flight)
        stored = append(spool, 20, jpeg())
        assert wait_until(lambda: spool.depth == 0)
        consumer.wait(lambda _: event_ids(consumer) == stored)


def test_stats_are_published(mosquitto, make_sender):
    with Consumer(mosquitto.port) as consumer:
        make_sender(mosquitto.port, stats=lambda: {'events': 7}, stats_period=0.05)
        consumer.wait(lambda _: len(consumer.payloads('stats')) >= 2)
        assert json.loads(consumer.payloads('stats')[0]) == {'events': 7}


def test_broken_stats_do_not_hold_up_events(mosquitto, spool, make_sender):
    sender = make_sender(mosquitto.port, stats=lambda: {}['missing'], stats_period=0.01)
    assert wait_until(lambda: 'no statistics' in sender.state.last_error)
    append(spool, 10)
    assert wait_until(lambda: spool.depth == 0)
    assert sender.state.connects == 1


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
    """Make two authorities, and certificates of the first: for servers and clients, good and bad ones."""
    directory = tmp_path_factory.mktemp('certificates')

    def openssl(*arguments):
        subprocess.run(['openssl', *arguments], check=True, capture_output=True, cwd=directory)

    def new(name, common_name, *arguments):
        key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', f'{name}.key']
        openssl('req', *key, '-subj', f'/CN={common_name}', *arguments)

    for authority in ('ca', 'other_ca'):
        new(authority, authority, '-x509', '-out', f'{authority}.pem', '-days', '2')
    for name, host, days in (
        ('server', 'localhost', 2),
        ('expired', 'localhost', -1),
        ('elsewhere', 'broker.example', 2),
        ('client', 'robot', 2),
        ('expired_client', 'robot', -1),
    ):
        new(name, host, '-out', f'{name}.csr')
        (directory / 'san').write_text(f'subjectAltName=DNS:{host}\n')
        signer = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial']
        end = ['-days', str(days), '-extfile', 'san']
        openssl('x509', '-req', '-in', f'{name}.csr', *signer, *end, '-out', f'{name}.pem')
    return directory


def server_with(certificates, name, *more):
    files = ('cafile ca.pem', f'certfile {name}.pem', f'keyfile {name}.key')
    return '\n'.join([line.replace(' ', f' {certificates}/') for line in files] + list(more))


def trusting(certificates, authority='ca', client=''):
    own = {'certificate_file': f'{certificates}/{client}.pem', 'key_file': f'{certificates}/{client}.key'}
    return TlsSettings(enabled=True, ca_file=f'{certificates}/{authority}.pem', **(own if client else {}))


def test_tls_works_with_the_right_authority(tmp_path, certificates, spool, make_sender):
    with Mosquitto(tmp_path, extra=server_with(certificates, 'server')) as broker:
        make_sender(broker.port, host='localhost', tls=trusting(certificates))
        append(spool, 100, jpeg(side=128))
        assert wait_until(lambda: spool.depth == 0)


@pytest.mark.parametrize(
    ('server', 'host', 'tls', 'reason'),
    [
        ('server', 'localhost', {'authority': 'other_ca'}, 'not trusted: .*; check broker.tls.ca_certificate'),
        ('expired', 'localhost', {}, "not trusted: certificate has expired; check it and this machine's clock"),
        ('elsewhere', 'localhost', {}, 'not trusted: Hostname mismatch.*; set broker.host to a name that is in it'),
        ('server', '127.0.0.1', {}, 'not trusted: IP address mismatch.*; set broker.host to a name that is in it'),
    ],
    ids=['another authority', 'expired', 'another host', 'an address'],
)
def test_broker_that_cannot_be_trusted_gets_nothing(
    tmp_path, certificates, spool, make_sender, server, host, tls, reason
):
    with Mosquitto(tmp_path, extra=server_with(certificates, server)) as broker:
        append(spool, 1)
        sender = make_sender(broker.port, host=host, tls=trusting(certificates, **tls))
        assert wait_until(lambda: re.search(reason, sender.state.last_error)), sender.state
    assert (sender.state.connects, sender.state.bytes_sent, spool.depth) == (0, 0, 1)


AT_ONCE = 'closes the connection; .* or refuse this client'  # when its alert is not read before the connection is reset


@pytest.mark.parametrize(
    ('client', 'alert'),
    [('', 'certificate required'), ('expired_client', 'certificate expired')],
    ids=['no certificate', 'expired'],
)
def test_broker_that_wants_a_certificate_of_the_client(tmp_path, certificates, spool, make_sender, client, alert):
    reason = f'(TLS: it refuses this client: .*{alert}|{AT_ONCE}); check broker.tls.client_certificate'
    extra = server_with(certificates, 'server', 'require_certificate true')
    with Mosquitto(tmp_path, extra=extra) as broker:
        append(spool, 10, jpeg())
        refused = make_sender(broker.port, host='localhost', tls=trusting(certificates, client=client))
        assert wait_until(lambda: re.search(reason, refused.state.last_error)), refused.state
        assert (refused.state.connects, spool.depth) == (0, 10)
        refused.close(0.2)
        make_sender(broker.port, host='localhost', tls=trusting(certificates, client='client'))
        assert wait_until(lambda: spool.depth == 0)


def test_broker_whose_reason_is_lost_with_the_connection(certificates, make_sender):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f'{certificates}/server.pem', f'{certificates}/server.key')
    listener = socket.create_server(('127.0.0.1', 0))

    def serve():
        while True:
            connection = context.wrap_socket(listener.accept()[0], server_side=True)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    sender = make_sender(listener.getsockname()[1], host='localhost', tls=trusting(certificates))
    reason = f'{AT_ONCE}; check broker.tls.client_certificate'
    assert wait_until(lambda: re.search(reason, sender.state.last_error)), sender.state


def test_broker_that_wants_tls_is_told_from_an_absent_one(tmp_path, certificates, make_sender):
    with Mosquitto(tmp_path, extra=server_with(certificates, 'server')) as broker:
        sender = make_sender(broker.port)
        assert wait_until(lambda: 'or want TLS' in sender.state.last_error), sender.state
    other = make_sender(answering(b'hello'), host='localhost', tls=trusting(certificates))
    assert wait_until(lambda: 'TLS fails' in other.state.last_error), other.state


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        ({'host': ''}, 'no bare host name'),
        ({'host': 'mqtt://robot:secret@broker'}, 'no bare host name'),
        ({'port': 0}, 'port is 0, expected 1'),
        ({'keep_alive': 0}, 'keep_alive is 0'),
        ({'order': 'newest_first'}, "delivery.order is 'newest_first', expected one of"),
        ({'protocol': '4'}, "protocol is '4', expected one of"),
        ({'max_events_per_second': -1.0}, 'max_events_per_second'),
        ({'max_in_flight': 0}, 'max_in_flight is 0'),
        ({'max_payload_bytes': 10}, 'max_payload_bytes is 10'),
        ({'credentials_file': '/missing'}, "credentials_file is '/missing', which cannot be read: No such file"),
        ({'credentials_file': '/dev/null'}, 'expected the user name in its first line'),
        ({'host': 'broker.example', 'tls': TlsSettings(enabled=False)}, 'in the clear; switch broker.tls on'),
        ({'host': 'broker.example', 'tls': TlsSettings(ca_file='/missing')}, 'expected readable PEM files'),
    ],
)
def test_bad_setting_is_refused_with_the_way_out(settings, reason):
    with pytest.raises(ConfigurationError, match=reason) as caught:
        BrokerSettings(**settings)
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize(
    ('settings', 'tls'),
    [
        ({}, False),
        ({'host': 'localhost'}, False),
        ({'host': '::1'}, False),
        ({'host': 'broker.example'}, True),
        ({'host': '192.168.1.5'}, True),
        ({'tls': TlsSettings(enabled=True)}, True),
        ({'host': 'broker.example', 'tls': TlsSettings(enabled=False), 'allow_insecure': True}, False),
    ],
)
def test_tls_is_on_unless_the_broker_is_on_this_machine(settings, tls):
    assert BrokerSettings(**settings).uses_tls is tls


def test_secrets_are_in_no_repr(tmp_path):
    (tmp_path / 'credentials').write_text('robot\nhunter2\n')
    settings = BrokerSettings(credentials_file=str(tmp_path / 'credentials'))
    assert settings.credentials() == ('robot', 'hunter2')
    assert 'hunter2' not in repr(settings)


def test_topics_are_safe_for_any_name():
    topics = Topics('/factory/hall+2/', 'a/b#')
    assert topics.events == 'factory/hall_2/a_b_/events'
    assert topics.evidence('x/y') == 'factory/hall_2/a_b_/evidence/x_y'
