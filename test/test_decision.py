import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_vision.causes import BLINDED, FROZEN, NO_FRESH_IMAGE, OPERATOR_STOP, STARTING
from edge_vision.decision import Cause, Command, Decision
from edge_vision.detections import Detections
from edge_vision.errors import ConfigurationError
from edge_vision.params import DecisionParams
from edge_vision.picture import Picture
from edge_vision.rules import Rule, RuleParams

MS = 1_000_000
EPOCH_NS = 1_795_620_896_000_000_000  # stamps are on another clock than the caller's
TIMEOUT_MS = 300
LEFT, RIGHT = BOTH = ('left/detections', 'right/detections')
RUNNING = Command(stop=False, alarm=False, speed_ratio=1.0)
STOPPED = Command(stop=True, alarm=False, speed_ratio=0.0)


LIVE, SAME, DARK = Picture(True, 80.0), Picture(False, 80.0), Picture(True, 3.0)


def seen(stamp_ns, labels, scores=None, picture=None):
    """Make detections; a label may carry a track, as in ``dent#7``."""
    n = len(labels)
    score = np.array(scores or [0.9] * n, np.float32)
    boxes = np.tile(np.float32([0, 0, 9, 9]), (n, 1))
    names, _, tracks = zip(*(label.partition('#') for label in labels), strict=True) if n else ((), (), ())
    return Detections(stamp_ns, 'camera', boxes, score, tuple(names), tuple(tracks), picture=picture)


def rule(name='gate', **params):
    return Rule(name, RuleParams(**{'trigger_consecutive_frames': 1, 'release_consecutive_frames': 1, **params}))


class Line:
    """A decision with a clock in ms, on which every cause must be accounted for."""

    def __init__(self, *rules, sources=('detections',), **params):
        self.params = DecisionParams(detections_topics=sources, **{'release_consecutive_frames': 1, **params})
        self.now_ms = 1000
        self.decision = Decision(self.params, rules, self.now_ms * MS)
        self.source = sources[0]
        self.newest_ms = dict.fromkeys(sources, 0)
        self._held = {cause.key for cause in self.decision.causes}
        self.told = set()

    def frame(self, *labels, age=20, after=33, source=None, scores=None, picture=None):
        """Observe, ``after`` ms later, a frame that is ``age`` ms old; None: nobody can tell how old."""
        self.now_ms += after
        source = source or self.source
        captured_ms = self.now_ms - (age or 0)
        found = seen(EPOCH_NS + captured_ms * MS, labels, scores, picture)
        captured_ns = None if age is None else captured_ms * MS
        outcome = self.decision.complete(self.decision.observe(source, found, captured_ns, self.now_ms * MS))
        timely = age is not None and 0 <= age <= TIMEOUT_MS
        assert outcome.fresh == (timely and self.newest_ms[source] < captured_ms)
        if outcome.fresh:
            self.newest_ms[source] = captured_ms
        return self._account(outcome)

    def old_frame(self, *labels, source=None, before=0):
        """Observe a frame captured ``before`` ms before the newest one of its source."""
        return self.frame(
            *labels, source=source, age=self.now_ms - self.newest_ms[source or self.source] + before, after=0
        )

    def frames(self, count, *labels, **kwargs):
        for _ in range(count):
            outcome = self.frame(*labels, **kwargs)
        return outcome

    def reject(self, source=None):
        return self._account(self.decision.reject(source or self.source, self.now_ms * MS))

    def wait(self, ms):
        self.now_ms += ms
        return self._account(self.decision.tick(self.now_ms * MS))

    def stand(self, ms):
        """Look at a clock that has stood for so long."""
        return self._account(self.decision.tick(self.now_ms * MS, ms * MS))

    def operator(self, hold):
        return self._account(self.decision.operator_stop(hold, self.now_ms * MS))

    def reset(self):
        outcome, self.refusal = self.decision.reset(self.now_ms * MS)
        return self._account(outcome)

    def configure(self, *rules):
        return self._account(self.decision.configure(self.params, rules))

    def _account(self, outcome):
        started, ended = {c.key for c in outcome.started}, {c.key for c in outcome.ended}
        self._held = (self._held | started) - ended
        assert self._held == {cause.key for cause in self.decision.causes}
        assert outcome.command == self.decision.command
        assert outcome.command == most_restrictive(self.decision)
        self._account_for_events(outcome)
        return outcome

    def _account_for_events(self, outcome):
        """Every object told of is told of once, ends once, and no later than its cause."""
        for sighting in outcome.appeared:
            assert (sighting.cause.key, sighting.track_id) not in self.told
            self.told.add((sighting.cause.key, sighting.track_id))
        for sighting in outcome.left:
            self.told.remove((sighting.cause.key, sighting.track_id))
        assert {key for key, _ in self.told} <= self._held

    @property
    def causes(self):
        return [cause.name for cause in self.decision.causes]

    @property
    def command(self):
        return self.decision.command


def most_restrictive(decision):
    """Say again what is commanded, in other words; rules slow down to a half."""
    actions = {cause.action for cause in decision.causes}
    ratio = 0.0 if 'stop' in actions else 0.5 if 'slowdown' in actions else 1.0
    return Command('stop' in actions, 'alarm' in actions, ratio)


def running(*rules, **params):
    line = Line(*rules, **params)
    for source in line.params.detections_topics:
        line.frames(line.params.release_consecutive_frames, source=source, after=1)
    assert line.command == RUNNING
    return line


# Starting and seeing nothing


