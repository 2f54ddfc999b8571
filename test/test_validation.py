import argparse
import json

import cv2
import numpy as np
import onnx
import pytest

import models
from edge_vision import validation
from edge_vision.errors import ConfigurationError, ModelError, RuntimeUnavailable, SourceError
from edge_vision.runtimes import Options, open_runtime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.dataset import HELD_OUT, make_picture
from edge_vision.validation import Tolerance, check, command, compare, reference_runtime, sample_pictures
from edge_vision.yolov8 import Canvas, letterbox

GREY = np.full((64, 96, 3), 128, np.uint8)
DENT, SCRATCH = [24, 24, 16, 16, 0.8, 0.1], [72, 40, 32, 16, 0.0, 0.7]
CPU = Options(providers=('CPUExecutionProvider',))


@pytest.fixture
def make_runtime(tmp_path):
    def make(anchors, **form):
        name = f'{len(list(tmp_path.iterdir()))}.onnx'
        return open_runtime('onnxruntime', models.fixed_boxes(tmp_path / name, anchors, **form), CPU)

    return make


@pytest.fixture
def compared(make_runtime):
    def compare_anchors(reference, candidate, pictures=12):
        return compare(make_runtime(reference), make_runtime(candidate), [GREY] * pictures)

    return compare_anchors


def test_a_network_agrees_with_itself(compared):
    agreement = compared([DENT, SCRATCH], [DENT, SCRATCH])
    assert agreement.as_dict() == {
        'pictures': 12,
        'threshold': 0.25,
        'boxes': 24,
        'found': 1.0,
        'candidate_boxes': 24,
        'spurious': 0.0,
        'mean_iou': 1.0,
        'min_iou': 1.0,
        'mean_score_difference': 0.0,
        'max_score_difference': 0.0,
        'classes': {'dent': (12, 12), 'scratch': (12, 12)},
        'malformed': 0,
    }
    check(agreement, 'm')


@pytest.mark.parametrize(
    ('candidate', 'reason'),
    [
        ([DENT], r"found 50\.0% of the boxes, expected 97%; found 0 of 12 'scratch', expected 90%"),
        ([DENT, [72, 40, 32, 16, 0.7, 0.0]], r"found 0 of 12 'scratch'.*50\.0% of its boxes are spurious"),
        ([DENT, SCRATCH, [10, 50, 8, 8, 0.9, 0.0]], r'33\.3% of its boxes are spurious, expected at most 3%'),
        ([DENT, [60, 40, 32, 16, 0.0, 0.7]], "found 0 of 12 'scratch'"),
        ([DENT, [68, 40, 32, 16, 0.0, 0.7]], r'its boxes overlap by 0\.889, expected 0\.9'),
        ([DENT, [72, 40, 32, 16, 0.0, 0.6]], r'its scores are off by 0\.050, expected at most 0\.03'),
        ([DENT, SCRATCH, [np.nan, 50, 8, 8, 0.9, 0.0]], '12 boxes are not finite'),
        ([[0, 0, 0, 0, 0, 0]], r'found 0\.0% of the boxes'),
    ],
    ids=['lost', 'other class', 'invented', 'elsewhere', 'shifted', 'fainter', 'nan', 'nothing'],
)
def test_what_differs_beyond_tolerance_is_refused_with_the_figures(compared, candidate, reason):
    with pytest.raises(ModelError, match=rf'^engine m does not see .*{reason}.*\(12 pictures, 24 boxes') as refusal:
        check(compared([DENT, SCRATCH], candidate), 'engine m')
    assert '\n' not in str(refusal.value)


def test_a_class_that_is_lost_does_not_hide_behind_a_frequent_one(compared):
    many = [[8 + 16 * x, 8 + 16 * y, 12, 12, 0.9, 0.0] for x in range(6) for y in range(4)]
    reference = [*many[:-1], [*many[-1][:4], 0.0, 0.9], *([8, 8, 2 + i, 70, 0.9, 0.0] for i in range(0, 60, 9))]
    candidate = [anchor for anchor in reference if anchor[5] == 0.0]
    agreement = compared(reference, candidate)
    with pytest.raises(ModelError, match=r"m does not see .* in fp32: found 0 of 12 'scratch', expected 90% \("):
        check(agreement, 'm', Tolerance(found=0.9))


