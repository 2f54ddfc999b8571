"""Real brokers and consumers for tests: mosquitto as a process, a link that can be cut, a subscriber."""

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from typing import NamedTuple

import paho.mqtt.client as paho
import pytest

DEADLINE = 20.0  # s, about ten times what anything here takes


def wait_until(condition, timeout=DEADLINE):
    """Poll until ``condition()`` is true; return its value, or its last false one."""
    deadline = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return value


def free_port():
    """Find a TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def accepts(port):
    """Whether something listens on a port."""
    with suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=1.0):
        return True
    return False


def require_mosquitto():
    """Find mosquitto; skip the test without it, or fail where CI must have it."""
    path = shutil.which('mosquitto', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
    if path is None and os.environ.get('CI') == 'true':
        pytest.fail('mosquitto is not installed, and CI=true forbids to skip')
    if path is None:
        pytest.skip('mosquitto is not installed (apt install mosquitto)')
    return path


class Mosquitto:
    """A real mosquitto on a free loopback port, to be started, stopped and killed."""

    def __init__(self, directory, *, users=None, extra=''):
        self._path = require_mosquitto()
        self._directory = directory
        self.port = free_port()
        self._process = None
        lines = [f'listener {self.port} 127.0.0.1', f'allow_anonymous {"false" if users else "true"}', extra]
        if os.geteuid() == 0:
            lines.append('user root')
        if users:
            passwords = directory / 'passwords'
            passwords.touch()
            passwords.chmod(0o600)
            for name, password in users.items():
                subprocess.run(['mosquitto_passwd', '-b', str(passwords), name, password], check=True)
            lines.append(f'password_file {passwords}')
        (directory / 'mosquitto.conf').write_text('\n'.join(lines) + '\n')

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self):
        """Start it and wait until it accepts connections."""
        with (self._directory / 'mosquitto.log').open('ab') as log:
            command = [self._path, '-c', str(self._directory / 'mosquitto.conf')]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        log_file = self._directory / 'mosquitto.log'
        assert wait_until(lambda: accepts(self.port) or self._process.poll() is not None), log_file.read_text()
        assert self._process.poll() is None, log_file.read_text()

    def stop(self):
        """End it in an orderly way."""
        self._process.terminate()
        self._process.wait(DEADLINE)

    def kill(self):
        """Kill it with SIGKILL."""
        self._process.kill()
        self._process.wait(DEADLINE)

    def send_signal(self, number):
        """Send it a signal, such as SIGSTOP."""
        self._process.send_signal(number)


@pytest.fixture
def mosquitto(tmp_path):
    """Give a running mosquitto that accepts anyone."""
    directory = tmp_path / 'mosquitto'
    directory.mkdir()
    with Mosquitto(directory) as broker:
        yield broker


class Link:
    """A TCP forwarder to a port: the cable that a test can pull and plug in."""

    def __init__(self, target):
        self._target = target
        self._plugged = False
        self._sockets = set()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def plug(self):
        """Let connections through from now on."""
        self._plugged = True

    def pull(self):
        """Cut all connections and refuse new ones."""
        self._plugged = False
        for end in list(self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Pull the cable for good."""
        self.pull()
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                try:
                    far = socket.create_connection(('127.0.0.1', self._target)) if self._plugged else None
                except OSError:
                    far = None
                if far is None:
                    near.close()
                    continue
                self._sockets |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source, sink):
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


class Peer:
    """Speaks just enough MQTT 5 to answer what no broker can be made to answer.

    Args:
        greeting: Reason code of the answer to CONNECT; may be changed later.
        answer: Given topic and payload, tells the reason code of PUBACK; a negative one is that of a DISCONNECT,
            None hangs up without a word.

    """

    def __init__(self, answer=lambda _topic, _payload: 0, *, greeting=0):
        self.greeting = greeting
        self.answer = answer
        self.tried = []
        self.taken = []
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.close()

    def wait_taken(self, count, level='events'):
        """Wait for so many messages on a kind of topic and return their payloads."""
        assert wait_until(lambda: len(self.payloads(level)) >= count), [m.topic for m in self.tried]
        return self.payloads(level)

    def payloads(self, level):
        """Payloads of what was taken on a kind of topic."""
        return [m.payload for m in list(self.taken) if level in m.topic.split('/')]

    def _accept(self):
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with suppress(OSError, IndexError), connection, connection.makefile('rb') as stream:
            while self._answer_packet(connection, stream):
                pass

    def _answer_packet(self, connection, stream):
        kind, length, shift = stream.read(1)[0], 0, 0
        while (byte := stream.read(1)[0]) & 0x80:
            length, shift = length | (byte & 0x7F) << shift, shift + 7
        packet = stream.read(length | byte << shift)
        if kind >> 4 == 1:
            connection.sendall(bytes([0x20, 3, 0, self.greeting, 0]))
            return self.greeting == 0
        if kind >> 4 == 3:
            return self._answer_publish(connection, packet)
        return kind >> 4 != 14

    def _answer_publish(self, connection, packet):
        end = 2 + int.from_bytes(packet[:2], 'big')
        message = Message(packet[2:end].decode(), packet[end + 3 :], retain=False)
        self.tried.append(message)
        code = self.answer(message.topic, message.payload)
        if code is None:
            return False
        if code < 0:
            connection.sendall(bytes([0xE0, 2, -code, 0]))
            return False
        if code < 0x80:
            self.taken.append(message)
        connection.sendall(bytes([0x40, 4, *packet[end : end + 2], code, 0]))
        return True


class Message(NamedTuple):
    """A message as it came."""

    topic: str
    payload: bytes
    retain: bool


class Consumer:
    """Subscribes and collects; comes back by itself when the broker does.

    It subscribes with QoS 0: mosquitto then hands a message to the consumer's socket before it acknowledges it to
    the sender, so that a killed broker loses nothing between the two.
    """

    def __init__(self, port, topic='#', *, protocol=paho.MQTTv311, qos=0):
        self._topic = topic
        self._qos = qos
        self._subscribed = threading.Event()
        self.messages = []
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=protocol)
        self._client.on_connect = lambda *_: self._client.subscribe(topic, qos)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = lambda _c, _u, m: self.messages.append(Message(m.topic, m.payload, m.retain))
        self._client.reconnect_delay_set(0.02, 0.1)
        self._client.connect_async('127.0.0.1', port)
        self._client.loop_start()
        self.wait_subscribed()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.disconnect()
        self._client.loop_stop()

    def wait_subscribed(self):
        """Wait until the broker sends what comes from now on."""
        assert self._subscribed.wait(DEADLINE), 'the consumer cannot subscribe'

    def wait_cut_off(self):
        """Wait until the consumer has noticed that its broker is gone."""
        assert wait_until(lambda: not self._subscribed.is_set()), 'the consumer is still subscribed'

    def wait(self, condition, timeout=DEADLINE):
        """Wait until ``condition(messages)`` holds and return the messages."""
        assert wait_until(lambda: condition(list(self.messages)), timeout), f'{len(self.messages)} messages came'
        return list(self.messages)

    def payloads(self, level):
        """Payloads of all messages whose topic holds this level."""
        return [m.payload for m in list(self.messages) if level in m.topic.split('/')]