def test_it_starts_stopped():
    line = Line(sources=BOTH)
    assert line.command == STOPPED
    assert [(cause.name, cause.source) for cause in line.decision.causes] == [(STARTING, LEFT), (STARTING, RIGHT)]


@pytest.mark.parametrize('count', [1, 2, 5])
def test_exactly_so_many_fresh_frames_in_a_row_release_the_start(count):
    line = Line(release_consecutive_frames=count)
    for _ in range(count - 1):
        assert line.frame().command.stop
    outcome = line.frame()
    assert outcome.command == RUNNING
    assert [cause.name for cause in outcome.ended] == [STARTING]


INTERRUPTIONS = {
    'late': lambda line: line.frame(age=TIMEOUT_MS + 1),
    'future': lambda line: line.frame(age=-1),
    'repeated': lambda line: line.old_frame(),
    'reordered': lambda line: line.old_frame(before=15),
    'malformed': lambda line: line.reject(),
    'silence': lambda line: line.wait(TIMEOUT_MS),
}


@pytest.mark.parametrize('interrupt', INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_whatever_is_no_fresh_look_makes_the_count_begin_again(interrupt):
    line = Line(release_consecutive_frames=3)
    line.frames(2)
    assert interrupt(line).command.stop
    assert line.frames(2).command.stop
    assert line.frame().command == RUNNING


def test_gap_between_two_frames_counts_although_nobody_looked_at_the_time():
    line = Line(release_consecutive_frames=3)
    line.frames(2)
    assert line.frame(after=TIMEOUT_MS + 1).command.stop
    line = running(release_consecutive_frames=2)
    outcome = line.frame(after=TIMEOUT_MS + 1)
    assert [cause.name for cause in outcome.started] == [NO_FRESH_IMAGE]
    assert outcome.command.stop
    assert line.frame().command == RUNNING


def test_image_is_fresh_until_it_is_older_than_the_timeout():
    line = running()
    assert line.wait(TIMEOUT_MS - 20).command == RUNNING
    outcome = line.wait(1)
    assert outcome.command == STOPPED
    (cause,) = outcome.started
    assert (cause.name, cause.source, cause.since_ns) == (NO_FRESH_IMAGE, 'detections', line.now_ms * MS)
    assert cause.reason == 'the newest image of detections is 0.301 s old, allowed are 0.3 s'


def test_frames_that_come_but_are_old_are_no_fresh_look():
    line = running()
    for _ in range(30):
        line.frame(age=TIMEOUT_MS + 1)
    assert line.causes == [NO_FRESH_IMAGE]


def test_age_of_the_image_counts_not_of_the_message():
    line = Line()
    assert line.frame(age=TIMEOUT_MS).command == RUNNING
    assert line.wait(1).command == STOPPED


@pytest.mark.parametrize('count', [1, 3])
def test_fresh_frames_in_a_row_end_the_lack_of_vision(count):
    line = running(release_consecutive_frames=count)
    line.wait(TIMEOUT_MS + 1)
    assert line.frames(count - 1).command.stop if count > 1 else line.command.stop
    assert line.frame().command == RUNNING


def test_each_source_must_be_seen():
    line = Line(sources=BOTH)
    line.frame(source=LEFT)
    assert line.command.stop
    line.frame(source=RIGHT)
    assert line.command == RUNNING
    for _ in range(12):
        line.frame(source=LEFT)
    assert [(cause.name, cause.source) for cause in line.decision.causes] == [(NO_FRESH_IMAGE, RIGHT)]


def test_time_that_goes_back_is_no_fresh_look():
    line = running(release_consecutive_frames=2)
    line.now_ms -= 500
    assert line.wait(0).command.stop
    assert line.causes == [NO_FRESH_IMAGE]
    line.newest_ms['detections'] = 0
    assert line.frame().command.stop
    assert line.frame().command == RUNNING


def test_clock_that_stands_stops_and_fresh_frames_release_once_it_goes_on():
    line = running(release_consecutive_frames=2)
    assert line.stand(TIMEOUT_MS).command == RUNNING
    outcome = line.stand(TIMEOUT_MS + 12)
    assert outcome.command == STOPPED
    assert outcome.started[0].reason.endswith(' on a simulated clock that has stood for 0.312 s, allowed are 0.3 s')
    assert not line.stand(TIMEOUT_MS + 40).changed
    assert line.frame().command == STOPPED
    assert line.frame().command == RUNNING


def test_clock_that_stands_says_nothing_of_what_was_never_seen():
    line = Line()
    line.stand(TIMEOUT_MS + 1)
    assert line.causes == [STARTING]


def test_reset_is_refused_while_the_clock_stands():
    line = running(rule(latch=True))
    line.frame('dent')
    line.frame()
    outcome, refusal = line.decision.reset(line.now_ms * MS, (TIMEOUT_MS + 1) * MS)
    assert outcome.command == STOPPED
    assert refusal.startswith('still held by no_fresh_image: the newest image')


@pytest.mark.parametrize('now_ms', [0, 40, TIMEOUT_MS], ids=lambda ms: f'{ms} ms after the clock began')
def test_frame_of_an_age_that_nobody_can_tell_is_no_fresh_look(now_ms):
    params = DecisionParams(release_consecutive_frames=1)
    decision = Decision(params, [rule()], 0)
    assert not decision.observe('detections', seen(EPOCH_NS, ()), None, now_ms * MS).fresh
    assert decision.command == STOPPED
    assert decision.observe('detections', seen(EPOCH_NS + 1, ['dent']), None, now_ms * MS).started[0].name == 'gate'


def test_seeing_nothing_is_said_once():
    line = running()
    started = [cause for _ in range(5) for cause in line.wait(TIMEOUT_MS).started]
    assert len(started) == 1


# Rules


@pytest.mark.parametrize('count', [1, 2, 4])
def test_exactly_so_many_frames_in_a_row_trigger(count):
    line = running(rule(trigger_consecutive_frames=count))
    for _ in range(count - 1):
        assert not line.frame('dent').changed
    outcome = line.frame('dent')
    assert outcome.command == STOPPED
    (cause,) = outcome.started
    assert (cause.name, cause.source, cause.action, cause.frames) == ('gate', 'detections', 'stop', count)


def test_clear_fresh_frame_makes_the_trigger_count_begin_again():
    line = running(rule(trigger_consecutive_frames=2))
    for labels in (['dent'], [], ['dent'], []):
        assert line.frame(*labels).command == RUNNING


@pytest.mark.parametrize('interrupt', list(INTERRUPTIONS)[:-1])
def test_what_is_no_fresh_look_does_not_hide_what_was_seen(interrupt):
    line = running(rule(trigger_consecutive_frames=2))
    line.frame('dent')
    INTERRUPTIONS[interrupt](line)
    line.frame('dent')
    assert 'gate' in line.causes


@pytest.mark.parametrize('age', [TIMEOUT_MS + 1, -1, 20])
def test_frame_that_is_not_fresh_triggers_all_the_same(age):
    line = running(rule())
    assert not line.frame('dent', age=age, after=0).fresh
    assert 'gate' in line.causes


@pytest.mark.parametrize('count', [1, 2, 4])
def test_exactly_so_many_clear_fresh_frames_in_a_row_release(count):
    line = running(rule(release_consecutive_frames=count))
    line.frame('dent')
    for _ in range(count - 1):
        assert line.frame().command.stop
    outcome = line.frame()
    assert outcome.command == RUNNING
    assert [cause.name for cause in outcome.ended] == ['gate']


@pytest.mark.parametrize('interrupt', INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_whatever_is_no_fresh_look_makes_the_release_count_begin_again(interrupt):
    line = running(rule(release_consecutive_frames=3))
    line.frame('dent')
    line.frames(2)
    interrupt(line)
    assert line.frames(2).command.stop
    assert line.frame().command == RUNNING


def test_cause_names_the_best_detection_and_the_frame():
    line = running(rule(classes=('dent', 'scratch'), min_score=0.5))
    outcome = line.frame('person', 'dent', 'scratch', 'dent', scores=[0.99, 0.6, 0.8, 0.4])
    (cause,) = outcome.started
    assert cause.box == 2
    assert cause.stamp_ns == EPOCH_NS + (line.now_ms - 20) * MS
    assert cause.since_ns == line.now_ms * MS
    assert cause.reason == 'scratch 0.80 in gate, 1 frames in a row'
    assert outcome.flagged.tolist() == [1, 2]


def test_flagged_are_those_of_all_rules_once_triggered_or_not():
    line = running(rule('a', classes=('dent',), trigger_consecutive_frames=9), rule('b', classes=('dent', 'person')))
    assert line.frame('dent', 'cup', 'person').flagged.tolist() == [0, 2]
    assert line.frame().flagged.tolist() == []


def test_same_rule_on_two_sources_is_two_causes():
    line = running(rule(), sources=BOTH)
    line.frame('dent', source=LEFT, after=1)
    line.frame('dent', source=RIGHT, after=1)
    line.frame(source=LEFT, after=1)
    assert line.command.stop
    assert line.frame(source=RIGHT, after=1).command == RUNNING


ACTIONS = ['stop', 'slowdown', 'alarm', 'flag']


@pytest.mark.parametrize('held', [[], *[[a] for a in ACTIONS], *[[a, b] for a in ACTIONS for b in ACTIONS], ACTIONS])
def test_most_restrictive_action_wins(held):
    rules = [rule(f'{action}_{i}', action_type=action) for i, action in enumerate(held)]
    line = running(*rules)
    command = line.frame('dent').command
    assert command.stop == ('stop' in held)
    assert command.alarm == ('alarm' in held)
    assert command.speed_ratio == (0.0 if 'stop' in held else 0.5 if 'slowdown' in held else 1.0)


def test_least_speed_of_several_slowdowns_wins():
    line = running(
        rule('a', action_type='slowdown', slowdown_ratio=0.8),
        rule('b', action_type='slowdown', slowdown_ratio=0.3, classes=('dent',)),
    )
    decision = line.decision
    for label, ratio in (('person', 0.8), ('dent', 0.3), ('person', 0.8)):
        line.now_ms += 33
        captured_ns = line.now_ms * MS
        outcome = decision.observe('detections', seen(captured_ns, [label]), captured_ns, captured_ns)
        assert outcome.command.speed_ratio == ratio


def test_rule_that_is_not_enabled_does_nothing():
    line = running(rule(enabled=False))
    outcome = line.frame('dent')
    assert outcome.command == RUNNING
    assert outcome.flagged.tolist() == []


def test_rule_of_one_camera_leaves_the_others_alone():
    line = running(rule(cameras=('left',)), sources=BOTH)
    assert line.frame('dent', source=RIGHT).flagged.tolist() == []
    assert line.command == RUNNING
    assert line.frame('dent', source=LEFT).command.stop


@pytest.mark.parametrize('count', [1, 2, 3])
def test_so_many_detections_make_a_frame_count(count):
    line = running(rule(min_detections=count))
    assert line.frame(*['dent'] * (count - 1)).command == RUNNING
    assert line.frame(*['dent'] * count).command.stop
    assert line.frame(*['dent'] * (count - 1)).command == RUNNING


def test_object_counts_once_it_has_stayed():
    line = running(rule(dwell_time=0.09))
    for _ in range(3):
        assert line.frame('person#1', after=33).command == RUNNING
    assert line.frame('person#1', after=33).command.stop


def test_objects_that_pass_one_after_the_other_do_not_stay():
    line = running(rule(dwell_time=0.09))
    for i in range(10):
        assert line.frame(f'person#{i}', after=33).command == RUNNING


def test_without_tracks_the_rule_itself_stays():
    line = running(rule(dwell_time=0.09))
    assert line.frames(3, 'person').command == RUNNING
    assert line.frame('person').command.stop


def test_object_missed_for_less_than_the_release_still_stays():
    line = running(rule(dwell_time=0.12, release_consecutive_frames=3))
    line.frame('person#1')
    line.frames(2)
    assert line.frame('person#1').command == RUNNING
    assert line.frame('person#1').command.stop


def test_stop_holds_for_whatever_is_in_the_zone_however_short():
    line = running(rule(dwell_time=0.09))
    line.frames(5, 'person#1')
    assert line.frame('person#2').command.stop
    assert line.frame().command == RUNNING


def test_more_objects_than_can_be_remembered_stop_all_the_same():
    line = running(rule(dwell_time=0.05, trigger_consecutive_frames=2), rule('any'))
    many = [f'dent#{i}' for i in range(3000)]
    assert line.frame(*many).command.stop
    for i in range(5):
        line.frame(*many[i * 100 :])
    assert line.causes == ['any', 'gate']
    line.frame()
    assert line.causes == []


# Objects and their events


def appeared(outcome):
    return [sighting.track_id for sighting in outcome.appeared]


def left(outcome):
    return [sighting.track_id for sighting in outcome.left]


def test_what_nobody_asks_for_comes_with_the_next_outcome():
    line = running(rule())
    quiet = line.decision
    captured = line.now_ms + 10
    for i in range(3):
        at = (captured + 10 * i) * MS
        outcome = quiet.observe('detections', seen(at, ['dent#1']), at, at)
        assert not outcome.appeared
    assert outcome.command.stop
    assert not quiet.tick((captured + 40) * MS).appeared  # which may come between a frame and what it is completed by
    told, _ = quiet.reset((captured + 40) * MS)
    assert [sighting.track_id for sighting in told.appeared] == ['1']
    assert not quiet.reset((captured + 50) * MS)[0].appeared


@given(
    st.lists(st.tuples(st.lists(st.sampled_from(['dent#1', 'dent#2', 'cup#3', 'cup']), max_size=3), st.booleans())),
    st.sampled_from([{}, {'dwell_time': 0.06}, {'min_detections': 2}, {'cooldown': 0.1}, {'latch': True}]),
)
def test_when_events_are_asked_for_changes_neither_them_nor_the_commands(frames, params):
    rules = [rule(**params), rule('cups', classes=['cup'], action_type='alarm', release_consecutive_frames=2)]
    at_once, later = ([], []), ([], [])
    for always, (commands, told) in ((True, at_once), (False, later)):
        decision = Decision(DecisionParams(release_consecutive_frames=1), rules, 0)
        for i, (labels, asked) in enumerate([*frames, ((), True)], 1):
            outcome = decision.observe('detections', seen(i * 30 * MS, labels), i * 30 * MS, i * 30 * MS)
            commands.append((outcome.command, outcome.started, outcome.ended))
            if always or asked:
                outcome = decision.complete(outcome)
                told += [*outcome.appeared, *((sighting, 'left') for sighting in outcome.left)]
    assert at_once[0] == later[0]
    assert sorted(map(str, at_once[1])) == sorted(map(str, later[1]))


def test_each_object_is_told_of_by_itself():
    line = running(rule())
    line.frame('dent#1')
    (sighting,) = line.frame('dent#1', 'cup#2', scores=[0.9, 0.75]).appeared
    assert (sighting.class_id, sighting.track_id, sighting.box, sighting.frames) == ('cup', '2', 1, 1)


def test_one_object_is_told_of_once():
    line = running(rule(trigger_consecutive_frames=2, release_consecutive_frames=2))
    told = [line.frame('dent#7') for _ in range(5)]
    assert [appeared(outcome) for outcome in told] == [[], ['7'], [], [], []]
    (sighting,) = told[1].appeared
    assert (sighting.cause, sighting.box, sighting.class_id, sighting.frames) == (told[1].started[0], 0, 'dent', 2)
    assert left(line.frame()) == []
    outcome = line.frame()
    assert left(outcome) == ['7']
    assert [cause.name for cause in outcome.ended] == ['gate']


def test_second_object_is_told_of_while_the_first_still_holds():
    line = running(rule(trigger_consecutive_frames=2, release_consecutive_frames=2))
    line.frames(2, 'dent#1')
    assert appeared(line.frame('dent#1', 'dent#2')) == []
    assert appeared(line.frame('dent#1', 'dent#2')) == ['2']
    assert left(line.frame('dent#2')) == []
    assert left(line.frame('dent#2')) == ['1']
    line.frame()
    assert left(line.frame()) == ['2']


def test_best_object_is_told_of_first_and_those_beside_it_too():
    line = running(rule())
    outcome = line.frame('dent#1', 'dent#2', 'dent#3', scores=[0.6, 0.9, 0.7])
    assert appeared(outcome) == ['2', '3', '1']
    assert sorted(left(line.frame())) == ['1', '2', '3']


def test_objects_without_a_track_are_told_of_as_one():
    line = running(rule())
    assert appeared(line.frame('dent', 'dent', 'dent')) == ['']
    assert appeared(line.frame('dent')) == []


def test_track_that_changes_with_every_frame_is_told_of_once():
    line = running(rule(trigger_consecutive_frames=2))
    assert sum(len(line.frame(f'dent#{i}').appeared) for i in range(20)) == 1


def test_events_wait_for_the_cooldown_but_commands_never_do():
    line = running(rule(cooldown=1.0))
    assert appeared(line.frame('dent#1')) == ['1']
    assert left(line.frame()) == ['1']
    outcome = line.frame('dent#2')
    assert outcome.command.stop
    assert appeared(outcome) == []
    assert left(line.frame()) == []
    line.frames(28)
    assert appeared(line.frame('dent#3')) == ['3']


def test_object_that_is_still_there_after_the_cooldown_is_told_of():
    line = running(rule(cooldown=0.2))
    line.frame('dent#1', 'dent#2')
    assert [track for _ in range(8) for track in appeared(line.frame('dent#1', 'dent#2'))] == ['2']


def test_latched_object_is_told_gone_when_it_is_reset():
    line = running(rule(latch=True))
    line.frame('dent#1')
    assert left(line.frames(5)) == []
    assert left(line.reset()) == ['1']


# What pictures are like


@pytest.mark.parametrize(('picture', 'name', 'timeout'), [(SAME, FROZEN, 1000), (DARK, BLINDED, 500)])
def test_pictures_that_are_no_use_stop_after_their_timeout_and_useful_ones_release(picture, name, timeout):
    line = running(release_consecutive_frames=3)
    line.frame(picture=LIVE, after=33)
    for _ in range(timeout // 50):
        assert line.frame(picture=picture, after=50).command == RUNNING
    outcome = line.frame(picture=picture, after=50)
    assert [cause.name for cause in outcome.started] == [name]
    assert outcome.started[0].reason.endswith(f'for {(timeout + 50) / 1000:.3f} s, allowed are {timeout / 1000} s')
    line.frames(30, picture=picture)
    assert line.causes == [name]
    assert line.frames(2, picture=LIVE).command.stop
    assert line.frame(picture=LIVE).command == RUNNING


@pytest.mark.parametrize('picture', [SAME, DARK])
def test_pictures_that_are_no_use_never_release(picture):
    line = Line(rule(), release_consecutive_frames=2)
    assert all(line.frame(picture=picture).command.stop for _ in range(60))
    line = running(rule())
    line.frame('dent', picture=LIVE)
    assert line.frame(picture=picture).command.stop


def test_repeated_picture_neither_helps_nor_hinders():
    line = Line(release_consecutive_frames=3)
    for picture in (LIVE, SAME, LIVE, SAME):
        assert line.frame(picture=picture).command.stop
    assert line.frame(picture=LIVE).command == RUNNING


def test_dark_picture_makes_the_count_begin_again():
    line = Line(release_consecutive_frames=3)
    for picture in (LIVE, LIVE, DARK, LIVE, LIVE):
        assert line.frame(picture=picture).command.stop
    assert line.frame(picture=LIVE).command == RUNNING


@pytest.mark.parametrize('picture', [SAME, DARK])
def test_what_is_seen_in_a_useless_picture_stops_all_the_same(picture):
    line = running(rule())
    line.frame(picture=LIVE)
    assert line.frame('dent', picture=picture).command.stop


@pytest.mark.parametrize(('picture', 'off'), [(SAME, 'frozen_timeout'), (DARK, 'blinded_timeout')])
def test_checks_of_the_picture_can_be_switched_off(picture, off):
    line = Line(release_consecutive_frames=2, **{off: 0.0})
    assert line.frames(50, picture=picture).command == RUNNING


def test_source_that_tells_nothing_of_its_pictures_is_not_checked():
    line = running()
    assert line.frames(100).command == RUNNING


def test_source_that_told_of_its_pictures_must_go_on_to():
    line = Line()
    line.frames(2, picture=LIVE)
    assert line.command == RUNNING
    started = [cause.name for _ in range(60) for cause in line.frame().started]
    assert started == line.causes == [BLINDED, FROZEN]


def test_frame_whose_picture_should_be_known_and_is_not_releases_nothing():
    line = Line(release_consecutive_frames=2)
    line.decision.expect_pictures('detections')
    assert line.frames(20).command.stop
    line.frame(picture=LIVE)
    line.frame()
    assert line.frame(picture=LIVE).command == RUNNING
    line.wait(5000)
    assert line.frames(20).command.stop


def test_pictures_that_come_twice_release_a_frozen_camera():
    line = running(release_consecutive_frames=3)
    line.frame(picture=LIVE)
    line.frames(40, picture=SAME)
    for picture in (LIVE, SAME, LIVE, SAME):
        assert line.frame(picture=picture).command.stop
    assert line.frame(picture=LIVE).command == RUNNING


@pytest.mark.parametrize(('picture', 'off'), [(SAME, 'frozen_timeout'), (DARK, 'blinded_timeout')])
def test_check_that_is_switched_off_still_releases_on_fresh_frames_only(picture, off):
    line = running(release_consecutive_frames=3)
    line.frame(picture=LIVE)
    line.frames(40, picture=picture)
    line.params = DecisionParams(release_consecutive_frames=3, **{off: 0.0})
    assert line.configure().command.stop
    assert line.frame(age=TIMEOUT_MS + 1, picture=picture).command.stop
    assert line.frames(2, picture=picture).command.stop
    assert line.frame(picture=picture).command == RUNNING


def test_pictures_from_before_a_silence_are_not_compared_with_those_after_it():
    line = Line()
    line.frame(picture=LIVE)
    line.wait(5000)
    line.frame(picture=SAME)
    assert line.causes == [NO_FRESH_IMAGE]
    assert line.frame(picture=LIVE).command == RUNNING


# Latch, operator and reset


def test_latched_stop_is_released_by_reset_only_once_nothing_holds_it():
    line = running(rule(latch=True))
    line.frame('dent')
    assert line.reset().command.stop
    line.frames(20)
    assert line.command.stop
    assert line.decision.causes[0].latched
    assert line.reset().command == RUNNING


def test_latched_stop_seen_again_needs_clear_frames_again():
    line = running(rule(latch=True, release_consecutive_frames=2))
    line.frame('dent')
    line.frames(2)
    line.frame('dent')
    assert line.reset().command.stop
    line.frame()
    assert line.reset().command.stop
    line.frame()
    assert line.reset().command == RUNNING


def test_operator_stop_is_released_by_the_operator_only():
    line = running(rule())
    assert line.operator(hold=True).started[0].name == OPERATOR_STOP
    assert not line.operator(hold=True).changed
    line.frames(20)
    assert line.reset().command.stop
    assert line.configure().command.stop
    assert line.operator(hold=False).command == RUNNING
    assert not line.operator(hold=False).changed


def test_operator_cannot_release_what_else_holds():
    line = running(rule())
    line.frame('dent')
    assert line.operator(hold=False).command.stop
    line = Line()
    assert line.operator(hold=False).command.stop
    assert line.reset().command.stop


def test_reset_is_refused_whole_while_anything_else_stops():
    line = running(rule('left', latch=True, classes=('dent',)), rule('right', classes=('person',)))
    line.frame('dent')
    line.frame('person')
    assert line.decision.causes[0].latched
    refused = line.reset()
    assert refused.command.stop
    assert not refused.changed
    line.frame()
    assert line.causes == ['left']
    assert line.reset().command == RUNNING


def test_what_was_kept_over_a_restart_holds_until_it_is_reset():
    line = running(rule('gate', latch=True))
    line.frame('dent')
    line.operator(hold=True)
    assert {cause.name for cause in line.decision.kept} == {'gate', OPERATOR_STOP}
    held = [Cause('gate', 'detections', 'stop', 0, 'kept', latched=True), Cause(OPERATOR_STOP, '', 'stop', 0, 'kept')]
    again = Decision(line.params, [rule('gate', latch=True)], line.now_ms * MS, held)
    line.decision, line._held = again, {cause.key for cause in again.causes}
    line.told.clear()
    line.frames(9)
    assert line.causes == ['gate', OPERATOR_STOP]
    assert not line.reset().changed
    line.operator(hold=False)
    assert line.reset().command == RUNNING


def test_output_that_does_not_exist_is_refused():
    with pytest.raises(ConfigurationError, match="outputs holds 'stopp', expected some of"):
        DecisionParams(outputs=('stopp',))


def test_reset_is_refused_until_the_scene_is_seen():
    line = running(rule(latch=True), release_consecutive_frames=3)
    line.frame('dent', picture=LIVE)
    line.frames(3, picture=LIVE)
    line.frame(picture=DARK)
    line.frames(2, picture=LIVE)
    assert line.reset().command.stop
    assert line.refusal == 'not the last 3 images of detections were fresh looks'
    line.frame(picture=LIVE)
    assert line.reset().command == RUNNING
    assert line.refusal == ''


def test_reset_looks_at_the_time_first():
    line = running(rule(latch=True))
    line.frame('dent')
    line.frame()
    line.now_ms += TIMEOUT_MS
    assert line.reset().command.stop
    assert line.refusal.startswith('still held by no_fresh_image: the newest image')


def test_latch_outlives_being_switched_off():
    line = running(rule(latch=True))
    line.frame('dent')
    line.frame()
    line.configure(rule(latch=False))
    line.frame('dent')
    assert line.frame().command.stop
    assert line.reset().command == RUNNING


@pytest.mark.parametrize('clear_frames', [0, 3], ids=['still seen', 'clear'])
def test_latch_outlives_its_rule_that_did_something_else_meanwhile(clear_frames):
    line = running(rule(latch=True))
    line.frame('dent')
    for _ in range(clear_frames):
        line.frame()
    line.configure(rule(action_type='flag'))
    line.frame('dent')
    assert not line.configure(rule()).started
    assert line.reset().command.stop
    assert line.refusal.startswith('still held by gate')
    assert line.frames(3).command.stop
    assert [cause.name for cause in line.decision.kept] == ['gate']
    assert line.reset().command == RUNNING


def test_latch_switched_on_holds_what_holds_already():
    line = running(rule())
    line.frame('dent')
    line.configure(rule(latch=True))
    assert [cause.name for cause in line.decision.kept] == ['gate']
    assert line.frames(5).command.stop


# Other rules while it runs

CHANGES = {
    'removed': [],
    'disabled': [rule(enabled=False)],
    'another action': [rule(action_type='flag')],
}


@pytest.mark.parametrize('rules', CHANGES.values(), ids=CHANGES)
def test_cause_of_a_rule_that_is_no_more_ends(rules):
    line = running(rule())
    line.frame('dent')
    outcome = line.configure(*rules)
    assert outcome.command == RUNNING
    assert [cause.name for cause in outcome.ended] == ['gate']


@pytest.mark.parametrize('clear_frames', [0, 5], ids=['still seen', 'clear'])
@pytest.mark.parametrize('rules', CHANGES.values(), ids=CHANGES)
def test_latched_stop_outlives_its_rule(rules, clear_frames):
    line = running(rule(latch=True))
    line.frame('dent')
    line.frames(clear_frames) if clear_frames else None
    assert line.configure(*rules).command.stop
    assert line.frames(5).command.stop
    assert line.reset().command == RUNNING


def test_latched_alarm_does_not_keep_its_rule_from_stopping_later():
    line = running(rule(latch=True, action_type='alarm'))
    line.frame('dent')
    line.frame()
    line.configure(rule(latch=True, action_type='stop'))
    assert line.frame('dent').command == Command(stop=True, alarm=True, speed_ratio=0.0)


def test_other_causes_go_on_when_rules_change():
    line = running(rule('a', release_consecutive_frames=3), rule('b'))
    line.frame('dent')
    line.frames(2)
    outcome = line.configure(rule('a', release_consecutive_frames=3, min_score=0.7))
    assert outcome.command.stop
    assert line.causes == ['a']
    assert line.frame().command == RUNNING


def test_objects_are_told_of_again_under_the_other_action_of_their_rule():
    line = running(rule())
    for _ in range(3):
        line.frame('dent#1')
    line.configure(rule(action_type='alarm'))
    told = line.frame('dent#1').appeared
    assert [(sighting.track_id, sighting.cause.action) for sighting in told] == [('1', 'alarm')]
    assert not line.frame('dent#1').appeared


def test_rule_that_gets_another_action_goes_on_with_that_at_once():
    line = running(rule())
    line.frame('dent#1')
    outcome = line.configure(rule(action_type='slowdown'))
    assert (outcome.command.stop, outcome.command.speed_ratio) == (False, 0.5)
    line.frame('dent#1')
    assert line.configure(rule()).command.stop
    assert line.frame().command == RUNNING


def test_object_of_a_camera_that_was_left_out_meanwhile_has_not_stayed():
    line = running(rule(dwell_time=0.09), sources=(LEFT,))
    line.frames(2, 'person#1')
    line.configure(rule(enabled=False))
    line.frames(5, 'person#1')
    line.configure(rule(dwell_time=0.09))
    assert line.frames(2, 'person#1').command == RUNNING


def test_rule_added_while_it_runs_is_in_force_with_the_next_frame():
    line = running()
    assert line.configure(rule()).command == RUNNING
    assert line.frame('dent').command.stop


def test_slowdown_whose_rule_is_no_more_lets_nothing_through():
    line = running(rule(latch=True, action_type='slowdown'))
    line.frame('dent')
    assert line.decision.configure(line.params, []).command.speed_ratio == 0.0


def test_timeout_changed_while_it_runs_is_in_force_at_once():
    line = running()
    line.decision.configure(DecisionParams(source_timeout=0.1, release_consecutive_frames=1), [])
    assert line.wait(81).command.stop


# Laws

STEPS = {
    'late': lambda line, source: line.frame(age=TIMEOUT_MS + 1, source=source),
    'late hit': lambda line, source: line.frame('dent', age=TIMEOUT_MS + 1, source=source),
    'future': lambda line, source: line.frame(age=-20, source=source),
    'of no known age': lambda line, source: line.frame(age=None, source=source),
    'repeated': lambda line, source: line.old_frame(source=source),
    'reordered': lambda line, source: line.old_frame(source=source, before=15),
    'malformed': lambda line, source: line.reject(source),
    'short wait': lambda line, source: line.wait(40),
    'long wait': lambda line, source: line.wait(TIMEOUT_MS + 1),
    'standing clock': lambda line, source: line.stand(TIMEOUT_MS + 1),
    'same picture': lambda line, source: line.frame(source=source, picture=SAME),
    'dark picture': lambda line, source: line.frame(source=source, picture=DARK),
    'hit in the dark': lambda line, source: line.frame('dent', source=source, picture=DARK),
    'clear': lambda line, source: line.frame(source=source, picture=LIVE),
    'clear after a pause': lambda line, source: line.frame(source=source, after=TIMEOUT_MS + 1, picture=LIVE),
    'hit': lambda line, source: line.frame('dent#1', 'cup#2', source=source, picture=LIVE),
    'other hit': lambda line, source: line.frame('dent#3', source=source, picture=LIVE),
    'reset': lambda line, source: line.reset(),
    'operator stops': lambda line, source: line.operator(hold=True),
    'operator releases': lambda line, source: line.operator(hold=False),
    'no rules': lambda line, source: line.configure(),
    'rules': lambda line, source: line.configure(*RULES),
    'alarms only': lambda line, source: line.configure(*[rule(r.name, latch=True, action_type='alarm') for r in RULES]),
    'latching flags': lambda line, source: line.configure(rule('latching', action_type='flag')),
    'latching lets go': lambda line, source: line.configure(rule('latching', latch=False)),
}
RULES = [
    rule('stopping', release_consecutive_frames=2),
    rule('staying', dwell_time=0.05, min_detections=2, cooldown=0.1),
    rule('latching', latch=True, trigger_consecutive_frames=2),
    rule('slowing', action_type='slowdown'),
    rule('alarming', action_type='alarm', latch=True),
]
UNUSABLE = list(STEPS)[: list(STEPS).index('clear')]
USELESS_PICTURES = ['same picture', 'dark picture', 'hit in the dark']
CHANGES_OF_RULES = list(STEPS)[list(STEPS).index('no rules') :]
TOO_LATE = [name for name in UNUSABLE if name not in {*USELESS_PICTURES, 'standing clock'}]


def sequences(names, *, sources=BOTH, most=25):
    return st.lists(st.tuples(st.sampled_from(list(names)), st.sampled_from(sources)), max_size=most)


def run(line, steps):
    return [STEPS[name](line, source) for name, source in steps]


def held_by_latch():
    line = running(rule('latching', latch=True), sources=BOTH)
    line.frame('dent', source=LEFT, after=1)
    return line


def held_by_operator():
    line = running(sources=BOTH)
    line.operator(hold=True)
    return line


def held_by_rule():
    line = running(*RULES, sources=BOTH)
    line.frame('dent', source=LEFT, after=1)
    return line


def held_by_silence():
    line = running(*RULES, sources=BOTH)
    line.wait(TIMEOUT_MS + 1)
    return line


def held_by_start():
    return Line(*RULES, sources=BOTH)


@pytest.mark.parametrize('held', [held_by_start, held_by_silence, held_by_rule, held_by_latch, held_by_operator])
@given(sequences([*UNUSABLE, 'reset']))
def test_nothing_but_fresh_frames_ever_releases_a_stop(held, steps):
    line = held()
    if held is held_by_rule:
        line.frame(source=LEFT, age=TIMEOUT_MS + 1)
    assert all(outcome.command.stop for outcome in run(line, steps))


@given(sequences([name for name in STEPS if name != 'reset']))
def test_latched_stop_survives_everything_but_reset(steps):
    assert all(outcome.command.stop for outcome in run(held_by_latch(), steps))


@given(sequences(['clear', 'hit', *CHANGES_OF_RULES], sources=[LEFT]))
def test_latched_stop_survives_whatever_becomes_of_its_rule(steps):
    line = held_by_latch()
    run(line, steps)
    STEPS['clear'](line, LEFT)
    STEPS['clear'](line, RIGHT)
    assert line.command.stop
    assert ('latching', LEFT, 'stop') in {cause.key for cause in line.decision.kept}


@given(sequences([name for name in STEPS if name != 'operator releases']))
def test_operator_stop_survives_everything_but_its_release(steps):
    assert all(outcome.command.stop for outcome in run(held_by_operator(), steps))


@pytest.mark.parametrize('sources', [(LEFT,), BOTH], ids=['one source', 'two sources'])
@given(st.data())
def test_it_runs_exactly_while_every_source_has_been_seen_often_enough(sources, data):
    count = data.draw(st.integers(1, 3))
    line = Line(sources=sources, release_consecutive_frames=count)
    in_a_row, is_seen = dict.fromkeys(sources, 0), dict.fromkeys(sources, False)
    first = data.draw(sequences(['clear'], sources=sources))
    then = data.draw(sequences([*TOO_LATE, 'clear', 'clear after a pause'], sources=sources))
    for name, source in first + then:
        newest_ms = dict(line.newest_ms)
        outcome = STEPS[name](line, source)
        for each in sources:
            if line.now_ms - newest_ms[each] > TIMEOUT_MS:
                in_a_row[each], is_seen[each] = 0, False
        if not name.endswith('wait'):
            in_a_row[source] = in_a_row[source] + 1 if outcome.fresh else 0
            is_seen[source] |= in_a_row[source] >= count
        assert outcome.command == (RUNNING if all(is_seen.values()) else STOPPED)


@given(sequences([*TOO_LATE, 'clear', 'hit']))
def test_each_source_is_decided_on_as_if_it_were_alone(steps):
    both = Line(*RULES, sources=BOTH, release_consecutive_frames=2)
    run(both, steps)
    alone = {}
    for own in BOTH:
        line = Line(*RULES, sources=(own,), release_consecutive_frames=2)
        for name, source in steps:
            if source == own or name.endswith('wait'):
                STEPS[name](line, own)
            elif name not in {'malformed', 'repeated', 'reordered'}:
                line.now_ms += 33
        line.wait(0)
        alone[own] = line
    both.wait(0)
    together = {cause.key: cause for cause in both.decision.causes}
    assert together.keys() == {cause.key for line in alone.values() for cause in line.decision.causes}
    assert all(together[c.key].latched == c.latched for line in alone.values() for c in line.decision.causes)


@given(st.data())
def test_order_in_which_sources_interleave_makes_no_difference(data):
    names = st.lists(st.sampled_from(['clear', 'hit']), min_size=1, max_size=8)
    left, right = data.draw(names), data.draw(names)
    order = data.draw(st.permutations([LEFT] * len(left) + [RIGHT] * len(right)))

    def outcome(order):
        line = Line(*RULES, sources=BOTH, release_consecutive_frames=2)
        queues = {LEFT: list(left), RIGHT: list(right)}
        for source in order:
            labels = ['dent'] if queues[source].pop(0) == 'hit' else []
            line.frame(*labels, source=source, after=1, age=0)
        return line.command, {(*cause.key, cause.latched, cause.frames) for cause in line.decision.causes}

    assert outcome(order) == outcome(sorted(order))


@given(sequences(STEPS))
def test_looking_at_the_time_more_often_changes_nothing_but_when_it_is_noticed(steps):
    seldom, often = (Line(*RULES, sources=BOTH, release_consecutive_frames=2) for _ in range(2))
    for name, source in steps:
        STEPS[name](seldom, source)
        often.wait(0)
        STEPS[name](often, source)
        assert seldom.command == often.command
    assert {cause.key for cause in seldom.decision.causes} == {cause.key for cause in often.decision.causes}
