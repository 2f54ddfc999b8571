import numpy as np

from edge_vision.account import Look, begin_event, end_event, facts_of, latency_ms
from edge_vision.decision import Cause
from edge_vision.detections import Detections, InferenceTimes

ORIGIN = {'camera': 'line1', 'device_id': 'd', 'now_ns': 7}
BOXES = np.array([[0, 0, 10, 10], [20, 30, 60, 50]], np.float32)
FOUND = Detections(5, 'cam', BOXES, np.array([0.3, 0.9], np.float32), ('part', 'dent'), image_size=(640, 480))
LOOK = Look('detections', FOUND, None, InferenceTimes(1_000_000, 8_000_000), 9_500_000, 500_000)
DENT = Cause('gate', 'detections', 'stop', 1_000, 'dent', stamp_ns=5, box=1, frames=2)
SILENCE = Cause('no_fresh_image', 'detections', 'stop', 1_000, 'too old')


def test_an_event_tells_the_box_that_caused_it():
    event = begin_event(DENT, LOOK, evidence='crop', **ORIGIN)
    assert (event.rule, event.action, event.phase, event.stamp_ns) == ('gate', 'stop', 'new', 5)
    assert (event.class_id, round(event.score, 3), event.bbox) == ('dent', 0.9, (40.0, 40.0, 40.0, 20.0))
    assert (event.image, event.evidence.kind) == ((640, 480), 'crop')
    assert event.latency_ms == {'capture_to_infer': 1.0, 'infer': 8.0, 'decide': 0.5, 'capture_to_command': 10.0}


def test_an_event_without_a_frame_is_told_of_now():
    event = begin_event(SILENCE, None, evidence='none', **ORIGIN)
    assert (event.stamp_ns, event.class_id, event.bbox, event.latency_ms) == (7, '', None, {})


def test_the_end_of_a_cause_asks_for_no_picture():
    assert end_event(DENT, LOOK, **ORIGIN).evidence.kind == 'none'


def test_stages_that_nobody_timed_are_left_out():
    assert latency_ms(LOOK, None) == {'decide': 0.5, 'capture_to_command': 10.0}


def test_facts_of_a_cause_lead_from_the_stop_back_to_the_frame():
    facts = facts_of(DENT, LOOK, now_ns=2_000_001_000)
    assert facts['gate@detections.held_s'] == 2.0
    assert facts['gate@detections.xyxy'] == [20.0, 30.0, 60.0, 50.0]
    assert facts['gate@detections.stamp_ns'] == 5
    assert facts_of(SILENCE, None, 1_000)['no_fresh_image@detections.reason'] == 'too old'
