"""Floods a topic: ``python flood.py KIND COUNT``; says ``flooding``, then how many messages per second it has sent.

A COUNT of 0 goes on until it is killed, as fast as it can; with a count, the node that listens can keep up.
"""

import itertools
import sys
import time

import numpy as np
import rclpy
from geometry_msgs.msg import Twist
from vision_msgs.msg import Detection2DArray

from edge_vision.detections import Detections
from edge_vision.nodes.convert import detections_to_msg, ns_from_stamp, stamp_from_ns

PAUSE = 0.004  # s after each batch
FAST, POLITE = 20, 8  # messages in a batch; a subscriber of detections has room for 10
MEETING = 30.0  # s
END_OF_TIME = ((1 << 31) - 1) * 1_000_000_000  # ns


def commands():
    """Give what asks for speed."""
    msg = Twist()
    msg.linear.x = 0.5
    return [(msg, None)]


def looks_again(newest):
    """Give detections of nothing, with functions that give stamps no newer than those that have been there."""
    stamps = (
        lambda: newest[0],
        lambda: newest[0] - 10_000_000,
        lambda: newest[0] - 3600_000_000_000,
        lambda: 0,
        lambda: END_OF_TIME,
        lambda: time.time_ns() + 60_000_000_000,
    )
    return [(Detection2DArray(), stamp) for stamp in stamps]


def malformed():
    """Give detections that no detector may publish, mostly under stamps that are as fresh as can be."""
    messages = []
    for name, values in BAD.items():
        for value in values:
            found = Detections(0, 'camera', np.float32([[8, 8, 56, 56]]), np.float32([0.9]), ('green',))
            msg = detections_to_msg(found)
            SPOIL[name](msg.detections[0], value)
            messages.append(msg)
    return [
        *((msg, time.time_ns) for msg in messages),
        (messages[0], lambda: 0),
        (messages[1], lambda: END_OF_TIME),
    ]


BAD = {
    'position': (float('nan'), float('inf')),
    'size': (float('nan'), -1.0),
    'score': (float('nan'), -0.1, 1.1),
    'label': ('',),
    'results': ([],),
}
SPOIL = {
    'position': lambda detection, value: setattr(detection.bbox.center.position, 'x', value),
    'size': lambda detection, value: setattr(detection.bbox, 'size_x', value),
    'score': lambda detection, value: setattr(detection.results[0].hypothesis, 'score', value),
    'label': lambda detection, value: setattr(detection.results[0].hypothesis, 'class_id', value),
    'results': lambda detection, value: setattr(detection, 'results', value),
}


def main():
    """Wait for a subscriber, then publish."""
    kind, count = sys.argv[1], int(sys.argv[2])
    rclpy.init(args=[])
    node = rclpy.create_node('flood')
    newest = [0]
    messages = {'cmd_vel_in': commands, 'looks_again': lambda: looks_again(newest), 'malformed': malformed}[kind]()
    topic = ('cmd_vel_in', Twist) if kind == 'cmd_vel_in' else ('detections', Detection2DArray)
    publisher = node.create_publisher(topic[1], topic[0], 10)

    def on_flagged(msg):
        stamp_ns = ns_from_stamp(msg.header.stamp)
        if stamp_ns < time.time_ns():  # not one of those from here
            newest[0] = max(newest[0], stamp_ns)

    node.create_subscription(Detection2DArray, 'flagged', on_flagged, 10)
    give_up = time.monotonic() + MEETING
    while not publisher.get_subscription_count() or (kind == 'looks_again' and not newest[0]):
        assert time.monotonic() < give_up, 'nobody is there'
        rclpy.spin_once(node, timeout_sec=0.02)
    say('flooding')
    started = time.monotonic()
    batch = POLITE if count else FAST
    for sent, (msg, stamp) in enumerate(itertools.cycle(messages), 1):
        if stamp is not None:
            msg.header.stamp = stamp_from_ns(stamp())
        publisher.publish(msg)
        if sent % batch == 0:
            rclpy.spin_once(node, timeout_sec=0.0)
            time.sleep(PAUSE)
            say(round(sent / (time.monotonic() - started)))
        if sent == count:
            break
    time.sleep(0.5)  # the last ones are on their way


def say(word):
    """Say something to the process that started this one."""
    sys.stdout.write(f'{word}\n')
    sys.stdout.flush()


if __name__ == '__main__':
    main()
