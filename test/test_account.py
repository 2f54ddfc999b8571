import numpy as np

from edge_vision.account import Look, Teller, facts_of, latency_ms
from edge_vision.causes import OPERATOR_RESET
from edge_vision.decision import Cause, Sighting
from edge_vision.detections import Detections, InferenceTimes
from edge_vision.events import Event
from edge_vision.rules import RuleParams

TELLER = Teller('line1', 'd', now_ns=7)
BOXES = np.array([[0, 0, 10, 10], [20, 30, 60, 50]], np.float32)
SCORES = np.array([0.3, 0.9], np.float32)
FOUND = Detections(5, 'cam', BOXES, SCORES, ('part', 'dent'), ('3', '4'), image_size=(640, 480))
LOOK = Look('detections', FOUND, None, InferenceTimes(1_000_000, 8_000_000), 9_500_000, 500_000)
DENT = Cause('gate', 'detections', 'stop', 1_000, 'dent in gate', stamp_ns=5, box=1, frames=2)
SIGHTING = Sighting(DENT, 1, '4', 'dent', 2)
SILENCE = Cause('no_fresh_image', 'detections', 'stop', 1_000, 'too old', stamp_ns=3)
ZONE = (0.0, 0.0, 1.0, 0.0, 1.0, 1.0)
RULE = RuleParams(points=ZONE, evidence='crop')


def test_an_event_tells_the_object_and_everything_that_led_to_it():
    event = TELLER.appear(SIGHTING, LOOK, RULE)
    assert (event.rule, event.action, event.phase, event.stamp_ns) == ('gate', 'stop', 'new', 5)
    assert (event.class_id, round(event.score, 3), event.bbox) == ('dent', 0.9, (40.0, 40.0, 40.0, 20.0))
    assert (event.image, event.evidence.kind, event.track_id) == ((640, 480), 'crop', '4')
    assert event.latency_ms == {'capture_to_infer': 1.0, 'infer': 8.0, 'decide': 0.5, 'capture_to_command': 10.0}
    assert (event.frames, event.zone, event.reason) == (2, ZONE, 'dent 0.90 in gate, 2 frames in a row')


def test_an_event_reaches_the_other_end_whole():
    for event in (TELLER.appear(SIGHTING, LOOK, RULE), TELLER.reset('let go of gate', ['/rqt'])):
        assert Event.from_json(event.to_json()).to_json() == event.to_json()


def test_an_event_without_a_frame_is_told_of_now():
    event = TELLER.begin(SILENCE, None)
    assert (event.stamp_ns, event.class_id, event.bbox, event.latency_ms) == (7, '', None, {})
    assert event.reason == 'too old'


def test_the_end_of_a_sighting_names_its_object_and_asks_for_no_picture():
    event = TELLER.leave(SIGHTING, LOOK)
    assert (event.phase, event.class_id, event.track_id, event.evidence.kind) == ('end', 'dent', '4', 'none')


def test_a_reset_tells_the_answer_and_who_may_have_asked():
    event = TELLER.reset('let go of gate', ['/rqt'])
    assert (event.rule, event.action, event.phase) == (OPERATOR_RESET, 'flag', 'new')
    assert (event.reason, event.by, event.stamp_ns) == ('let go of gate', ('/rqt',), 7)


def test_stages_that_nobody_timed_are_left_out():
    assert latency_ms(LOOK, None) == {'decide': 0.5, 'capture_to_command': 10.0}


def test_facts_of_a_cause_lead_from_the_stop_back_to_the_frame():
    facts = facts_of(DENT, LOOK, ZONE, now_ns=2_000_001_000)
    assert {key.rpartition('.')[0] for key in facts} == {'gate@detections'}
    told = {key.rpartition('.')[2]: value for key, value in facts.items()}
    assert (told['held_s'], told['xyxy'], told['stamp_ns']) == (2.0, [20.0, 30.0, 60.0, 50.0], 5)
    assert (told['frame_id'], told['class_id'], told['track_id'], told['frames']) == ('cam', 'dent', '4', 2)
    assert (told['zone'], told['infer_ms'], told['capture_to_command_ms']) == (list(ZONE), 8.0, 10.0)


def test_facts_of_silence_name_its_last_picture():
    facts = facts_of(SILENCE, None, (), 1_000)
    assert facts['no_fresh_image@detections.reason'] == 'too old'
    assert facts['no_fresh_image@detections.stamp_ns'] == 3
