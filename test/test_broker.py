import signal
import subprocess
import sys
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from mqtt_broker import DEADLINE, Consumer, wait_until

import edge_vision

COMMAND = [sys.executable, '-m', 'edge_vision.demo.broker', '--port']
ROOT = Path(edge_vision.__file__).parents[1]


def start(port):
    return subprocess.Popen([*COMMAND, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture(scope='module')
def port():
    process = start(0)
    first_line = process.stdout.readline()
    assert first_line.startswith('listening on 127.0.0.1:'), process.stderr.read()
    yield int(first_line.rpartition(':')[2])
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert errors == ''


def client(port, **options):
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, reconnect_on_failure=False, **options)
    made.connect('127.0.0.1', port)
    return made


def test_messages_of_qos_1_are_acknowledged_and_arrive_once(port):
    with Consumer(port, 'a/#', qos=1) as consumer:
        publisher = client(port)
        publisher.loop_start()
        sent = [f'{n}'.encode() for n in range(200)]
        for info in [publisher.publish('a/b', payload, qos=1) for payload in sent]:
            info.wait_for_publish(DEADLINE)
            assert info.is_published()
        messages = consumer.wait(lambda m: len(m) >= 200)
        assert [m.payload for m in messages] == sent
        publisher.disconnect()
        publisher.loop_stop()


def test_last_will_is_sent_and_retained_when_a_client_vanishes(port):
    with Consumer(port, 'will/#') as consumer:
        vanishing = paho.Client(paho.CallbackAPIVersion.VERSION2)
        vanishing.will_set('will/available', b'offline', qos=1, retain=True)
        vanishing.connect('127.0.0.1', port)
        assert wait_until(lambda: vanishing.loop(0.1) == paho.MQTT_ERR_SUCCESS and vanishing.is_connected())
        vanishing.socket().close()
        consumer.wait(lambda messages: [m.payload for m in messages] == [b'offline'])

    def retained():  # the last one may come live as well, to whoever subscribes at that moment
        with Consumer(port, 'will/#') as late:
            return [message.payload for message in late.wait(len) if message.retain]

    assert wait_until(lambda: retained() == [b'offline'])


def test_client_of_mqtt_5_is_sent_away_at_once(port):
    modern = client(port, protocol=paho.MQTTv5)
    assert wait_until(lambda: modern.loop(0.1) != paho.MQTT_ERR_SUCCESS, timeout=3.0)


def test_port_in_use_is_one_line_and_exit_code_1(port):
    second = start(port)
    output, errors = second.communicate(timeout=DEADLINE)
    assert (second.returncode, output) == (1, '')
    assert errors.startswith(f'edge_vision: error: the broker cannot listen on 127.0.0.1:{port}: ')
    assert errors.count('\n') == 1
