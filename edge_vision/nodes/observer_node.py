"""Watches a pipeline from outside, as a robot would, and writes down when what arrived."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Bool, String
from vision_msgs.msg import Detection2DArray

from ..errors import ConfigurationError
from . import qos
from .convert import ns_from_stamp
from .detector_node import facts_from_msg


class ObserverNode(Node):
    """Times commands by the stamps of the frames that caused them.

    Writes one JSON line with live figures to stdout twice a second, and everything it saw to the file
    ``output`` when it is destroyed. Times are ns since the epoch.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('observer', **kwargs)
        self._output = Path(self.declare_parameter('output', '').value)
        if not self._output.name:
            raise ConfigurationError("output is '', expected a file to write what was seen to")
        self._captured: list[tuple[int, int]] = []
        self._decided: list[tuple[int, int]] = []
        self._infer_ns: dict[int, int] = {}
        self._stops: list[tuple[int, bool]] = []
        self._events: list[Any] = []
        self._health: dict[str, Any] = {}
        self._truth: dict[str, Any] = {}
        self._reported = 0
        self.create_subscription(Detection2DArray, 'flagged', self._on_flagged, qos.EACH)
        self.create_subscription(Bool, 'stop', self._on_stop, qos.LATCHED)
        self.create_subscription(CameraInfo, 'camera_info', self._on_info, qos.EACH)
        self.create_subscription(DiagnosticArray, 'detections/facts', self._on_facts, qos.EACH)
        self.create_subscription(String, 'events', self._on_event, qos.EVENTS)
        self.create_subscription(String, 'camera/truth', self._on_truth, qos.LATCHED)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self.create_timer(0.5, self._report)

    def destroy_node(self) -> None:
        """Write everything down and destroy the node."""
        seen = {
            'captured': self._captured,
            'decided': self._decided,
            'infer_ns': list(self._infer_ns.items()),
            'stops': self._stops,
            'events': self._events,
            'health': self._health,
            'truth': self._truth,
        }
        partial = self._output.with_suffix('.partial')
        partial.write_text(json.dumps(seen), encoding='utf-8')
        partial.replace(self._output)
        super().destroy_node()

    def _on_flagged(self, msg: Detection2DArray) -> None:
        self._decided.append((ns_from_stamp(msg.header.stamp), time.time_ns()))

    def _on_stop(self, msg: Bool) -> None:
        received_ns = time.time_ns()
        if not self._stops or self._stops[-1][1] != msg.data:
            self._stops.append((received_ns, msg.data))

    def _on_info(self, msg: CameraInfo) -> None:
        self._captured.append((ns_from_stamp(msg.header.stamp), msg.width * msg.height * 3))

    def _on_facts(self, msg: DiagnosticArray) -> None:
        self._infer_ns[ns_from_stamp(msg.header.stamp)] = facts_from_msg(msg)[0].infer_ns

    def _on_event(self, msg: String) -> None:
        self._events.append(json.loads(msg.data))

    def _on_truth(self, msg: String) -> None:
        self._truth = json.loads(msg.data)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            self._health[status.name] = {pair.key: pair.value for pair in status.values}

    def _report(self) -> None:
        new, self._reported = self._decided[self._reported :], len(self._decided)
        reaction_ms = sorted((received - stamp) / 1e6 for stamp, received in new)
        line: dict[str, Any] = {
            'fps': len(new) / 0.5,
            'reaction_ms': reaction_ms[len(reaction_ms) // 2] if reaction_ms else None,
            'stopped': bool(self._stops and self._stops[-1][1]),
            'events': len(self._events),
            **{key: self._truth[key] for key in ('defects_stopped', 'defects_missed') if key in self._truth},
        }
        print(json.dumps(line), flush=True)


def make_nodes() -> list[Node]:
    """Make the node of this process."""
    return [ObserverNode()]
