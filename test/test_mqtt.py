import hashlib
import json
import random
import signal
import socket
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
    free_port,
    require_mosquitto,
    wait_until,
)

import edge_vision
from edge_vision.errors import ConfigurationError
from edge_vision.events import Event, Evidence, event_id
from edge_vision.mqtt import BrokerSettings, Sender, TlsSettings, Topics
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


def certificates(directory):
    """Make an authority, a server certificate for 'localhost' and a client certificate."""

    def openssl(*arguments):
        subprocess.run(['openssl', *arguments], check=True, capture_output=True, cwd=directory)

    openssl(
        'req',
        '-x509',
        '-newkey',
        'rsa:2048',
        '-nodes',
        '-keyout',
        'ca.key',
        '-out',
        'ca.pem',
        '-subj',
        '/CN=CA',
        '-days',
        '2',
    )
    for name in ('localhost', 'client'):
        openssl(
            'req',
            '-newkey',
            'rsa:2048',
            '-nodes',
            '-keyout',
            f'{name}.key',
            '-out',
            f'{name}.csr',
            '-subj',
            f'/CN={name}',
        )
        (directory / 'san').write_text(f'subjectAltName=DNS:{name}\n')
        openssl(
            'x509',
            '-req',
            '-in',
            f'{name}.csr',
            '-CA',
            'ca.pem',
            '-CAkey',
            'ca.key',
            '-CAcreateserial',
            '-out',
            f'{name}.pem',
            '-days',
            '2',
            '-extfile',
            'san',
        )


def test_tls_with_client_certificate_works_and_a_wrong_authority_is_refused(tmp_path, spool, make_sender):
    require_mosquitto()
    certificates(tmp_path)
    lines = (
        f'cafile {tmp_path}/ca.pem',
        f'certfile {tmp_path}/localhost.pem',
        f'keyfile {tmp_path}/localhost.key',
        'require_certificate true',
    )
    trusted = {'enabled': True, 'ca_file': f'{tmp_path}/ca.pem'}
    own = {'certificate_file': f'{tmp_path}/client.pem', 'key_file': f'{tmp_path}/client.key'}
    with Mosquitto(tmp_path, extra='\n'.join(lines)) as broker:
        sender = make_sender(broker.port, host='localhost', tls=TlsSettings(**trusted, **own))
        append(spool, 100, jpeg(side=128))
        assert wait_until(lambda: spool.depth == 0), sender.state
        sender.close()

        untrusting = make_sender(broker.port, host='localhost', tls=TlsSettings(enabled=True))
        assert wait_until(lambda: 'its certificate is not trusted' in untrusting.state.last_error)
        elsewhere = make_sender(broker.port, host='127.0.0.1', tls=TlsSettings(**trusted, **own))
        assert wait_until(lambda: 'its certificate is not trusted' in elsewhere.state.last_error)
        nameless = make_sender(broker.port, host='localhost', tls=TlsSettings(**trusted))
        assert wait_until(lambda: nameless.state.last_error)
        assert not nameless.state.connected


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        ({'host': ''}, 'no bare host name'),
        ({'host': 'mqtt://robot:secret@broker'}, 'no bare host name'),
        ({'port': 0}, 'port is 0, expected 1'),
        ({'keep_alive': 0}, 'keep_alive is 0'),
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
