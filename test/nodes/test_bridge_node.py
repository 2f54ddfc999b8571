import json
import sqlite3
import stat
import time
from contextlib import contextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from mqtt_broker import Consumer, Mosquitto, free_port
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from edge_vision.demo.processes import Child
from edge_vision.errors import ConfigurationError, SpoolError
from edge_vision.events import BBox, Event, Evidence, event_id
from edge_vision.frames import Frame
from edge_vision.mqtt import settings_of
from edge_vision.nodes import qos
from edge_vision.nodes.bridge_node import EVENTS_WAITING, BridgeNode
from edge_vision.nodes.convert import image_to_msg
from edge_vision.params import BridgeParams
from edge_vision.spool import Spool


@pytest.fixture
def make_bridge(make_node, tmp_path):
    def make(port, **kwargs):
        parameters = {
            'broker.port': port,
            'spool.directory': str(tmp_path / 'spool'),
            'device_id': 'line_1',
            **kwargs.pop('parameters', {}),
        }
        return make_node(BridgeNode, parameters=parameters, **kwargs)

    return make


@pytest.fixture
def decision(make_node):
    """Stand in for the camera and the decision."""
    node = make_node(node_name='decision')
    node.events_pub = node.create_publisher(String, 'events', qos.EVENTS)
    node.image_pub = node.create_publisher(Image, 'image_raw', qos.EACH)
    node.info_pub = node.create_publisher(CameraInfo, 'camera_info', qos.EACH)
    node.reports = []
    node.create_subscription(DiagnosticArray, '/diagnostics', node.reports.append, 10)
    return node


@pytest.fixture
def consumer(mosquitto):
    with Consumer(mosquitto.port, 'edge_vision/#') as subscribed:
        yield subscribed


def event(stamp_ns, kind='crop'):
    return Event(
        id=event_id(stamp_ns),
        camera='camera',
        rule='gate',
        action='stop',
        phase='new',
        stamp_ns=stamp_ns,
        class_id='dent',
        score=0.9,
        bbox=BBox(100.0, 100.0, 40.0, 20.0),
        image=(640, 480),
        evidence=Evidence(kind),
    )


def frame(stamp_ns):
    """Make a black picture with a white box where the event is."""
    image = np.zeros((480, 640, 3), np.uint8)
    image[90:110, 80:120] = 255
    return Frame(image, stamp_ns, 'camera')


def coloured(stamp_ns, colour, size=(640, 480)):
    """Make a picture of one colour."""
    return Frame(np.full((size[1], size[0], 3), colour, np.uint8), stamp_ns, 'camera')


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def told_of(consumer, event_id):
    """Return the evidence that arrived in an event."""
    events = [json.loads(payload) for payload in consumer.payloads('events')]
    return next((each['data']['evidence'] for each in events if each['id'] == event_id), None)


def figures(decision):
    return {pair.key: pair.value for report in decision.reports for pair in report.status[0].values}


@contextmanager
def lying_in(directory):
    with Spool(directory) as spool:
        yield [json.loads(stored.event) for stored in spool.pending()]


