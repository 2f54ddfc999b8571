"""The configurations in docs/mosquitto, each as mosquitto itself reads it."""

import os
import re
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from mqtt_broker import DEADLINE, Mosquitto, free_port, require_mosquitto, wait_until
from test_cloud_sink import Process

from edge_vision.events import Event, event_id
from edge_vision.mqtt import BrokerSettings, Sender, TlsSettings
from edge_vision.spool import Spool

SHIPPED = Path(__file__).resolve().parent.parent / 'docs' / 'mosquitto'
NAMES = ('line1', 'line2', 'cloud-sink')


class Broker(Mosquitto):
    """mosquitto with shipped configurations, in a directory of its own instead of /etc and with a port of its own."""

    def __init__(self, directory, *files, remote=0):
        self._path = require_mosquitto()
        self._directory = directory
        self.port = free_port()
        (directory / 'data').mkdir()
        text = '\n'.join((SHIPPED / file).read_text() for file in files)
        text = text.replace('/etc/mosquitto/edge_vision', str(directory.parent / 'etc'))
        text = re.sub(r'^listener \d+', f'listener {self.port}', text, flags=re.MULTILINE)
        text = text.replace('broker.example.com:8883', f'localhost:{remote}')
        user = 'user root\n' if os.geteuid() == 0 else ''
        main = f'{user}persistence true\npersistence_location {directory}/data/\n'  # as in Debian's mosquitto.conf
        (directory / 'mosquitto.conf').write_text(main + text)

    def wait_saved(self):
        """Wait until all that it has now is on disk."""
        now_ns, saved = time.time_ns(), self._directory / 'data/mosquitto.db'
        assert wait_until(lambda: saved.exists() and saved.stat().st_mtime_ns > now_ns)


@pytest.fixture(scope='session')
def etc(tmp_path_factory):
    """Make what the configurations name: a CA, certificates, passwords and the access list."""
    require_mosquitto()
    directory = tmp_path_factory.mktemp('mosquitto_files') / 'etc'
    directory.mkdir()

    def openssl(*arguments):
        subprocess.run(['openssl', *arguments], cwd=directory, check=True, capture_output=True)

    curve = ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes')
    openssl('req', '-x509', *curve, '-keyout', 'ca.key', '-out', 'ca.crt', '-days', '2', '-subj', '/CN=test CA')
    for name in ('server', *NAMES):
        (directory / f'{name}.ext').write_text('subjectAltName=DNS:localhost,IP:127.0.0.1\n')
        openssl('req', *curve, '-keyout', f'{name}.key', '-out', f'{name}.csr', '-subj', f'/CN={name}')
        openssl('x509', '-req', '-in', f'{name}.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial',
                '-days', '2', '-extfile', f'{name}.ext', '-out', f'{name}.crt')  # fmt: skip
    (directory / 'passwords').touch(mode=0o600)
    for name in NAMES:
        subprocess.run(['mosquitto_passwd', '-b', directory / 'passwords', name, f'secret of {name}'], check=True)
        (directory / f'{name}.credentials').write_text(f'{name}\nsecret of {name}\n')
    (directory / 'devices.acl').write_text((SHIPPED / 'devices.acl').read_text())
    return directory


@pytest.fixture
def place(etc):
    """Make a directory beside `etc`; `Broker` looks for it there."""
    made = etc.parent / f'broker{time.monotonic_ns()}'
    made.mkdir()
    return made


def settings(broker, etc, name, signed_in_by):
    """Write down how a device of this name reaches the broker."""
    if not signed_in_by:
        return BrokerSettings(port=broker.port, device_id=name)
    certificate = {'certificate_file': str(etc / f'{name}.crt'), 'key_file': str(etc / f'{name}.key')}
    tls = TlsSettings(True, str(etc / 'ca.crt'), **(certificate if signed_in_by == 'certificate' else {}))
    credentials = str(etc / f'{name}.credentials') if signed_in_by == 'password' else ''
    return BrokerSettings('localhost', broker.port, tls, device_id=name, credentials_file=credentials)


def sink_arguments(etc, signed_in_by):
    if not signed_in_by:
        return []
    arguments = ['--host', 'localhost', '--tls-ca', str(etc / 'ca.crt')]
    if signed_in_by == 'password':
        return [*arguments, '--credentials-file', str(etc / 'cloud-sink.credentials')]
    return [*arguments, '--tls-cert', str(etc / 'cloud-sink.crt'), '--tls-key', str(etc / 'cloud-sink.key')]


def told(device, count=1):
    return [(Event(event_id(time.time_ns()), 'camera', 'defect', 'stop', 'new', time.time_ns(), device), b'\xff\xd8')
            for _ in range(count)]  # fmt: skip


