"""How many events per second a broker on this machine takes out of the spool, beside the bare library.

What cannot be taken away is that the MQTT library sends each event and reads its acknowledgement. The floor does this
with the same texts and with as many on their way as the broker allows, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from ..errors import EdgeVisionError
from ..events import Event
from ..mqtt import BrokerSettings, Sender
from ..spool import Spool
from .figures import Row, in_turns, show, times
from .spool import make_events

EVENTS = 2000  # that are sent in one go
TARGET_PER_SECOND = 2000
IN_FLIGHT = 20  # what mosquitto allows when it is not told otherwise
PATIENCE = 60.0  # s


def sendings(duration: float) -> Iterator[Row]:
    """Time the sending of what waits in a spool and the floor, in turns; nothing without mosquitto.

    Raises:
        EdgeVisionError: The broker does not start or does not take the events.

    """
    path = shutil.which('mosquitto', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
    if path is None:
        show('', 'sending to a broker not measured: mosquitto is not installed')
        return
    events = make_events()
    took: dict[str, list[float]] = {'sender': [], 'library': []}
    with (
        tempfile.TemporaryDirectory(prefix='edge_vision_bench_') as folder,
        broker(path, Path(folder)) as port,
        Spool(Path(folder) / 'spool') as spool,
    ):
        steps = {
            'sender': lambda: took['sender'].append(send(spool, port, list(islice(events, EVENTS)))),
            'library': lambda: took['library'].append(send_bare(port, list(islice(events, EVENTS)))),
        }
        in_turns(steps, duration)
    sender, library = (EVENTS * len(seconds) / sum(seconds) for seconds in (took['sender'], took['library']))
    yield {
        'events': EVENTS * len(took['sender']),
        'sent_per_second': sender,
        'target_per_second': TARGET_PER_SECOND,
        'floor': {'library_per_second': library},
        'library_per_sent': library / sender,
    }


@contextmanager
def broker(path: str, folder: Path) -> Iterator[int]:
    """Run a mosquitto on a free port of this machine; it does not outlive this.

    Raises:
        EdgeVisionError: It does not start.

    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = int(probe.getsockname()[1])
    config = folder / 'mosquitto.conf'
    config.write_text(f'listener {port} 127.0.0.1\nallow_anonymous true\n', encoding='ascii')
    process = subprocess.Popen([path, '-c', str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        wait_for_port(port)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int) -> None:
    """Wait until something listens.

    Raises:
        EdgeVisionError: Nothing does.

    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=1.0):
            return
        time.sleep(0.01)
    raise EdgeVisionError(f'mosquitto does not answer on port {port} after {PATIENCE:.0f} s')


def send(spool: Spool, port: int, events: Sequence[Event]) -> float:
    """Send events that wait in a spool; return the seconds from the connection to the last one's deletion.

    Raises:
        EdgeVisionError: They do not go.

    """
    spool.append_many((event, None) for event in events)
    sender = Sender(spool, BrokerSettings(port=port, device_id='bench'))
    sender.start()
    try:
        sender.wait_connected(PATIENCE)
        started = time.monotonic()
        while spool.depth and time.monotonic() < started + PATIENCE:
            time.sleep(0.001)
        took = time.monotonic() - started
        if spool.depth:
            raise EdgeVisionError(f'{spool.depth} events wait after {took:.0f} s: {sender.state.last_error}')
        return took
    finally:
        sender.close()


def send_bare(port: int, events: Sequence[Event]) -> float:
    """Send the same with the library alone; return the seconds that it took.

    Raises:
        EdgeVisionError: They do not go.

    """
    options: dict[str, Any] = {'protocol': paho.MQTTv5}
    if hasattr(paho, 'CallbackAPIVersion'):  # 2.0 and newer
        options['callback_api_version'] = paho.CallbackAPIVersion.VERSION2
    client = paho.Client(**options)
    client.max_inflight_messages_set(IN_FLIGHT)
    left, over = len(events), threading.Event()

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            over.set()

    client.on_publish = count
    client.connect('127.0.0.1', port)
    payloads = [event.to_json().encode() for event in events]
    started = time.monotonic()
    client.loop_start()
    for payload in payloads:
        client.publish('edge_vision/bench/events', payload, qos=1)
    arrived = over.wait(PATIENCE)
    took = time.monotonic() - started
    client.disconnect()
    client.loop_stop()
    if not arrived:
        raise EdgeVisionError(f'{left} messages of the bare library are not acknowledged after {took:.0f} s')
    return took


def cells(row: Row) -> dict[str, str]:
    """Lay the sending out as text."""
    return {
        'events': str(row['events']),
        'sent/s': f'{row["sent_per_second"]:.0f}',
        'target/s': f'{row["target_per_second"]}',
        'library/s': f'{row["floor"]["library_per_second"]:.0f}',
        'library/sent': times(row['library_per_sent']),
    }