def test_event_arrives_with_a_picture_of_its_own_image(make_bridge, mosquitto, decision, consumer, spin_until):
    make_bridge(mosquitto.port)
    stamp_ns = time.time_ns()
    spin_until(lambda: decision.events_pub.get_subscription_count() and decision.image_pub.get_subscription_count())
    for other in (stamp_ns - 1, stamp_ns):
        decision.image_pub.publish(image_to_msg(frame(other)))
    told = event(stamp_ns)
    decision.events_pub.publish(String(data=told.to_json()))
    spin_until(lambda: consumer.payloads('events') and consumer.payloads('evidence'))
    (arrived,) = [json.loads(payload) for payload in consumer.payloads('events')]
    assert arrived['id'] == told.id
    assert arrived['source'] == '/line_1/camera'
    evidence = arrived['data']['evidence']
    assert evidence['topic'] == f'edge_vision/line_1/evidence/{told.id}'
    (picture,) = consumer.payloads('evidence')
    assert evidence['bytes'] == len(picture)
    crop = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert crop.shape[:2] == (40, 60)
    assert crop[crop.shape[0] // 2, crop.shape[1] // 2].min() > 200
    assert crop[0, 0].max() < 60


@pytest.mark.parametrize('before', [True, False], ids=['images before the event', 'images after the event'])
def test_picture_is_the_one_of_the_stamp_of_its_event(make_bridge, mosquitto, decision, consumer, spin_until, before):
    make_bridge(mosquitto.port)
    spin_until(lambda: decision.events_pub.get_subscription_count() and decision.image_pub.get_subscription_count())
    stamp_ns = time.time_ns()
    colours = {stamp_ns - 1: (200, 0, 0), stamp_ns: (0, 200, 0), stamp_ns + 1: (0, 0, 200)}
    told = {stamp: event(stamp, 'frame') for stamp in (stamp_ns, stamp_ns + 1)}

    def show():
        for stamp, colour in colours.items():
            decision.image_pub.publish(image_to_msg(coloured(stamp, colour)))

    if before:
        show()
    for each in told.values():
        decision.events_pub.publish(String(data=each.to_json()))
    if not before:
        show()
    spin_until(lambda: len(consumer.payloads('evidence')) == 2)
    for stamp, each in told.items():
        (picture,) = consumer.payloads(each.id)
        assert np.abs(decoded(picture).astype(int) - colours[stamp]).max() < 10


def test_cameras_with_the_same_stamps_are_told_apart(make_bridge, mosquitto, decision, consumer, spin_until):
    make_bridge(mosquitto.port, parameters={'image_topics': ['left/image_raw', 'right/image_raw']})
    pubs = {side: decision.create_publisher(Image, f'{side}/image_raw', qos.EACH) for side in ('left', 'right')}
    spin_until(lambda: all(pub.get_subscription_count() for pub in (*pubs.values(), decision.events_pub)))
    stamp_ns = time.time_ns()
    colours = {'left': (200, 0, 0), 'right': (0, 0, 200)}
    told = {side: replace(event(stamp_ns, 'frame'), camera=side) for side in pubs}
    for side, pub in pubs.items():
        pub.publish(image_to_msg(coloured(stamp_ns, colours[side])))
        decision.events_pub.publish(String(data=told[side].to_json()))
    spin_until(lambda: len(consumer.payloads('evidence')) == 2)
    for side, each in told.items():
        (picture,) = consumer.payloads(each.id)
        assert np.abs(decoded(picture).astype(int) - colours[side]).max() < 10


def test_camera_whose_images_have_another_name_is_known(make_bridge, mosquitto, decision, consumer, spin_until):
    make_bridge(mosquitto.port, cli_args=['--ros-args', '-r', 'image_raw:=/usb_cam/image_raw'])
    pub = decision.create_publisher(Image, '/usb_cam/image_raw', qos.EACH)
    spin_until(lambda: pub.get_subscription_count() and decision.events_pub.get_subscription_count())
    stamp_ns = time.time_ns()
    pub.publish(image_to_msg(frame(stamp_ns)))
    told = [event(stamp_ns), replace(event(stamp_ns), camera='usb_cam')]
    for each in told:
        decision.events_pub.publish(String(data=each.to_json()))
    spin_until(lambda: len(consumer.payloads('evidence')) == 2)


def test_camera_whose_images_cannot_be_told_from_anothers_has_no_picture(
    make_bridge, mosquitto, decision, consumer, spin_until
):
    names = {'left/image_raw': '/cell/image_left', 'right/image_raw': '/cell/image_right'}
    remapped = [word for name, other in names.items() for word in ('-r', f'{name}:={other}')]
    make_bridge(mosquitto.port, parameters={'image_topics': list(names)}, cli_args=['--ros-args', *remapped])
    pubs = [decision.create_publisher(Image, name, qos.EACH) for name in names.values()]
    spin_until(lambda: all(pub.get_subscription_count() for pub in (*pubs, decision.events_pub)))
    stamp_ns = time.time_ns()
    pubs[0].publish(image_to_msg(frame(stamp_ns)))
    ambiguous, left = (replace(event(stamp_ns), camera=camera) for camera in ('cell', 'left'))
    for each in (ambiguous, left):
        decision.events_pub.publish(String(data=each.to_json()))
    spin_until(lambda: told_of(consumer, ambiguous.id) and told_of(consumer, left.id))
    assert told_of(consumer, ambiguous.id)['reason'] == "image_topics does not say which images are of camera 'cell'"
    assert told_of(consumer, left.id)['kind'] == 'crop'


def test_cameras_of_one_namespace_are_refused(make_bridge):
    with pytest.raises(ConfigurationError, match='one namespace per camera, such as left/image_raw'):
        make_bridge(free_port(), parameters={'image_topics': ['image_left', 'image_right']})


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'camera': 'left'}, "image_topics does not say which images are of camera 'left'"),
        ({'image': (320, 240)}, 'the image is of (640, 480), the detections of (320, 240)'),
        ({'bbox': BBox(900.0, 900.0, 10.0, 10.0)}, 'the frame could not be encoded'),
    ],
    ids=['other camera', 'other size', 'box outside'],
)
def test_event_that_the_image_does_not_belong_to_has_no_picture_and_says_why(
    make_bridge, mosquitto, decision, consumer, spin_until, changes, reason
):
    make_bridge(mosquitto.port)
    spin_until(lambda: decision.events_pub.get_subscription_count() and decision.image_pub.get_subscription_count())
    stamp_ns = time.time_ns()
    told = replace(event(stamp_ns), **changes)
    decision.image_pub.publish(image_to_msg(frame(stamp_ns)))
    decision.events_pub.publish(String(data=told.to_json()))
    spin_until(lambda: told_of(consumer, told.id))
    assert told_of(consumer, told.id)['kind'] == 'none'
    assert told_of(consumer, told.id)['reason'] == reason
    spin_until(lambda: figures(decision).get('without_picture') == '1')
    assert not consumer.payloads('evidence')