def test_a_box_on_the_other_side_of_the_threshold_by_a_hair_is_not_lost(compared):
    above, below = [24, 24, 16, 16, 0.255, 0.0], [24, 24, 16, 16, 0.245, 0.0]
    agreement = compared([above, SCRATCH], [below, SCRATCH])
    assert (agreement.found, agreement.spurious) == (1.0, 0.0)
    agreement = compared([below, SCRATCH], [above, SCRATCH])
    assert (agreement.found, agreement.spurious) == (1.0, 0.0)
    assert compared([above, SCRATCH], [[24, 24, 16, 16, 0.15, 0.0], SCRATCH]).found == 0.5


def test_another_survivor_of_the_same_cluster_is_the_same_box(compared):
    near = [26, 24, 16, 16, 0.795, 0.1]
    agreement = compared([DENT, near], [[*DENT[:4], 0.79, 0.1], near])
    assert (agreement.boxes, agreement.found, agreement.spurious) == (12, 1.0, 0.0)


def test_faint_boxes_are_compared_where_there_are_no_others(compared):
    faint = [24, 24, 16, 16, 0.01, 0.0]
    agreement = compared([faint], [faint], pictures=20)
    assert agreement.threshold == pytest.approx(0.01)
    assert (agreement.boxes, agreement.found) == (20, 1.0)
    with pytest.raises(ModelError, match=r'found 0\.0%'):
        check(compared([faint], [[24, 24, 16, 16, 0.002, 0.0]], pictures=20), 'm')


def test_clear_boxes_are_judged_alone_even_if_they_are_few(compared):
    faint = [[10, 50, 8, 8, 0.02, 0.0], [40, 10, 8, 8, 0.03, 0.0]]
    agreement = compared([DENT, *faint], [DENT], pictures=5)
    assert (agreement.threshold, agreement.boxes, agreement.found) == (0.25, 5, 1.0)
    agreement = compared([DENT, *faint], [DENT], pictures=4)
    assert (agreement.boxes, agreement.found) == (12, pytest.approx(1 / 3))


def test_pictures_in_which_the_reference_sees_nothing_prove_nothing(compared):
    with pytest.raises(ModelError, match=r'reports nothing in any of the 12 pictures, .*give a folder of them'):
        check(compared([[24, 24, 16, 16, 0.0001, 0.0]], [DENT]), 'm')


@pytest.mark.parametrize(
    ('form', 'reason'),
    [({'labels': ('dent', 'rust')}, r"\['dent', 'rust'\], expected those"), ({'input_size': (96, 96)}, r'\(96, 96\)')],
)
def test_a_candidate_made_from_another_model_is_refused(make_runtime, form, reason):
    with pytest.raises(ModelError, match=reason):
        compare(make_runtime([DENT]), make_runtime([DENT], **form), [GREY])


CONVEYOR = share_file(CONVEYOR_MODEL)


def quantised(path, pictures, **settings):
    """Quantise the shipped model to INT8 as onnxruntime does it."""
    quantization = pytest.importorskip('onnxruntime.quantization')

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self):
            self._canvas = Canvas(np.zeros((256, 320, 3), np.uint8))
            self._images = (make_picture(11, index, HELD_OUT)[0] for index in range(pictures))

        def get_next(self):
            image = next(self._images, None)
            if image is None:
                return None
            self._canvas.draw(image, letterbox((640, 480), (256, 320)))
            return {'images': cv2.dnn.blobFromImage(self._canvas.pixels, 1 / 255, swapRB=True)}

    quantization.quantize_static(
        str(CONVEYOR),
        str(path),
        Calibration(),
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        **settings,
    )
    return path


@pytest.fixture(scope='module')
def reference():
    return reference_runtime(CONVEYOR)


@pytest.fixture(scope='module')
def pictures():
    return [picture for _, picture in zip(range(12), sample_pictures(None), strict=False)]


def test_the_backends_agree_on_the_shipped_model(reference, pictures):
    agreement = compare(reference, open_runtime('onnxruntime', CONVEYOR, CPU), pictures)
    assert agreement.found == 1.0
    assert agreement.min_iou > 0.99
    assert {label for label, (boxes, _) in agreement.classes.items() if boxes} == set(reference.labels)


