"""Camera, detector, decision and bridge in one process; frames are handed over by reference."""

from __future__ import annotations

from rclpy.node import Node

from ..frames import FrameSlot
from .bridge_node import BridgeNode
from .camera_node import CameraNode
from .decision_node import DecisionNode
from .detector_node import DetectorNode
from .spin import end


def make_nodes() -> list[Node]:
    """Compose the four nodes: camera → slot → detector → decision → bridge.

    The decision is fed by reference only when it decides on this pipeline's own ``detections``; given other
    topics, it subscribes to those, and the bridge to events and images. The camera is made last: when the first frame
    comes, everything is there.

    Raises:
        EdgeVisionError: A parameter of one of them is not usable.

    """
    nodes: list[Node] = []
    try:
        decision = DecisionNode(composed=True, on_event=lambda *event: bridge.accept(*event))  # noqa: PLW0108  made below
        nodes.append(decision)
        bridge = BridgeNode(composed=decision.takes_own)
        nodes.insert(0, bridge)
        slot = FrameSlot()
        if decision.takes_own:
            nodes.append(
                DetectorNode(
                    frames=slot,
                    decide=decision.decide_own,
                    reject=decision.reject_own,
                    know_labels=decision.know_own_labels,
                )
            )
        else:
            nodes.append(DetectorNode(frames=slot))
        nodes.append(CameraNode(frames=slot))
    except BaseException:
        end(nodes)
        raise
    return list(reversed(nodes))
