import json
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from mqtt_broker import Consumer, free_port
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from edge_vision.errors import ConfigurationError, SpoolError
from edge_vision.events import BBox, Event, Evidence, event_id
from edge_vision.frames import Frame
from edge_vision.nodes import qos
from edge_vision.nodes.bridge_node import BridgeNode, broker_settings, spool_directory
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
    node.image_pub = node.create_publisher(Image, 'image_raw', qos.NEWEST)
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


def test_image_that_comes_after_its_event_is_waited_for(make_bridge, mosquitto, decision, consumer, spin_until):
    make_bridge(mosquitto.port)
    spin_until(lambda: decision.events_pub.get_subscription_count() and decision.image_pub.get_subscription_count())
    stamp_ns = time.time_ns()
    decision.events_pub.publish(String(data=event(stamp_ns, 'frame').to_json()))
    decision.image_pub.publish(image_to_msg(frame(stamp_ns)))
    spin_until(lambda: consumer.payloads('evidence'))
    picture = cv2.imdecode(np.frombuffer(consumer.payloads('evidence')[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (480, 640, 3)


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


def test_text_that_is_no_event_is_dropped_and_counted(make_bridge, mosquitto, decision, consumer, spin_until):
    make_bridge(mosquitto.port)
    spin_until(decision.events_pub.get_subscription_count)
    decision.events_pub.publish(String(data='not an event'))
    decision.events_pub.publish(String(data=event(time.time_ns(), 'none').to_json()))
    spin_until(lambda: consumer.payloads('events') and figures(decision).get('malformed') == '1')
    assert len(consumer.payloads('events')) == 1


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


def test_bytes_kept_at_home_are_counted(make_bridge, mosquitto, decision, spin_until):
    make_bridge(mosquitto.port)
    spin_until(decision.info_pub.get_subscription_count)
    for _ in range(3):
        decision.info_pub.publish(CameraInfo(width=640, height=480))
    spin_until(lambda: figures(decision).get('bytes_captured') == str(3 * 640 * 480 * 3))


def test_spool_in_use_by_another_process_stops_the_node(make_bridge, tmp_path):
    with Spool(tmp_path / 'spool'), pytest.raises(SpoolError):
        make_bridge(free_port())


def test_contradicting_settings_stop_the_node(make_bridge):
    with pytest.raises(ConfigurationError, match=r'none\.crt'):
        make_bridge(free_port(), parameters={'broker.tls.enabled': True, 'broker.tls.ca_certificate': '/none.crt'})


def test_broker_settings_are_those_of_the_parameters():
    settings = broker_settings(BridgeParams(broker_host='10.0.0.1', device_id='a/b', tls_enabled=True))
    assert (settings.host, settings.port, settings.device_id) == ('10.0.0.1', 1883, 'a_b')
    assert settings.tls.enabled


def test_every_namespace_has_a_spool_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path))
    assert spool_directory(BridgeParams(), '/line1/left') != spool_directory(BridgeParams(), '/line1/right')
    assert spool_directory(BridgeParams(), '/').is_relative_to(tmp_path)
    assert spool_directory(BridgeParams(spool_directory='/data/spool'), '/x').as_posix() == '/data/spool'