def test_half_precision_passes(tmp_path, reference, pictures):
    float16 = pytest.importorskip('onnxruntime.transformers.float16')
    onnx.save(float16.convert_float_to_float16(onnx.load(CONVEYOR), keep_io_types=True), tmp_path / 'm.onnx')
    agreement = compare(reference, open_runtime('onnxruntime', tmp_path / 'm.onnx', CPU), pictures)
    check(agreement, 'fp16')
    assert agreement.max_score_difference > 0.0


def test_int8_with_care_passes(tmp_path, reference, pictures):
    path = quantised(tmp_path / 'm.onnx', 24, op_types_to_quantize=['Conv'], per_channel=True)
    agreement = compare(reference, open_runtime('onnxruntime', path, CPU), pictures)
    check(agreement, 'int8')
    assert agreement.mean_iou < 0.99


def test_int8_that_detects_nothing_is_refused(tmp_path, reference, pictures):
    path = quantised(tmp_path / 'm.onnx', 8)  # boxes in pixels and scores in 0..1 share one scale at the output
    agreement = compare(reference, open_runtime('onnxruntime', path, CPU), pictures)
    assert agreement.candidate_boxes == 0
    with pytest.raises(ModelError, match=r'found 0\.0% of the boxes'):
        check(agreement, 'int8')


def test_sample_pictures_of_a_folder_are_spread_over_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, 'MOST_PICTURES', 3)
    for value in range(7):
        cv2.imwrite(str(tmp_path / f'{value}.png'), np.full((8, 8, 3), value, np.uint8))
    assert [image[0, 0, 0] for image in sample_pictures(tmp_path)] == [0, 2, 4]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(SourceError, match='holds no pictures'):
        list(sample_pictures(tmp_path))
    with pytest.raises(ConfigurationError, match='does not exist'):
        list(sample_pictures(tmp_path / 'missing'))


def test_the_rendered_pictures_are_the_same_every_time():
    first, again = (next(sample_pictures(None)) for _ in range(2))
    assert first.shape == (480, 640, 3)
    assert np.array_equal(first, again)


@pytest.fixture
def run(tmp_path, monkeypatch):
    models.fixed_boxes(tmp_path / 'm.onnx', [DENT, SCRATCH])
    models.fixed_boxes(tmp_path / 'worse.onnx', [DENT])
    for i in range(12):
        cv2.imwrite(str(tmp_path / f'{i}.png'), GREY)

    def run_command(*words):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return command.run(parser.parse_args(words))

    monkeypatch.chdir(tmp_path)
    return run_command


def test_the_command_shows_the_figures_of_a_candidate_that_agrees(run, capsys):
    assert run('m.onnx', '--backend', 'onnxruntime', '--pictures', '.') == 0
    out = capsys.readouterr().out
    assert '24 of the reference, 24 of the candidate' in out
    assert 'found                    100.00%' in out
    assert '  scratch                12 of 12' in out
    assert out.endswith('agrees with its reference\n')


def test_the_command_fails_on_a_candidate_that_does_not_agree(run, capsys):
    assert run('worse.onnx', '--reference', 'm.onnx', '--backend', 'onnxruntime', '--pictures', '.', '--json') == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures['candidate'], figures['backend'], figures['found']) == ('worse.onnx', 'onnxruntime', 0.5)
    assert figures['agrees'] is False
    assert figures['refusal'].startswith('worse.onnx on onnxruntime does not see what its model sees')


def test_the_command_needs_a_reference_for_what_is_no_onnx_model(run):
    with pytest.raises(ConfigurationError, match=r"has no model 'other.onnx' beside it; .* --reference"):
        run('other.engine')
    with pytest.raises(ConfigurationError, match=r"--reference is 'm.pt', expected the \.onnx model"):
        run('m.engine', '--reference', 'm.pt')


def test_without_any_runtime_for_the_cpu_there_is_no_reference(tmp_path, monkeypatch):
    path = models.fixed_boxes(tmp_path / 'm.onnx', [DENT])
    for name in ('openvino', 'onnxruntime'):
        monkeypatch.setitem(__import__('sys').modules, f'edge_vision.runtimes.{name}', None)
    with pytest.raises(RuntimeUnavailable, match=r'pip install onnxruntime; or .*validate_engine: false'):
        reference_runtime(path)
