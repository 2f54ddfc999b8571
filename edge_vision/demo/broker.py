"""A small MQTT 3.1.1 broker for the demo, on this machine only; a real line runs a real broker."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from typing import cast

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig
from amqtt.errors import BrokerError, NoDataError

_HOST = '127.0.0.1'
_SHUTDOWN_TIMEOUT = 3.0  # s


class DemoBroker(Broker):  # type: ignore[misc]  # amqtt is untyped here
    """Accepts anyone on the loopback interface and keeps nothing on disk.

    Args:
        port: TCP port; 0 takes any free one.

    """

    def __init__(self, port: int) -> None:
        anyone = {'amqtt.plugins.authentication.AnonymousAuthPlugin': {'allow_anonymous': True}}
        super().__init__(BrokerConfig(listeners={'default': ListenerConfig(bind=f'{_HOST}:{port}')}, plugins=anyone))

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return cast('int', self._servers['default'].instance.sockets[0].getsockname()[1])

    async def stream_connected(self, reader: StreamReader, writer: StreamWriter, listener_name: str) -> None:
        """Serve one client until it goes, or hang up on it."""
        try:
            await self.external_connected(_Mqtt3Reader(reader), StreamWriterAdapter(writer), listener_name)
        finally:
            writer.close()


class _Mqtt3Reader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is untyped here
    """Ends the stream at the CONNECT of an MQTT 5 client, so that it tries 3.1.1 at once.

    Read as 3.1.1, that packet seems longer than it is: the broker would wait for the rest of it for ever.
    """

    def __init__(self, reader: StreamReader) -> None:
        super().__init__(reader)
        self._before = b''

    async def read(self, n: int = -1) -> bytes:
        """Read n bytes."""
        data = cast('bytes', await super().read(n))
        if self._before == b'MQTT' and data == b'\x05':  # protocol name and level
            msg = 'MQTT 5 is not spoken here'
            raise NoDataError(msg)
        self._before = data
        return data


async def serve(port: int) -> None:
    """Run a broker until SIGTERM or SIGINT; its first line on stdout says where it listens.

    Raises:
        BrokerError: The port cannot be had.

    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    broker = DemoBroker(port)
    await broker.start()
    print(f'listening on {_HOST}:{broker.port}', flush=True)
    await stop.wait()
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(broker.shutdown(), _SHUTDOWN_TIMEOUT)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog='python -m edge_vision.demo.broker', description=__doc__)
    parser.add_argument('--port', type=int, default=1883, help='TCP port on 127.0.0.1; 0 takes any free one')
    port = parser.parse_args(arguments).port
    logging.basicConfig(level=logging.WARNING, format='broker: %(message)s')
    logging.getLogger('amqtt').setLevel(logging.CRITICAL)  # it logs what clients do wrong, with tracebacks
    try:
        asyncio.run(serve(port))
    except (BrokerError, OverflowError) as error:
        reason = error.__cause__ or error
        print(f'edge_vision: error: the broker cannot listen on {_HOST}:{port}: {reason}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
