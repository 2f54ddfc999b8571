"""What a picture itself is like: changed or frozen, something to see or covered."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_vision.picture import PictureWatch
from edge_vision.simulator.dataset import HELD_OUT, TRAINING, make_picture
from edge_vision.simulator.renderer import Look, Renderer
from edge_vision.simulator.world import Scene, make_part

ON_THE_LINE = Path(__file__).parent / 'data' / 'parity' / '640x480.jpg'
BLINDED, SEEING = 4.0, 5.0  # grey levels: what a threshold between them must tell apart
SIZES = [(640, 480), (320, 240), (641, 359), (1920, 1080), (5, 3), (1, 1)]


def picture(size=(640, 480), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def noisy(levels, std, size=(640, 480)):
    """Draw a sensor's noise over grey levels that are one colour or a whole picture."""
    noise = np.random.default_rng(7).normal(0.0, std, (size[1], size[0], 3)) if std else 0.0
    return np.clip(np.broadcast_to(np.asarray(levels, float), (size[1], size[0], 3)) + noise, 0, 255).astype(np.uint8)


def gradient(low, high):
    return np.linspace(low, high, 640)[np.newaxis, :, np.newaxis]


def finger(depth):
    """Draw the light that comes through a finger at the upper right: reddish, and falling off slowly."""
    y, x = np.mgrid[-0.5:0.5:480j, -0.5:0.5:640j]
    glow = depth * np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / 0.35)
    return np.array([8.0, 12.0, 60.0]) + glow[:, :, np.newaxis] * np.array([0.4, 0.6, 2.0])


def line(**look):
    parts = (replace(make_part(2, 0, defect_rate=1.0), belt_m=0.0),)
    return Renderer(look=Look(**look), seed=3).render(Scene(0.2, 0.4, parts))


def contrast(image):
    return PictureWatch().look(image).contrast


def padded(image):
    """Give a read-only view with bytes between the rows, as a message's picture may be."""
    height, width = image.shape[:2]
    wider = np.zeros((height, width + 7, 3), np.uint8)
    wider[:, :width] = image
    view = wider[:, :width]
    view.flags.writeable = False
    return view


def test_nothing_is_known_about_the_change_to_the_first_picture():
    assert not PictureWatch().look(picture()).changed


@pytest.mark.parametrize('size', SIZES)
def test_equal_pixels_are_no_change_whoever_owns_them(size):
    watch, image = PictureWatch(), picture(size)
    watch.look(image)
    assert not watch.look(image.copy()).changed
    assert not watch.look(padded(image)).changed
    assert not watch.look(image).changed


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('seed', range(3))
def test_one_level_in_one_channel_of_one_pixel_is_a_change(size, seed):
    watch, image = PictureWatch(), picture(size)
    other = image.copy()
    other.flat[np.random.default_rng(seed).integers(other.size)] ^= 1
    watch.look(image)
    assert watch.look(padded(other)).changed
    assert not watch.look(other).changed


def test_each_picture_is_compared_with_the_one_before_it():
    watch, first, second = PictureWatch(), picture(seed=1), picture(seed=2)
    changes = [watch.look(image).changed for image in (first, second, second, first)]
    assert changes == [False, True, False, True]


def test_another_size_is_a_change():
    watch = PictureWatch()
    watch.look(np.zeros((480, 640, 3), np.uint8))
    assert watch.look(np.zeros((240, 320, 3), np.uint8)).changed
    assert not watch.look(np.zeros((240, 320, 3), np.uint8)).changed


def test_live_camera_changes_even_while_the_line_stands():
    watch, renderer, scene = PictureWatch(), Renderer(seed=1), Scene(0.0, 0.0, ())
    watch.look(renderer.render(scene))
    assert all(watch.look(renderer.render(scene)).changed for _ in range(3))


def test_looking_leaves_the_picture_as_it_is():
    image = picture()
    before = image.copy()
    PictureWatch().look(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize('colour', [(0, 0, 0), (16, 16, 16), (5, 9, 70), (128, 128, 128), (255, 255, 255), (0, 135, 0)])
@pytest.mark.parametrize('std', [0, 2, 10])
def test_one_colour_with_noise_has_next_to_no_contrast(colour, std):
    assert contrast(noisy(colour, std)) < BLINDED


@pytest.mark.parametrize('size', SIZES[:3])
def test_noise_has_next_to_no_contrast_at_any_size(size):
    assert contrast(noisy((0, 0, 0), 10, size)) < BLINDED


@pytest.mark.parametrize('levels', [gradient(2, 8), gradient(20, 40), finger(10), finger(20)])
def test_slow_gradient_over_a_covered_lens_has_next_to_no_contrast(levels):
    assert contrast(noisy(levels, 3)) < BLINDED


@pytest.mark.parametrize(
    'look',
    [{}, {'brightness': 0.55}, {'brightness': 1.42}, {'vignette': 0.5, 'gradient': 0.5}, {'defocus_px': 3.0}],
    ids=str,
)
def test_line_has_much_contrast_in_any_light(look):
    assert contrast(line(**look)) > 3 * SEEING


@pytest.mark.parametrize('variation', [TRAINING, HELD_OUT], ids=['training', 'held out'])
def test_pictures_to_learn_from_all_have_much_contrast(variation):
    assert min(contrast(make_picture(5, 50 * i, variation)[0]) for i in range(2)) > 3 * SEEING


def test_line_in_dim_light_still_has_contrast():
    assert contrast(noisy(line() * 0.15, 2)) > SEEING


def test_line_has_contrast_even_far_out_of_focus():
    scene = cv2.imread(str(ON_THE_LINE))
    assert contrast(scene) > 3 * SEEING
    assert contrast(cv2.GaussianBlur(scene, (0, 0), scene.shape[1] / 20)) > 3 * SEEING


def test_contrast_does_not_depend_on_the_size_of_the_picture():
    scene = line()
    larger = cv2.resize(scene, (1920, 1440), interpolation=cv2.INTER_LINEAR)
    assert contrast(larger) == pytest.approx(contrast(scene), rel=0.1)
