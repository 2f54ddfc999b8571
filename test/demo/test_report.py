import pytest

from edge_vision.demo.report import Run, figures, human_bytes, percentile, stop_reactions, table, yearly_bill

MS = 1_000_000


def event(name, stamp_ms, *, phase='new', class_id='dent', command_ms=5.0):
    data = {
        'phase': phase,
        'action': 'stop',
        'class_id': class_id,
        'stamp_ns': stamp_ms * MS,
        'latency_ms': {'capture_to_command': command_ms},
    }
    return {'id': name, 'subject': 'defect', 'data': data}


def run(*, events=(), stops=(), delivered=None, captured=(), decided=(), infer_ns=(), health=None, truth=None):
    seen = {
        'events': list(events),
        'stops': [(at * MS, value) for at, value in stops],
        'captured': [(at * MS, 100) for at in captured],
        'decided': [(at * MS, received * MS) for at, received in decided],
        'infer_ns': [(at * MS, ns * MS) for at, ns in infer_ns],
        'health': health or {},
        'truth': truth or {},
    }
    arrived = {e['id']: e for e in (events if delivered is None else delivered)}
    return Run(seen, arrived, {}, 0, 0)


@pytest.mark.parametrize(('percent', 'expected'), [(50, 2), (99, 4), (100, 4), (1, 1)])
def test_percentiles_are_values_that_occurred(percent, expected):
    assert percentile([4, 1, 3, 2], percent) == expected


def test_nothing_has_no_percentile():
    assert percentile([], 50) is None


def test_a_stop_is_timed_from_the_frame_that_caused_it():
    seen = run(events=[event('a', 1000)], stops=[(0, True), (500, False), (1010, True)])
    assert stop_reactions(seen) == {'a': 10.0}


def test_a_stop_that_held_already_is_not_timed():
    assert stop_reactions(run(events=[event('a', 1000)], stops=[(0, True), (2000, False), (3000, True)])) == {}


def test_two_events_do_not_share_one_command():
    seen = run(events=[event('a', 1000), event('b', 1002)], stops=[(1010, True)])
    assert stop_reactions(seen) == {'a': 10.0}


def test_an_end_and_a_loss_of_vision_are_not_timed():
    events = [event('a', 1000, phase='end'), event('b', 1000, class_id='')]
    assert stop_reactions(run(events=events, stops=[(1010, True)])) == {}


def test_frames_are_counted_between_the_first_and_the_last_decision():
    seen = run(
        captured=[0, 100, 200, 300, 400, 500, 600],
        decided=[(100, 112), (300, 310), (500, 514)],
        health={'line1: detector': {'backend': 'openvino', 'replaced': '1'}},
    )
    report = figures(seen, mode='composed', model='m.onnx')
    assert report['frames_captured'] == 5
    assert report['frames_processed'] == 3
    assert (report['frames_replaced'], report['frames_lost']) == (1, 1)
    assert report['fps'] == 5.0
    assert report['backend'] == 'openvino'
    assert report['bytes_captured'] == 500


def test_times_are_those_after_the_first_second():
    seen = run(
        decided=[(0, 300), (999, 1200), (1000, 1012), (1100, 1110), (1200, 1214)],
        infer_ns=[(0, 100), (1000, 8), (1100, 8), (1200, 8)],
    )
    report = figures(seen, mode='composed', model='m.onnx')
    assert report['frames_processed'] == 5
    assert report['reaction_ms'] == {'p50': 12.0, 'p99': 14.0}
    assert report['inference_ms'] == {'p50': 8.0, 'p99': 8.0}
    assert report['overhead_ms'] == {'p50': 4.0, 'p99': 6.0}


def test_an_event_that_never_arrived_is_counted_as_flagged_only():
    report = figures(run(events=[event('a', 1), event('b', 2)], delivered=[event('a', 1)]), mode='', model='')
    assert (report['events_flagged'], report['events_delivered']) == (2, 1)


def test_a_report_of_nothing_can_be_laid_out():
    text = table(figures(run(), mode='composed', model='m.onnx'))
    assert '0 decided' in text
    assert 'Line' not in text


def test_the_bill_is_what_a_year_of_pictures_weighs():
    assert yearly_bill(1000.0, 10.0, 0.05) == pytest.approx(1000 * 10 * 365 * 86400 / 1e9 * 0.05)


@pytest.mark.parametrize(('count', 'text'), [(0, '0 B'), (999, '999 B'), (1500, '1.5 kB'), (2.5e12, '2.5 TB')])
def test_bytes_are_written_for_people(count, text):
    assert human_bytes(count) == text


def test_a_stop_for_lack_of_vision_or_at_the_end_is_no_false_stop():
    truth = {'false_stops': 3, 'stops': [{'cause': 'nothing', 'stamp_ns': at * MS} for at in (1010, 5000, 9010)]}
    blind = {**event('a', 1000, class_id=''), 'subject': 'no_fresh_image'}
    report = figures(run(events=[blind], truth=truth, decided=[(500, 510), (8990, 9000)]), mode='', model='')
    assert (report['false_stops'], report['blind_stops']) == (1, 1)
