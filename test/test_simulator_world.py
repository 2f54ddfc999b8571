"""The conveyor's physics and its counting."""

import itertools
import json

import pytest

from edge_vision.simulator.world import (
    BRAKING_M_S2,
    DRIVE_DELAY_S,
    GATE_X,
    PICK_TIME_S,
    VIEW_WIDTH_M,
    ZONE_X,
    World,
    make_part,
)

SPEED = 0.4
STEP_S = 1 / 60


def run_until(world, condition, limit_s=60.0):
    """Advance frame by frame until the condition holds."""
    while not condition():
        assert world.now_s < limit_s
        world.advance(world.now_s + STEP_S)


def running(**options):
    world = World(speed_m_s=SPEED, **options)
    world.set_run(True, 0.0)
    return world


def first_defect_x(world):
    """Where the flaw of the foremost part is in the view, in m."""
    part = world.scene.parts[0]
    return world.scene.belt_m - part.belt_m + part.defect_offset_m(part.defects[0])


def in_zone(x_m):
    return ZONE_X[0] * VIEW_WIDTH_M <= x_m <= ZONE_X[1] * VIEW_WIDTH_M


def run_to_first_defect(world):
    run_until(world, lambda: world.scene.parts and in_zone(first_defect_x(world)))


def test_a_part_depends_on_seed_and_number_only():
    assert make_part(3, 7, defect_rate=0.4) == make_part(3, 7, defect_rate=0.4)
    assert make_part(3, 7, defect_rate=0.4) != make_part(4, 7, defect_rate=0.4)


def test_two_lines_of_one_seed_carry_the_same_parts_however_they_are_stepped():
    coarse, fine = running(seed=5), running(seed=5)
    coarse.advance(4.0)
    for step in range(1, 1001):
        fine.advance(0.004 * step)
    assert coarse.scene.parts == fine.scene.parts
    assert coarse.scene.belt_m == pytest.approx(fine.scene.belt_m)
    assert [part['part_id'] for part in coarse.truth()['parts']] == [part['part_id'] for part in fine.truth()['parts']]


def test_defect_rate_is_the_share_of_defective_parts():
    defective = sum(bool(make_part(1, index, defect_rate=0.4).defects) for index in range(500))
    assert defective == pytest.approx(200, abs=35)


def test_parts_never_overlap():
    parts = [make_part(9, index, defect_rate=0.4) for index in range(200)]
    for ahead, behind in itertools.pairwise(parts):
        assert behind.belt_m - behind.half_extent_m > ahead.belt_m + ahead.half_extent_m


def test_the_belt_stands_until_it_is_permitted_to_run():
    world = World()
    world.set_run(False, 0.5)
    world.advance(5.0)
    assert world.scene.belt_m == 0.0
    assert world.truth()['stops_total'] == 0


def test_stopping_takes_the_way_of_the_delay_and_the_braking():
    world = running()
    world.advance(3.0)
    before = world.scene.belt_m
    world.set_run(False, 3.0)
    world.advance(4.0)
    expected = SPEED * DRIVE_DELAY_S + SPEED**2 / (2 * BRAKING_M_S2)
    stop = world.truth()['stops'][0]
    assert world.scene.belt_m - before == pytest.approx(expected)
    assert stop['distance_m'] == pytest.approx(expected)
    assert stop['standstill_s'] == pytest.approx(3.0 + DRIVE_DELAY_S + SPEED / BRAKING_M_S2)
    assert world.scene.speed_m_s == 0.0


def test_a_permission_given_while_braking_takes_the_belt_on():
    world = running()
    world.advance(3.0)
    world.set_run(False, 3.0)
    world.set_run(True, 3.1)
    world.advance(5.0)
    assert world.scene.speed_m_s == SPEED
    assert world.truth()['stops'][0]['standstill_s'] is None


