"""The conveyor's pictures and the boxes of what is in them."""

from dataclasses import replace

import numpy as np
import pytest

from edge_vision.simulator.dataset import HELD_OUT, TRAINING, make_picture, write_dataset
from edge_vision.simulator.renderer import CLASSES, Look, Renderer
from edge_vision.simulator.world import DEFECT_CLASSES, Defect, Scene, make_part

PLAIN = Look(brightness=1.0, noise=0.0, gradient=0.0, vignette=0.0, tint=(1.0, 1.0, 1.0))


def part_with(class_id, *, y_m=0.0, angle=0.0):
    defect = Defect(class_id, 0.0, 0.0, 0.024, 0.8, 11)
    part = replace(make_part(1, 0, defect_rate=0.0), belt_m=0.0, y_m=y_m, angle=angle)
    return part, replace(part, defects=(defect,))


def changed_box(before, after, threshold):
    """Box of the pixels in which two pictures differ."""
    changed = np.abs(before.astype(int) - after).max(axis=2) > threshold
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_same_seed_and_scenes_give_the_same_pictures():
    parts = tuple(make_part(2, index, defect_rate=1.0) for index in range(2))
    scenes = [Scene(0.45 + 0.01 * step, 0.4, parts) for step in range(3)]
    first, second = Renderer(seed=4), Renderer(seed=4)
    for scene in scenes:
        assert np.array_equal(first.render(scene), second.render(scene))


def test_another_seed_gives_another_picture():
    scene = Scene(0.0, 0.0, ())
    assert not np.array_equal(Renderer(seed=1).render(scene), Renderer(seed=2).render(scene))


def test_a_standing_belt_never_gives_the_same_picture_twice():
    renderer, scene = Renderer(seed=1), Scene(0.0, 0.0, ())
    assert not np.array_equal(renderer.render(scene), renderer.render(scene))


def test_each_picture_is_an_array_of_its_own():
    renderer, scene = Renderer(seed=1), Scene(0.0, 0.0, ())
    assert not np.shares_memory(renderer.render(scene), renderer.render(scene))


@pytest.mark.parametrize('size', [(640, 480), (320, 240), (641, 359), (1920, 1080)])
def test_any_size_of_picture_can_be_drawn(size):
    parts = (replace(make_part(2, 0, defect_rate=1.0), belt_m=0.0),)
    renderer, scene = Renderer(*size, seed=1), Scene(0.2, 0.4, parts)
    image = renderer.render(scene)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == np.uint8
    left, _, right, _ = renderer.boxes(scene)[0].xyxy
    assert (left + right) / 2 == pytest.approx(size[0] / 2, abs=0.02 * size[0])


def test_the_belt_moves_to_the_right():
    renderer = Renderer(look=PLAIN, seed=1)
    before, after = renderer.render(Scene(0.1, 0.0, ())), renderer.render(Scene(0.1 + 10 / 1600, 0.0, ()))
    assert np.abs(after[200:260, 110:500].astype(int) - before[200:260, 100:490]).max() <= 1


def test_motion_blurs_along_the_belt():
    parts = (part_with('dent')[0],)
    renderer = Renderer(look=replace(PLAIN, exposure_s=0.01), seed=1)
    sharp, blurred = (renderer.render(Scene(0.2, speed, parts)).astype(int) for speed in (0.0, 0.4))
    edge = slice(230, 250), slice(230, 410)
    assert np.abs(np.diff(blurred[edge], axis=1)).max() < 0.6 * np.abs(np.diff(sharp[edge], axis=1)).max()


@pytest.mark.parametrize('class_id', DEFECT_CLASSES)
@pytest.mark.parametrize('angle', [0.0, 0.15])
def test_the_box_of_a_defect_encloses_the_pixels_it_changed(class_id, angle):
    good, bad = part_with(class_id, y_m=0.0123, angle=angle)
    before, after = (Renderer(look=PLAIN, seed=1).render(Scene(0.2, 0.0, (part,))) for part in (good, bad))
    boxes = dict(Renderer(look=PLAIN, seed=1).boxes(Scene(0.2, 0.0, (bad,))))
    assert boxes[class_id] == pytest.approx(changed_box(before, after, 14), abs=5)


def test_the_box_of_a_part_encloses_the_pixels_it_changed():
    part, _ = part_with('dent', angle=0.1)
    empty, full = (Renderer(look=PLAIN, seed=1).render(Scene(0.2, 0.0, parts)) for parts in ((), (part,)))
    boxes = dict(Renderer(look=PLAIN, seed=1).boxes(Scene(0.2, 0.0, (part,))))
    brighter = np.maximum(full, empty)  # leaves the shadow out
    assert boxes['part'] == pytest.approx(changed_box(empty, brighter, 25), abs=4)


def test_defects_are_large_enough_for_the_network():
    for index in range(4):
        part = replace(make_part(6, index, defect_rate=1.0), belt_m=0.0)
        for box in Renderer(look=PLAIN).boxes(Scene(0.2, 0.0, (part,))):
            left, top, right, bottom = box.xyxy
            assert max(right - left, bottom - top) >= 24


def test_what_hardly_shows_has_no_box():
    _, part = part_with('stain')
    renderer = Renderer(look=PLAIN)
    assert renderer.boxes(Scene(-0.035, 0.0, (part,))) == []
    assert [box.class_id for box in renderer.boxes(Scene(0.02, 0.0, (part,)))] == ['part', 'stain']


@pytest.mark.parametrize('variation', [TRAINING, HELD_OUT], ids=['training', 'held-out'])
def test_boxes_lie_inside_the_picture_and_hold_known_classes(variation):
    for index in range(6):
        image, boxes = make_picture(5, index, variation)
        height, width = image.shape[:2]
        for class_id, (left, top, right, bottom) in boxes:
            assert class_id in CLASSES
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height


def test_a_picture_of_a_set_can_be_made_again():
    first, second = make_picture(5, 3, HELD_OUT), make_picture(5, 3, HELD_OUT)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_a_dataset_has_a_label_file_for_each_picture(tmp_path):
    data = write_dataset(tmp_path, training=3, validation=1, held_out=2, seed=1)
    for name, count in (('train', 3), ('val', 1), ('test', 2)):
        images = sorted(path.stem for path in (tmp_path / 'images' / name).iterdir())
        assert images == sorted(path.stem for path in (tmp_path / 'labels' / name).iterdir())
        assert len(images) == count
    for line in (tmp_path / 'labels/train/00000.txt').read_text().splitlines():
        class_index, *box = line.split()
        assert int(class_index) in range(4)
        assert all(0 <= float(value) <= 1 for value in box)
    assert '3: stain' in data.read_text()