WAYS = [
    (['loopback.conf'], ''),
    (['loopback.conf', 'persistence.conf'], ''),
    (['tls.conf', 'persistence.conf'], 'password'),
    (['mutual-tls.conf', 'persistence.conf'], 'certificate'),
]


@pytest.mark.parametrize(('files', 'signed_in_by'), WAYS, ids=['loopback', 'kept', 'tls', 'mutual tls'])
def test_event_reaches_the_sink(etc, place, tmp_path, files, signed_in_by):
    with Broker(place, *files) as broker, Spool(tmp_path / 'spool') as spool:
        sink = Process(broker.port, tmp_path / 'cloud', *sink_arguments(etc, signed_in_by))
        sink.start()
        sender = Sender(spool, settings(broker, etc, 'line1', signed_in_by))
        try:
            spool.append_many(told('line1'))
            sender.start()
            assert wait_until(lambda: sink.count() == 1), sender.state.last_error
            assert wait_until(lambda: spool.depth == 0)
        finally:
            sender.close()
            sink.kill()


@pytest.mark.parametrize(('file', 'signed_in_by'), [('tls.conf', 'password'), ('mutual-tls.conf', 'certificate')])
def test_device_cannot_write_below_the_name_of_another(etc, place, tmp_path, file, signed_in_by):
    with Broker(place, file) as broker, Spool(tmp_path / 'spool') as spool:
        sender = Sender(spool, replace(settings(broker, etc, 'line2', signed_in_by), device_id='line1'))
        spool.append_many(told('line1'))
        sender.start()
        assert wait_until(lambda: 'not authorised' in sender.state.last_error), sender.state
        assert spool.depth == 1
        sender.close(0.1)


@pytest.mark.parametrize('file', ['tls.conf', 'mutual-tls.conf'])
def test_nobody_gets_in_without_signing_in(etc, place, tmp_path, file):
    with Broker(place, file) as broker, Spool(tmp_path / 'spool') as spool:
        anonymous = BrokerSettings('localhost', broker.port, TlsSettings(True, str(etc / 'ca.crt')), device_id='line1')
        sender = Sender(spool, anonymous)
        sender.start()
        assert wait_until(lambda: sender.state.last_error)
        assert not sender.state.connected
        sender.close(0.1)


def test_device_cannot_read(etc, place):
    with Broker(place, 'tls.conf') as broker:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.tls_set(str(etc / 'ca.crt'))
        client.username_pw_set('line1', 'secret of line1')
        came, ready = [], []
        client.on_message = lambda _c, _u, message: came.append(message.topic)
        client.on_subscribe = lambda *_: ready.append(True)
        client.connect('localhost', broker.port)
        client.subscribe('edge_vision/#', 1)
        client.loop_start()
        assert wait_until(lambda: ready)
        client.publish('edge_vision/line1/stats', b'{}', 1).wait_for_publish(DEADLINE)
        client.publish('edge_vision/line1/stats', b'{}', 1).wait_for_publish(DEADLINE)
        client.disconnect()
        client.loop_stop()
        assert came == []


def test_what_waits_for_the_sink_survives_a_kill_of_the_broker(etc, place, tmp_path):
    with Broker(place, 'loopback.conf', 'persistence.conf') as broker, Spool(tmp_path / 'spool') as spool:
        sink = Process(broker.port, tmp_path / 'cloud')
        sink.start()
        sink.stop()
        sender = Sender(spool, settings(broker, etc, 'line1', ''))
        spool.append_many(told('line1', 1200))  # more than the default queue of mosquitto
        sender.start()
        assert wait_until(lambda: spool.depth == 0)
        broker.wait_saved()
        broker.kill()
        broker.start()
        sink.start()
        assert wait_until(lambda: sink.count() == 1200)
        sender.close()
        sink.kill()


def test_relay_hands_on_what_came_while_the_cloud_was_away(etc, place, tmp_path):
    device_place = etc.parent / f'{place.name}_device'
    device_place.mkdir()
    with Broker(place, 'mutual-tls.conf', 'persistence.conf') as cloud, Spool(tmp_path / 'spool') as spool:
        sink = Process(cloud.port, tmp_path / 'cloud', *sink_arguments(etc, 'certificate'))
        sink.start()
        sink.kill()
        cloud.wait_saved()  # the sink's session
        with Broker(device_place, 'loopback.conf', 'relay.conf', remote=cloud.port) as device:
            sender = Sender(spool, settings(device, etc, 'line1', ''))
            sender.start()
            cloud.kill()
            spool.append_many(told('line1', 50))
            assert wait_until(lambda: spool.depth == 0)
            cloud.start()
            sink.start()
            assert wait_until(lambda: sink.count() == 50, 60)
            sender.close()
        sink.kill()
