import threading
from types import SimpleNamespace

import pytest
from frame_handoff import *  # noqa: F403  the contract
from sensor_msgs.msg import Image

from edge_vision.frames import FrameSlot
from edge_vision.nodes import qos
from edge_vision.nodes.convert import frame_from_msg, image_to_msg


@pytest.fixture
def handoff(ros, make_node, spin_until):
    """Hand over between processes: by DDS, into the slot of the other side, as the nodes do it."""
    camera, detector = make_node(node_name='camera'), make_node(node_name='detector')
    slot = FrameSlot()
    image_pub = camera.create_publisher(Image, 'image_raw', qos.NEWEST)
    detector.create_subscription(Image, 'image_raw', lambda msg: slot.put(frame_from_msg(msg)), qos.NEWEST)
    spin_until(image_pub.get_subscription_count)
    over = threading.Event()

    def spin():
        while not over.is_set():
            ros.spin_once(timeout_sec=0.02)

    spinner = threading.Thread(target=spin)
    spinner.start()
    yield SimpleNamespace(put=lambda frame: image_pub.publish(image_to_msg(frame)), taker=slot)
    over.set()
    spinner.join()
