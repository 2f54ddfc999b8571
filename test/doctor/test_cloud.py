import dataclasses
import socket
import threading

import paho.mqtt.client as paho
import pytest
from mqtt_broker import Consumer, Mosquitto, Peer, free_port

from edge_vision.doctor import broker, cloud, programs
from edge_vision.mqtt import settings_of
from edge_vision.params import BridgeParams


def bridge(port, **values):
    return BridgeParams(broker_port=port, **values)


def judged(params, *, needed=True):
    given = {'broker.host': params.broker_host, 'broker.port': params.broker_port}
    given['client.credentials_file'] = params.credentials_file
    return cloud.broker(programs.child('broker', given), params, '', needed=needed)


def test_a_broker_that_is_there_is_told_with_its_protocol(mosquitto):
    finding = judged(bridge(mosquitto.port))
    assert finding.status == 'ok'
    assert finding.found == f'127.0.0.1:{mosquitto.port} accepts this client, MQTT 5, no TLS'


def test_the_visit_leaves_no_trace_at_the_broker(mosquitto):
    with Consumer(mosquitto.port) as consumer:
        assert broker.knock(broker.settings(bridge(mosquitto.port, device_id='d'))) == '5'
        with Consumer(mosquitto.port, 'mark') as marker:
            marker._client.publish('mark', b'', qos=1)
            marker.wait(lambda messages: messages)
        consumer.wait(lambda messages: any(m.topic == 'mark' for m in messages))
        assert [m.topic for m in consumer.messages] == ['mark']


def test_the_bridge_that_is_connected_stays_so(mosquitto):
    params = bridge(mosquitto.port, client_id='bridge')
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id='bridge')
    connected, lost = threading.Event(), threading.Event()
    client.on_connect = lambda *_: connected.set()
    client.on_disconnect = lambda *_: lost.set()
    client.connect('127.0.0.1', mosquitto.port)
    client.loop_start()
    assert connected.wait(30.0)
    broker.knock(broker.settings(params))
    answered = threading.Event()
    client.on_publish = lambda *_: answered.set()
    client.publish('still/there', b'', qos=1)
    assert answered.wait(30.0)
    assert not lost.is_set()
    client.disconnect()
    client.loop_stop()


def test_a_password_that_is_wrong_is_told(tmp_path):
    (tmp_path / 'credentials').write_text('me\nwrong\n')
    with Mosquitto(tmp_path, users={'me': 'right'}) as running:
        params = bridge(running.port, credentials_file=str(tmp_path / 'credentials'))
        finding = judged(params)
        assert finding.status == 'fail'
        assert 'client.credentials_file' in finding.found
        (tmp_path / 'credentials').write_text('me\nright\n')
        assert judged(params).status == 'ok'


def test_a_broker_of_the_older_protocol_is_told():
    peer = Peer(greeting=0x84)  # unsupported protocol version, as such brokers answer
    with peer, pytest.raises(broker.UnreachableError, match='does not answer as a broker of MQTT'):
        broker.knock(broker.settings(bridge(peer.port)))
    assert peer.tried == []


@pytest.mark.parametrize('needed', [True, False])
def test_a_broker_that_is_away_fails_only_where_it_is_configured(needed):
    finding = judged(bridge(free_port()), needed=needed)
    assert finding.status == ('fail' if needed else 'warn')
    assert 'nothing listens there' in finding.found
    assert 'mosquitto' in finding.command


def test_something_that_does_not_answer_is_given_up():
    with socket.create_server(('127.0.0.1', 0)) as silent:
        params = bridge(silent.getsockname()[1])
        found = programs.child('broker', {'broker.port': params.broker_port}, timeout=2.0)
    finding = cloud.broker(found, params, '', needed=True)
    assert 'no answer within 2 s' in finding.found
    assert finding.command == 'ping -c 3 127.0.0.1'


def test_settings_that_the_bridge_would_refuse_are_told(tmp_path):
    given = {'broker.host': 'broker.invalid', 'broker.tls.ca_certificate': str(tmp_path / 'none.pem')}
    params = BridgeParams(broker_host='broker.invalid')
    finding = cloud.broker(programs.child('broker', given), params, '', needed=True)
    assert finding.status == 'fail'
    assert 'none.pem' in finding.found


def test_the_visit_is_made_with_the_settings_of_the_bridge_but_another_name():
    for params in (BridgeParams(), BridgeParams(device_id='a b', topic_prefix='x', client_id='c', tls_enabled=True)):
        wanted, taken = settings_of(params), broker.settings(params)
        assert taken == dataclasses.replace(wanted, client_id=taken.client_id)
        assert taken.name == f'{wanted.name}-doctor'


def test_the_spool_is_judged_by_the_disk_it_will_be_on(tmp_path):
    params = BridgeParams(spool_directory=str(tmp_path / 'not' / 'yet'), spool_max_bytes=1 << 16)
    assert cloud.spool(params, '/', '', needed=True).status == 'ok'
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_smaller_than_the_spool_may_grow_is_a_warning(tmp_path):
    finding = cloud.spool(BridgeParams(spool_directory=str(tmp_path), spool_max_bytes=1 << 50), '/', '', needed=True)
    assert finding.status == 'warn'
    assert 'spool.max_bytes' in finding.way_out


@pytest.mark.parametrize(
    ('directory', 'reason'),
    [('/proc/spool', '/proc'), ('/dev/null/spool', 'is no directory')],
    ids=['no right', 'no directory'],
)
def test_a_spool_that_cannot_be_is_told(directory, reason):
    finding = cloud.spool(BridgeParams(spool_directory=directory), '/', '', needed=True)
    assert finding.status == 'fail'
    assert reason in finding.found


def test_the_engine_cache_is_judged_by_its_disk(tmp_path):
    (tmp_path / 'a.engine').write_bytes(bytes(1024))
    assert '1 engine, 1 KiB' in cloud.engine_cache(tmp_path, needed=False).found