def test_everything_outside_the_box_is_blurred_where_that_is_asked_for(make_bridge, mosquitto, consumer, spin_until):
    bridge = make_bridge(mosquitto.port, composed=True, parameters={'blur_outside': True, 'jpeg_quality': 100})
    stamp_ns = time.time_ns()
    stripes = frame(stamp_ns)
    stripes.image[:, ::2] = 200
    bridge.accept(event(stamp_ns, 'frame'), stripes)
    spin_until(lambda: consumer.payloads('evidence'))
    picture = decoded(consumer.payloads('evidence')[0]).astype(int)
    assert np.abs(np.diff(picture[95:105, 85:115], axis=1)).max() < 60  # the box is white
    assert np.abs(np.diff(picture[200:], axis=1)).max() < 10
    assert np.abs(picture[200:] - 100).max() < 10


def test_event_whose_image_never_comes_arrives_without_and_says_why(
    make_bridge, mosquitto, decision, consumer, spin_until
):
    make_bridge(mosquitto.port)
    spin_until(decision.events_pub.get_subscription_count)
    decision.events_pub.publish(String(data=event(time.time_ns()).to_json()))
    spin_until(lambda: consumer.payloads('events'))
    evidence = json.loads(consumer.payloads('events')[0])['data']['evidence']
    assert (evidence['kind'], evidence['reason']) == ('none', 'the frame was no longer held')
    assert not consumer.payloads('evidence')


def test_event_of_the_same_process_brings_its_frame(make_bridge, mosquitto, consumer, spin_until):
    bridge = make_bridge(mosquitto.port, composed=True)
    stamp_ns = time.time_ns()
    bridge.accept(event(stamp_ns), frame(stamp_ns))
    bridge.accept(event(stamp_ns, 'none'), None)
    spin_until(lambda: len(consumer.payloads('events')) == 2 and consumer.payloads('evidence'))
    kinds = [json.loads(payload)['data']['evidence']['kind'] for payload in consumer.payloads('events')]
    assert kinds == ['crop', 'none']


@pytest.mark.parametrize(
    'text',
    [
        'not an event',
        replace(event(1), rule='r' * 40_000).to_json(),
        replace(event(1), id='i' * 129).to_json(),
        replace(event(1), id='a/b').to_json(),
        replace(event(1), id='\ufffe').to_json(),
        event(1).to_json().replace('"gate"', '"\\ud800"'),
    ],
    ids=['no event', 'very long', 'long id', 'id of two levels', 'id that no topic may have', 'half a character'],
)
def test_text_that_could_not_be_sent_is_dropped_and_counted(
    make_bridge, mosquitto, decision, consumer, spin_until, text
):
    make_bridge(mosquitto.port)
    spin_until(decision.events_pub.get_subscription_count)
    decision.events_pub.publish(String(data=text))
    decision.events_pub.publish(String(data=event(time.time_ns(), 'none').to_json()))
    spin_until(lambda: consumer.payloads('events') and figures(decision).get('malformed') == '1')
    assert len(consumer.payloads('events')) == 1


