"""Who keeps which id."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_vision.detections import Detections
from edge_vision.errors import ConfigurationError
from edge_vision.simulator.world import VIEW_WIDTH_M, World
from edge_vision.tracking import FEW, KNOT, Tracker, assign, knots, near_pairs, pair

START_NS = 1_700_000_000_000_000_000
SIZE = 40.0


def frame(at_s, *objects, size=SIZE, class_id='part', score=0.9, start_ns=START_NS):
    """Make boxes at centres (x, y), or (x, y, class) or (x, y, class, score), at so many s from the start."""
    full = [(*found, *(class_id, score)[len(found) - 2 :]) for found in objects]
    boxes = [(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x, y, _, _ in full]
    return Detections(
        stamp_ns=start_ns + round(at_s * 1e9),
        frame_id='camera',
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        score=np.array([found[3] for found in full], np.float32),
        class_id=tuple(found[2] for found in full),
        image_size=(640, 480),
    )


def follow(frames, **options):
    """Track through frames; gives the ids of each."""
    tracker = Tracker(**options)
    return [tracker.update(one).track_id for one in frames]


def steps(rate, duration):
    return [k / rate for k in range(round(rate * duration))]


def test_ids_are_decimal_numbers_that_count_up():
    first, second = follow([frame(0, (100, 100)), frame(0.1, (100, 100), (300, 100))])
    assert second[0] == first[0]
    assert int(second[1]) > int(first[0]) > 0


def test_two_trackers_of_a_process_never_give_the_same_id():
    one, other = follow([frame(0, (100, 100))]), follow([frame(0, (100, 100))])
    assert one != other


def test_all_else_is_handed_on_as_it_came():
    given_one = frame(0, (100, 100), (300, 100))
    tracked = Tracker().update(given_one)
    assert (tracked.stamp_ns, tracked.frame_id, tracked.image_size) == (START_NS, 'camera', (640, 480))
    assert tracked.xyxy is given_one.xyxy
    assert tracked.score is given_one.score
    assert tracked.class_id == given_one.class_id


def test_crossing_objects_keep_their_ids():
    ids = follow(frame(t, (100 + 200 * t, 200 + 20 * t), (500 - 200 * t, 220 - 20 * t)) for t in steps(30, 2))
    assert set(ids) == {ids[0]}


def test_objects_that_cross_while_one_hides_the_other_keep_their_ids():
    def seen(t):
        both = (100 + 200 * t, 200, 'part'), (500 - 200 * t, 200, 'part')
        return both if abs(both[0][0] - both[1][0]) > SIZE / 2 else both[:1]

    ids = follow(frame(t, *seen(t)) for t in steps(30, 2))
    assert {len(found) for found in ids} == {1, 2}
    assert all(found == ids[0][: len(found)] for found in ids)


@pytest.mark.parametrize('rate', [5, 10, 30, 60])
@pytest.mark.parametrize(('hidden', 'kept'), [(0.8, True), (1.4, False)])
def test_a_hidden_object_keeps_its_id_for_max_age(rate, hidden, kept):
    times = [t for t in steps(rate, 4) if not 1 < t < 1 + hidden]
    ids = follow((frame(t, (100 + 100 * t, 200)) for t in times), max_age=1.0)
    assert len(set(ids)) == (1 if kept else 2)


def test_tracks_age_in_empty_frames():
    ids = follow(frame(t, *[(100, 200)] * (t < 0.5 or t > 2)) for t in steps(20, 3))
    assert ids[0] != ids[-1]


def test_tracks_survive_empty_frames_within_max_age():
    ids = follow(frame(t, *[(100, 200)] * (t < 0.5 or t > 1.2)) for t in steps(20, 3))
    assert ids[0] == ids[-1]


def test_what_left_and_comes_back_elsewhere_is_new():
    gone = [frame(t, (600 + 100 * t, 200)) for t in steps(20, 0.3)]
    back = [frame(0.5 + t, (20 + 100 * t, 200)) for t in steps(20, 0.3)]
    ids = follow(gone + back)
    assert len(set(ids)) == 2


def test_neighbours_of_one_class_keep_their_ids_when_they_start_together():
    def x(t):
        return 100 + 150 * max(0, t - 0.5) ** 2

    ids = follow(frame(t, (x(t), 200), (x(t) + 1.1 * SIZE, 200), (x(t) + 2.2 * SIZE, 200)) for t in steps(15, 2))
    assert set(ids) == {ids[0]}


@pytest.mark.parametrize('rate', [10, 30, 60])
def test_stop_and_go_keeps_the_id(rate):
    def x(t):
        return 100 + 160 * (min(t, 1) + max(0, t - 4))

    ids = follow(frame(t, (x(t), 200)) for t in steps(rate, 5))
    assert len(set(ids)) == 1


def test_what_brakes_within_a_frame_keeps_its_id():
    ids = follow(frame(t, (50 + 15 * SIZE * min(t, 0.8), 200)) for t in steps(10, 2))
    assert len(set(ids)) == 1


def test_what_lies_on_something_moving_is_expected_to_move_along():
    frames = []
    for t in steps(10, 1):
        plate = frame(t, (100 + 500 * t, 200), size=200)
        flaws = frame(t, *[(100 + 500 * t, 200, 'dent')] * (t in (0.5, 0.7, 0.8)), size=20)
        joined = {name: np.concatenate([getattr(plate, name), getattr(flaws, name)]) for name in ('xyxy', 'score')}
        frames.append(replace(plate, **joined, class_id=plate.class_id + flaws.class_id, track_id=()))
    ids = follow(frames)
    assert ids[5] == ids[7] == ids[8]


@pytest.mark.parametrize('step', [0.5, 1.0, 1.6], ids=['half', 'its size', 'more than its size'])
def test_large_steps_at_a_low_rate_are_followed(step):
    ids = follow(frame(t, (50 + step * SIZE * 5 * t, 200)) for t in steps(5, 2))
    assert len(set(ids)) == 1


def test_dropped_frames_do_not_break_a_known_motion():
    times = [t for t in steps(30, 3) if round(t * 30) % 7 in (0, 1, 2)]
    ids = follow(frame(t, (50 + 8 * SIZE * t, 200)) for t in times)
    assert len(set(ids)) == 1


def test_what_appears_near_an_objects_place_is_new():
    ids = follow(frame(t, (100, 200), *[(100 + 0.8 * SIZE, 200)] * (t >= 1)) for t in steps(20, 2))
    assert len(set(ids[0] + ids[-1])) == 2
    assert {found[0] for found in ids} == set(ids[0])


def test_what_appears_beside_a_hidden_objects_place_is_new():
    ids = follow(frame(t, (100 + SIZE * 1.3 * (t >= 1), 200)) for t in steps(20, 1.5))
    assert ids[0] != ids[-1]


def test_what_walks_by_a_hidden_object_keeps_its_own_id():
    seen = ([(300, 200)] * (t < 0.5) + [(100 + 220 * t, 200)] for t in steps(30, 1.4))
    ids = follow(frame(t, *found) for t, found in zip(steps(30, 1.4), seen, strict=True))
    assert {found[-1] for found in ids} == {ids[0][-1]}


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('rate', [10, 30, 60])
def test_noise_and_missed_boxes_do_not_change_ids(rate, seed):
    rng = np.random.default_rng(seed)
    owners = {}
    tracker = Tracker()
    for t in steps(rate, 4):
        centres = [(50 + 120 * t, 100), (600 - 120 * t, 190), (300, 300), (300 + 1.5 * SIZE, 300)]
        there = [i for i in range(4) if t < 0.5 or rng.uniform() > 0.2]
        noisy = [tuple(np.array(centres[i]) + rng.normal(0, 0.05 * SIZE, 2)) for i in there]
        for i, name in zip(there, tracker.update(frame(t, *noisy)).track_id, strict=True):
            owners.setdefault(i, set()).add(name)
    assert sorted(len(names) for names in owners.values()) == [1, 1, 1, 1]
    assert len(set.union(*owners.values())) == 4


def test_a_weak_box_continues_a_track_but_begins_none():
    ids = follow(
        [
            frame(0.0, (100, 200, 'part', 0.3)),
            frame(0.1, (100, 200, 'part', 0.6)),
            frame(0.2, (100, 200, 'part', 0.3), (300, 200, 'part', 0.49)),
        ],
        confident=0.5,
    )
    assert ids[0] == ('',)
    assert ids[1][0]
    assert ids[2] == (ids[1][0], '')


def test_a_confident_box_is_preferred_to_a_nearer_weak_one():
    ids = follow([frame(0, (100, 200)), frame(0.1, (100, 200, 'part', 0.3), (110, 200, 'part', 0.9))])
    assert ids[1] == ('', ids[0][0])


def test_a_class_that_flickers_in_its_place_keeps_the_id():
    flicker = itertools.cycle(['scratch', 'scratch', 'dent'])
    ids = follow(frame(t, (100 + 100 * t, 200, next(flicker))) for t in steps(20, 2))
    assert len(set(ids)) == 1


def test_a_weak_flicker_keeps_the_id():
    ids = follow(
        [frame(0, (100, 200, 'scratch')), frame(0.1, (100, 200, 'dent', 0.3)), frame(0.2, (100, 200, 'scratch'))]
    )
    assert len(set(ids)) == 1


def test_its_own_class_comes_before_a_nearer_box_of_another():
    ids = follow([frame(0, (100, 200, 'person')), frame(0.1, (100, 200, 'dog'), (115, 200, 'person'))])
    assert ids[1][1] == ids[0][0] != ids[1][0]


def test_another_class_beside_its_place_is_another_object():
    ids = follow([frame(0, (100, 200, 'person')), frame(0.1, (100 + 0.7 * SIZE, 200, 'dog'))])
    assert ids[0] != ids[1]


def test_two_classes_at_one_place_are_two_objects():
    ids = follow(frame(t, (100, 200, 'scratch'), (100, 200, 'dent')) for t in steps(20, 1))
    assert len(set(ids)) == 1
    assert len(set(ids[0])) == 2


@pytest.mark.parametrize('jump', [-0.001, -5.0, -1.7e9, 1.5, 3.0e8], ids=str)
def test_a_jump_of_the_stamps_ends_all_tracks(jump):
    before = [frame(t, (100, 200)) for t in steps(20, 1)]
    after = [frame(0.95 + jump + t, (100, 200)) for t in steps(20, 1)]
    ids = follow(before + after)
    assert len(set(ids[:20])) == len(set(ids[20:])) == 1
    assert ids[0] != ids[-1]


def test_a_stamp_seen_twice_changes_nothing():
    ids = follow(frame(t, (100 + 100 * t, 200)) for t in sorted(steps(20, 1) * 2))
    assert len(set(ids)) == 1


@given(st.permutations(range(6)), st.integers(0, 2**32 - 1))
def test_the_order_of_the_boxes_does_not_decide_who_gets_which_id(order, seed):
    rng = np.random.default_rng(seed)
    centres = [(100 + 60 * i, 200 + float(rng.uniform(0, 40)), 'ab'[i % 2]) for i in range(6)]

    def ids(order):
        tracker = Tracker()
        generator = np.random.default_rng(seed)
        for t in steps(10, 0.5):
            moved = [(x + 200 * t, y + float(generator.normal(0, 4)), label) for x, y, label in centres]
            found = tracker.update(frame(t, *(moved[i] for i in order))).track_id
        named = {i: int(name) for i, name in zip(order, found, strict=True)}
        return {i: name - min(named.values()) for i, name in named.items()}

    assert ids(order) == ids(range(6))


numbers = st.floats(0, 1e6, width=32) | st.floats(width=32) | st.sampled_from([0.0, 5.0, 10.0])


@st.composite
def anything(draw):
    n = draw(st.integers(0, 12))
    return Detections(
        stamp_ns=draw(st.integers(0, 2_000_000_000) | st.integers(-(2**63), 2**63 - 1)),
        frame_id=draw(st.sampled_from(['', 'camera'])),
        xyxy=draw(arrays(np.float32, (n, 4), elements=numbers)),
        score=draw(arrays(np.float32, (n,), elements=st.floats(0, 1, width=32) | st.just(math.nan))),
        class_id=tuple(draw(st.lists(st.sampled_from(['', 'part', 'dent']), min_size=n, max_size=n))),
    )


@pytest.mark.filterwarnings('error')
@given(st.lists(anything(), max_size=8))
def test_no_detections_upset_the_tracker(frames):
    tracker = Tracker()
    for found in frames:
        ids = tracker.update(found).track_id
        named = [name for name in ids if name]
        assert len(set(named)) == len(named)
        for i, name in enumerate(ids):
            if found.score[i] >= 0.5 and np.isfinite(found.xyxy[i]).all():
                assert name


@pytest.mark.parametrize('spread', [0, 100, 2000], ids=['identical', 'crowded', 'wide'])
@pytest.mark.parametrize('period', [0.0, 0.03], ids=['standing clock', '30 Hz'])
def test_floods_of_new_boxes_do_not_pile_up(spread, period):
    rng = np.random.default_rng(1)
    tracker = Tracker()
    for k in range(12):
        centres = [tuple(centre) for centre in rng.uniform(0, spread, (300, 2))]
        ids = tracker.update(frame(k * period, *centres)).track_id
        assert len(set(ids)) == 300
        assert '' not in ids
    assert len(tracker._tracks) <= 400


@pytest.mark.parametrize(
    ('name', 'value'), [('confident', 1.1), ('max_age', 0.0), ('reach', -1.0), ('max_age', math.nan)]
)
def test_values_out_of_bounds_are_refused(name, value):
    with pytest.raises(ConfigurationError, match=f'{name} of the tracker is {value!r}'):
        Tracker(**{name: value})


def cheapest(table):
    """Least total cost by trying everything, the shorter side placed in full."""
    if len(table) > len(table[0]):
        table = list(zip(*table, strict=True))
    columns = itertools.permutations(range(len(table[0])), len(table))
    return min(sum(row[col] for row, col in zip(table, chosen, strict=True)) for chosen in columns)


costs = st.floats(0, 4) | st.integers(0, 4).map(float)
tables = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.lists(st.lists(costs, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
)


@given(tables)
@example([[1.0, 2.0], [2.0, 4.0]])
def test_an_assignment_is_the_best_of_all(table):
    pairs = assign(table)
    rows, cols = zip(*pairs, strict=True)
    assert len(set(rows)) == len(set(cols)) == len(pairs) == min(len(table), len(table[0]))
    assert sum(table[row][col] for row, col in pairs) == pytest.approx(cheapest(table))


links = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.floats(0, 1), max_size=25)


@given(links)
def test_pairs_spare_most_of_all_within_a_knot(links):
    found = pair(dict(sorted(links.items(), key=lambda link: link[1])), 1.0)
    table = [[links.get((row, col), 1.0) for col in range(5)] for row in range(5)]
    assert set(found) <= set(links)
    assert len({row for row, _ in found}) == len({col for _, col in found}) == len(found)
    assert sum(1.0 - links[link] for link in found) == pytest.approx(5.0 - cheapest(table))


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), unique=True, max_size=200))
def test_knots_are_small_and_hold_everything_once(links):
    groups = knots(links)
    assert all(len(rows) + len(cols) <= KNOT for rows, cols in groups)
    assert sorted(row for rows, _ in groups for row in rows) == sorted({row for row, _ in links})
    assert sorted(col for _, cols in groups for col in cols) == sorted({col for _, col in links})


@given(st.lists(st.tuples(*[st.floats(0, 1000, width=32)] * 4), min_size=FEW + 1, max_size=30), st.integers(1, 4))
def test_few_and_many_boxes_are_compared_alike(boxes, tracks):
    expected, limit = boxes[:tracks], 4.0
    one_by_one = {
        (row, col): cost
        for row in range(tracks)
        for col in range(len(boxes))
        for cost, _, _ in near_pairs([expected[row]], [boxes[col]], limit)
    }
    together = {(row, col): cost for cost, row, col in near_pairs(expected, boxes, limit)}
    assert together == pytest.approx(one_by_one)


def things_in_view(world, scale=1600.0):
    """What a faultless camera finds: (what it is, class, box in pixels) of the parts and flaws that show."""
    for part in world.scene.parts:
        x = world.scene.belt_m - part.belt_m
        yield from _shown((part.part_id, 'part'), 'part', x, part.y_m, 2 * part.half_extent_m, part.width_m, scale)
        for number, flaw in enumerate(part.defects):
            along = x + part.defect_offset_m(flaw)
            across = part.y_m + flaw.x_m * math.sin(part.angle) + flaw.y_m * math.cos(part.angle)
            extent = 0.8 * flaw.size_m
            yield from _shown((part.part_id, number), flaw.class_id, along, across, extent, extent, scale)


def _shown(thing, class_id, x, y, length, width, scale):
    left, right = max(0.0, x - length / 2), min(VIEW_WIDTH_M, x + length / 2)
    if right - left >= 0.4 * length:
        box = np.array([left, 0.15 + y - width / 2, right, 0.15 + y + width / 2])
        yield thing, class_id, box * scale


def names_on_the_line(rate, seed, missed, noise, duration=12.0):
    """Run the line with two stops; gives the ids that each thing had."""
    rng = np.random.default_rng(seed)
    world = World(seed=seed, defect_rate=0.8)
    tracker = Tracker()
    names = {}
    commands = {0.0: True, 4.0: False, 7.0: True, 9.0: False, 9.4: True}
    for t in steps(rate, duration):
        for at in [at for at in commands if at <= t]:
            world.set_run(commands.pop(at), at)
        world.advance(t)
        seen = [thing for thing in things_in_view(world) if rng.uniform() >= missed]
        boxes = np.array([box + noise * rng.normal(size=4) * np.tile(box[2:] - box[:2], 2) for _, _, box in seen])
        labels = tuple(class_id for _, class_id, _ in seen)
        found = Detections(
            START_NS + round(t * 1e9),
            'camera',
            boxes.reshape(-1, 4).astype(np.float32),
            rng.uniform(0.5, 1, len(seen)).astype(np.float32),
            labels,
        )
        for (thing, _, _), name in zip(seen, tracker.update(found).track_id, strict=True):
            names.setdefault(thing, set()).add(name)
    return names


def assert_one_id_each(names):
    assert {thing: found for thing, found in names.items() if len(found) != 1} == {}
    assert len(set.union(*names.values())) == len(names)


@pytest.mark.parametrize(
    ('rate', 'missed', 'noise'), [(60, 0.2, 0.05), (30, 0.2, 0.05), (20, 0.2, 0.05), (10, 0.0, 0.05), (5, 0.0, 0.03)]
)
def test_every_part_on_the_line_has_one_id_of_its_own(rate, missed, noise):
    names = names_on_the_line(rate, 1, missed, noise)
    parts = {thing: found for thing, found in names.items() if thing[1] == 'part'}
    assert len(parts) > 10
    assert_one_id_each(parts)


@pytest.mark.parametrize(('rate', 'missed', 'noise'), [(60, 0.2, 0.05), (30, 0.0, 0.05), (20, 0.0, 0.03)])
def test_every_flaw_on_the_line_has_one_id_of_its_own(rate, missed, noise):
    names = names_on_the_line(rate, 1, missed, noise)
    assert len(names) > 20
    assert_one_id_each(names)
