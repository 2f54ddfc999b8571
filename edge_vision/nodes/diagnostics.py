"""Reports a node's health on /diagnostics once a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from .steady import every

OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


class Health(NamedTuple):
    """What a node says of itself.

    Attributes:
        level: OK, WARN, ERROR or STALE.
        message: One sentence.
        values: Figures by name; numbers are printed with their unit in the name (``age_ms``).

    """

    level: bytes
    message: str
    values: Mapping[str, object]


def key_values(values: Mapping[str, object]) -> list[KeyValue]:
    """Convert figures to messages; floats get three decimals."""
    return [KeyValue(key=k, value=f'{v:.3f}' if isinstance(v, float) else str(v)) for k, v in values.items()]


def publish_health(node: Node, collect: Callable[[], Health]) -> Callable[[], None]:
    """Publish what ``collect`` returns at 1 Hz for as long as the node lives; the answer publishes it once more."""
    publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
    name = node.get_fully_qualified_name().lstrip('/').replace('/', ': ')

    def publish() -> None:
        health = collect()
        msg = DiagnosticArray()
        msg.header.stamp = node.get_clock().now().to_msg()
        status = DiagnosticStatus(level=health.level, name=name, message=health.message, hardware_id='')
        status.values = key_values(health.values)
        msg.status = [status]
        publisher.publish(msg)

    end = every(1.0, publish)

    def publish_last() -> None:
        end()
        publish()

    return publish_last