def test_hundred_thousand_events_do_not_wait_for_a_disk_that_refuses_and_every_stop_is_kept(
    make_bridge, ros, decision, spin_until, tmp_path
):
    bridge = make_bridge(free_port(), composed=True)
    announced = []
    disk = sqlite3.connect(tmp_path / 'spool' / 'spool.db', isolation_level=None)
    disk.execute('BEGIN IMMEDIATE')  # whoever else writes is refused after a while
    stops = []
    for i in range(100_000):  # would not come to an end if it waited for the disk
        stamp_ns = time.time_ns()
        told = replace(event(stamp_ns, 'frame'), action='flag' if i % 100 else 'stop')
        stops += [] if i % 100 else [told.id]
        bridge.accept(told, frame(stamp_ns) if i < 300 else None, lambda told=told: announced.append(told.id))
    spin_until(lambda: figures(decision).get('waiting') == str(EVENTS_WAITING))
    spin_until(lambda: 'locked' in decision.reports[-1].status[0].message)
    assert decision.reports[-1].status[0].level == b'\x02'
    assert figures(decision)['events_dropped'] == figures(decision)['dropped_waiting'] != '0'
    assert not announced  # nobody is told of what is not on disk
    disk.execute('ROLLBACK')
    spin_until(
        lambda: figures(decision).get('waiting') == '0' and figures(decision)['spool_depth'] == str(len(announced))
    )
    assert decision.reports[-1].status[0].message.startswith('broker')
    assert len(announced) + int(figures(decision)['dropped_waiting']) == 100_000
    ros.remove_node(bridge)
    bridge.destroy_node()
    with Spool(tmp_path / 'spool') as spool:
        stored = [json.loads(each.event) for each in spool.pending(limit=100_000)]
    assert [each['id'] for each in stored] == announced
    assert [each['id'] for each in stored if each['data']['action'] == 'stop'] == stops
    assert sorted(announced) == announced  # in the order in which they came, the newest flags among them
    assert stored[-1]['id'] == told.id


def test_events_stay_on_disk_while_there_is_no_broker(make_bridge, ros, tmp_path, spin_until, decision, call):
    bridge = make_bridge(free_port(), composed=True)
    answer = call(decision.create_client(Trigger, 'bridge/is_connected'), Trigger.Request())
    assert not answer.success
    events = [event(time.time_ns(), 'none') for _ in range(20)]
    for told in events:
        bridge.accept(told, None)
    spin_until(lambda: figures(decision).get('spool_depth') == '20')
    assert decision.reports[-1].status[0].level == b'\x02'
    ros.remove_node(bridge)
    bridge.destroy_node()
    with lying_in(tmp_path / 'spool') as stored:
        assert [each['id'] for each in stored] == [told.id for told in events]


def test_events_of_an_earlier_run_are_sent_when_a_broker_is_there(
    make_bridge, mosquitto, consumer, tmp_path, spin_until, decision, call
):
    told = event(time.time_ns(), 'none')
    with Spool(tmp_path / 'spool') as spool:
        spool.append(told)
    make_bridge(mosquitto.port)
    spin_until(lambda: consumer.payloads('events'))
    assert json.loads(consumer.payloads('events')[0])['id'] == told.id
    answer = call(decision.create_client(Trigger, 'bridge/is_connected'), Trigger.Request())
    assert answer.success
    assert answer.message.startswith('connected by MQTT')


def test_bytes_kept_at_home_and_what_it_would_cost_to_send_them_are_counted(
    make_bridge, mosquitto, decision, spin_until
):
    make_bridge(mosquitto.port, parameters={'price_per_gb': 1000.0, 'image_topics': ['image_raw', 'left/image_raw']})
    left_info_pub = decision.create_publisher(CameraInfo, 'left/camera_info', qos.EACH)
    spin_until(lambda: decision.info_pub.get_subscription_count() and left_info_pub.get_subscription_count())
    for _ in range(3):
        decision.info_pub.publish(CameraInfo(width=640, height=480))
    left_info_pub.publish(CameraInfo(width=1920, height=1080))
    captured = 3 * (3 * 640 * 480 + 1920 * 1080)
    spin_until(lambda: figures(decision).get('bytes_captured') == str(captured))
    sent = int(figures(decision)['bytes_sent'])
    cost = (0.04 * captured - sent) / 1e9 * 1000.0
    assert float(figures(decision)['estimated_cost_avoided']) == pytest.approx(cost, abs=1e-3)


