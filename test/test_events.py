import json
import re
import threading
import uuid
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vision.errors import EdgeVisionError
from edge_vision.events import BBox, Event, EventError, Evidence, event_id, topic_segment

STAMP_NS = 1_795_620_896_123_456_789


def event(**changes):
    values = {
        'id': event_id(STAMP_NS),
        'device_id': 'line1-edge',
        'camera': 'camera',
        'rule': 'defect_at_gate',
        'action': 'stop',
        'phase': 'new',
        'stamp_ns': STAMP_NS,
        'class_id': 'dent',
        'score': 0.875,
        'track_id': '7',
        'bbox': BBox(320.0, 240.0, 40.0, 30.0),
        'image': (640, 480),
        'latency_ms': {'capture_to_infer': 1.25, 'infer': 12.5, 'decide': 0.25, 'capture_to_command': 14.0},
        'evidence': Evidence('crop'),
    }
    return Event(**{**values, **changes})


def test_event_is_written_as_cloudevents_json():
    completed = event().with_picture(b'\xff\xd8jpeg', 'edge_vision/line1-edge/evidence/1')
    assert json.loads(completed.to_json()) == {
        'specversion': '1.0',
        'id': completed.id,
        'source': '/line1-edge/camera',
        'type': 'edge_vision.event.v1',
        'subject': 'defect_at_gate',
        'time': datetime.fromtimestamp(STAMP_NS // 10**9, timezone.utc).strftime('%Y-%m-%dT%H:%M:%S.123456Z'),
        'datacontenttype': 'application/json',
        'data': {
            'phase': 'new',
            'rule': 'defect_at_gate',
            'action': 'stop',
            'class_id': 'dent',
            'score': 0.875,
            'track_id': '7',
            'bbox': {'center_x': 320.0, 'center_y': 240.0, 'size_x': 40.0, 'size_y': 30.0},
            'image': {'width': 640, 'height': 480},
            'stamp_ns': STAMP_NS,
            'latency_ms': {'capture_to_infer': 1.25, 'infer': 12.5, 'decide': 0.25, 'capture_to_command': 14.0},
            'evidence': {
                'kind': 'crop',
                'content_type': 'image/jpeg',
                'bytes': 6,
                'sha256': completed.evidence.sha256,
                'topic': 'edge_vision/line1-edge/evidence/1',
            },
        },
    }


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'phase': 'end', 'bbox': None, 'score': None, 'class_id': '', 'image': None, 'latency_ms': {}},
        {'rule': 'no_fresh_image', 'evidence': Evidence(reason='no picture of that stamp')},
        {'device_id': 'gerät 1', 'camera': 'line1/camera'},
    ],
    ids=['full', 'end without a box', 'built-in cause', 'names that need quoting'],
)
def test_event_survives_the_way_through_json(changes):
    original = event(**changes)
    assert Event.from_json(original.to_json()) == original


def test_numpy_numbers_are_written_as_json_numbers():
    left, top, right, bottom = np.array([300, 225, 340, 255], np.float32)
    text = event(score=np.float32(0.9), bbox=BBox.from_xyxy(left, top, right, bottom)).to_json()
    data = json.loads(text)['data']
    assert data['score'] == 0.9
    assert data['bbox'] == {'center_x': 320.0, 'center_y': 240.0, 'size_x': 40.0, 'size_y': 30.0}


def test_box_keeps_its_edges():
    assert BBox.from_xyxy(1.0, 2.0, 5.0, 8.0).xyxy == (1.0, 2.0, 5.0, 8.0)


def test_missing_picture_says_why():
    data = json.loads(event().without_picture('the spool was full').to_json())['data']
    assert data['evidence']['kind'] == 'none'
    assert data['evidence']['reason'] == 'the spool was full'


def test_number_that_json_cannot_carry_is_refused():
    with pytest.raises(EventError, match='not finite'):
        event(score=float('nan')).to_json()


def changed(path, value):
    envelope = json.loads(event().to_json())
    target = envelope
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return json.dumps(envelope)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{', 'not JSON'),
        ('[' * 100_000, 'not JSON'),
        ('[]', 'expected a JSON object'),
        ('{"specversion": NaN}', 'not JSON'),
        (changed(['specversion'], '0.3'), r"event\.specversion is '0\.3', expected one of"),
        (changed(['type'], 'com.example'), r'event\.type'),
        (changed(['id'], ''), r'event\.id'),
        (changed(['source'], 'camera'), r"expected '/<device_id>/<camera>'"),
        (changed(['data'], None), r'event\.data is None'),
        (changed(['data', 'phase'], 'begin'), r"event\.data\.phase is 'begin', expected one of \['new', 'end'\]"),
        (changed(['data', 'action'], 'explode'), r'event\.data\.action'),
        (changed(['data', 'stamp_ns'], -1), r'event\.data\.stamp_ns is -1, expected a whole number'),
        (changed(['data', 'stamp_ns'], True), r'event\.data\.stamp_ns'),
        (changed(['data', 'score'], 'high'), r'event\.data\.score'),
        (changed(['data', 'bbox', 'size_x'], None), r'event\.data\.bbox\.size_x'),
        (changed(['data', 'evidence', 'kind'], 'film'), r'event\.data\.evidence\.kind'),
    ],
    ids=str,
)
def test_malformed_event_is_refused_with_the_field_named(text, reason):
    with pytest.raises(EventError, match=reason) as caught:
        Event.from_json(text)
    assert isinstance(caught.value, (EdgeVisionError, ValueError))


@given(st.text(max_size=300) | st.binary(max_size=100).map(lambda b: b.decode('latin1')))
def test_any_text_is_an_event_or_an_event_error(text):
    with pytest.raises(EventError):
        Event.from_json(text)


def test_ids_are_version_7_and_carry_the_time():
    identifier = uuid.UUID(event_id(STAMP_NS))
    assert identifier.version == 7
    assert identifier.variant == uuid.RFC_4122
    assert identifier.int >> 80 >= STAMP_NS // 10**6


def test_ids_of_one_millisecond_are_unique_and_sorted():
    ids = [event_id(STAMP_NS) for _ in range(10_000)]
    assert ids == sorted(set(ids))


def test_ids_keep_their_order_when_the_clock_steps_back():
    before, after = event_id(STAMP_NS + 10**15), event_id(STAMP_NS)
    assert after > before


def test_ids_made_by_many_threads_are_unique():
    ids = []
    threads = [threading.Thread(target=lambda: ids.extend([event_id(STAMP_NS) for _ in range(1000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8000


@pytest.mark.parametrize(
    ('text', 'segment'),
    [
        ('line1', 'line1'),
        ('a/b', 'a_b'),
        ('a+b#c', 'a_b_c'),
        ('$SYS', '_SYS'),
        ('a\x00b\n', 'a_b_'),
        ('', 'unnamed'),
        ('gerät', 'gerät'),
    ],
)
def test_topic_segment_holds_nothing_that_mqtt_reads(text, segment):
    assert topic_segment(text) == segment


@given(st.text())
def test_topic_segment_is_safe_for_any_text(text):
    assert re.fullmatch(r'[^/+#\x00-\x1f]+', topic_segment(text))


def test_device_is_filled_in_later_without_changing_the_rest():
    fresh = event(device_id='')
    assert json.loads(replace(fresh, device_id='d1').to_json())['source'] == '/d1/camera'
