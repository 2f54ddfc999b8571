"""Camera, detector, decision and bridge in one process; frames are handed over by reference."""

from __future__ import annotations

from rclpy.node import Node

from ..frames import FrameSlot
from .bridge_node import BridgeNode
from .camera_node import CameraNode
from .decision_node import DecisionNode
from .detector_node import DetectorNode


def make_nodes() -> list[Node]:
    """Compose the four nodes: camera → slot → detector → decision → bridge.

    The decision is fed by reference only when it decides on this pipeline's own ``detections``; given other
    topics, it subscribes to those. Nodes are made from the last to the first, so that nothing moves before all can.

    Raises:
        EdgeVisionError: A parameter of one of them is not usable.

    """
    nodes: list[Node] = []
    try:
        bridge = BridgeNode(composed=True)
        nodes.append(bridge)
        decision = DecisionNode(composed=True, on_event=bridge.accept)
        nodes.append(decision)
        slot = FrameSlot()
        nodes.append(DetectorNode(frames=slot, decide=decision.decide_own if decision.takes_own else None))
        nodes.append(CameraNode(frames=slot))
    except BaseException:
        for node in nodes:
            node.destroy_node()
        raise
    return list(reversed(nodes))