def test_event_that_the_broker_does_not_take_is_a_warning_with_the_reason(make_bridge, decision, spin_until, tmp_path):
    with Mosquitto(tmp_path, extra='message_size_limit 3000') as broker:
        bridge = make_bridge(broker.port, composed=True)
        bridge.accept(replace(event(time.time_ns(), 'none'), reason='x' * 4000), None)
        bridge.accept(event(time.time_ns(), 'none'), None)
        spin_until(lambda: figures(decision).get('events_sent') == '1' and figures(decision)['held_back'] == '1')
        status = decision.reports[-1].status[0]
        assert status.level == b'\x01'
        assert 'larger than the broker takes; raise its message_size_limit' in status.message


def test_bridge_that_hears_of_no_decision_is_a_warning(make_bridge, make_node, mosquitto, spin_until):
    make_bridge(mosquitto.port)
    listener, reports = make_node(node_name='listener'), []
    listener.create_subscription(DiagnosticArray, '/diagnostics', lambda msg: reports.append(msg.status[0]), 10)
    spin_until(lambda: reports and 'hears of no decision' in reports[-1].message)
    assert reports[-1].level == b'\x01'
    listener.create_publisher(String, 'events', qos.EVENTS)
    spin_until(lambda: reports[-1].level == b'\x00')


def test_event_that_is_told_twice_is_one_event(make_bridge, mosquitto, consumer, decision, spin_until):
    bridge = make_bridge(mosquitto.port, composed=True)
    told, other = event(time.time_ns(), 'none'), event(time.time_ns(), 'none')
    for each in (told, told, other):
        bridge.accept(each, None)
    spin_until(lambda: told_of(consumer, other.id) and figures(decision).get('events_sent') == '2')
    assert figures(decision)['events'] == '2'
    assert len(consumer.payloads('events')) == 2


def test_bridge_that_is_killed_is_offline(ros_environment, mosquitto, tmp_path):  # noqa: ARG001  the environment counts
    parameters = {'broker.port': mosquitto.port, 'spool.directory': tmp_path / 'spool', 'device_id': 'line_1'}
    chosen = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    topic = 'edge_vision/line_1/available'
    bridge = Child('bridge', ['edge_vision.nodes', 'bridge_node', '--ros-args', *chosen], tmp_path / 'bridge.log', {})
    try:
        with Consumer(mosquitto.port, topic) as subscribed:
            subscribed.wait(lambda messages: [m.payload for m in messages] == [b'online'], 60.0)
            bridge.process.kill()
            subscribed.wait(lambda messages: [m.payload for m in messages] == [b'online', b'offline'])
    finally:
        bridge.process.kill()
        bridge.wait()
    with Consumer(mosquitto.port, topic) as late:
        late.wait(lambda messages: [(m.payload, m.retain) for m in messages] == [(b'offline', True)])


def test_spool_in_use_by_another_process_stops_the_node(make_bridge, tmp_path):
    with Spool(tmp_path / 'spool'), pytest.raises(SpoolError):
        make_bridge(free_port())


def test_nobody_else_may_look_into_the_spool(make_bridge, tmp_path):
    make_bridge(free_port())
    assert stat.S_IMODE((tmp_path / 'spool').stat().st_mode) == 0o700


def test_events_that_are_too_old_are_dropped_though_none_comes(make_bridge, decision, spin_until):
    bridge = make_bridge(free_port(), composed=True, parameters={'spool.max_age': 1.0})
    bridge.accept(event(time.time_ns(), 'none'), None)
    spin_until(lambda: figures(decision).get('expired_events') == '1')
    assert figures(decision)['spool_depth'] == '0'
    assert figures(decision)['events_dropped'] == '1'


def test_contradicting_settings_stop_the_node(make_bridge):
    with pytest.raises(ConfigurationError, match=r'none\.crt'):
        make_bridge(free_port(), parameters={'broker.tls.enabled': True, 'broker.tls.ca_certificate': '/none.crt'})


def test_broker_settings_are_those_of_the_parameters():
    params = BridgeParams(broker_host='10.0.0.1', device_id='a/b', tls_enabled=True, delivery_order='stops_first')
    settings = settings_of(params)
    assert (settings.host, settings.port, settings.device_id) == ('10.0.0.1', 1883, 'a_b')
    assert settings.tls.enabled
    assert settings.order == 'stops_first'