def test_a_defect_stopped_in_the_zone_is_taken_out_before_the_gate():
    world = running(defect_rate=1.0)
    run_to_first_defect(world)
    world.set_run(False, world.now_s)
    world.advance(world.now_s + PICK_TIME_S + 0.5)
    truth = world.truth()
    assert (truth['defects_total'], truth['defects_stopped'], truth['defects_missed']) == (1, 1, 0)
    assert (truth['false_stops'], truth['stops'][0]['cause'], truth['stops'][0]['part_id']) == (0, 'defect', 0)
    assert truth['parts'][0]['outcome'] == 'stopped'
    assert truth['parts'][0]['leading_edge_m'] < GATE_X * VIEW_WIDTH_M
    assert truth['parts'][0]['gate_margin_mm'] > 0
    assert all(part.part_id != 0 for part in world.scene.parts)


def test_the_part_stays_until_the_belt_has_stood_for_the_pick_time():
    world = running(defect_rate=1.0)
    run_to_first_defect(world)
    world.set_run(False, world.now_s)
    run_until(world, lambda: world.scene.speed_m_s == 0.0)
    world.advance(world.now_s + PICK_TIME_S - 2 * STEP_S)
    assert world.truth()['parts_total'] == 0
    world.advance(world.now_s + 3 * STEP_S)
    assert world.truth()['parts_total'] == 1


def test_every_defect_is_stopped_when_the_command_comes_in_time():
    world = running(defect_rate=0.4)
    frames_in_zone = 0
    while world.now_s < 40.0:
        world.advance(world.now_s + STEP_S)
        parts = [part for part in world.scene.parts if part.defects]
        seen = any(
            in_zone(world.scene.belt_m - part.belt_m + part.defect_offset_m(defect))
            for part in parts
            for defect in part.defects
        )
        frames_in_zone = frames_in_zone + 1 if seen else 0
        if frames_in_zone in {0, 3}:
            world.set_run(frames_in_zone == 0, world.now_s)
    truth = world.truth()
    assert truth['defects_stopped'] == truth['defects_total'] >= 6
    assert truth['defects_missed'] == truth['stops_without_defect'] == truth['parts_rejected'] == 0
    assert truth['stops_total'] >= truth['defects_stopped']


def test_a_defect_that_nobody_stops_is_missed_at_the_gate():
    world = running(defect_rate=1.0)
    run_until(world, lambda: world.truth()['parts_total'] == 3)
    truth = world.truth()
    assert (truth['defects_total'], truth['defects_stopped'], truth['defects_missed']) == (3, 0, 3)
    assert truth['parts'][0]['gate_margin_mm'] == 0.0


def test_a_stop_that_comes_after_the_gate_is_late_and_not_false():
    world = running(defect_rate=1.0)
    run_until(world, lambda: world.truth()['defects_missed'] == 1)
    world.advance(world.now_s + 0.2)
    world.set_run(False, world.now_s)
    truth = world.truth()
    assert (truth['stops'][0]['cause'], truth['false_stops'], truth['late_stops']) == ('late', 0, 1)


def test_a_stop_for_a_good_part_is_false_and_costs_the_part():
    world = running(defect_rate=0.0)
    run_until(world, lambda: world.scene.parts and in_zone(world.scene.belt_m - world.scene.parts[0].belt_m))
    world.set_run(False, world.now_s)
    world.advance(world.now_s + 2 * PICK_TIME_S + 0.5)
    truth = world.truth()
    assert (truth['false_stops'], truth['parts_rejected'], truth['parts_total']) == (1, 1, 1)
    assert truth['parts'][0]['outcome'] == 'rejected'


def test_good_parts_pass():
    world = running(defect_rate=0.0)
    world.advance(8.0)
    truth = world.truth()
    assert truth['parts_total'] >= 8
    assert {part['outcome'] for part in truth['parts']} == {'passed'}


def test_repeated_commands_are_one_stop():
    world = running()
    world.advance(1.0)
    for _ in range(5):
        world.set_run(False, world.now_s)
        world.advance(world.now_s + STEP_S)
    assert world.truth()['stops_total'] == 1


def test_truth_is_json():
    world = running(defect_rate=1.0)
    run_to_first_defect(world)
    world.set_run(False, world.now_s, 123)
    world.advance(world.now_s + 2.0)
    truth = world.truth()
    assert json.loads(json.dumps(truth))['stops'][0]['stamp_ns'] == 123
