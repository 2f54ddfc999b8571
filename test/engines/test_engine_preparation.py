import shutil
import sys
from dataclasses import replace

import cv2
import pytest
from engine_models import obtain

import models
from edge_vision.engines import Device, Preparation, preparation, vouch_for
from edge_vision.errors import ModelError, RuntimeUnavailable
from edge_vision.runtimes import Options, open_runtime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.dataset import HELD_OUT, make_picture

find_device = preparation.find_device  # as it is
LABELS = ('part', 'scratch', 'dent', 'stain')
SIZE = (256, 320)


@pytest.fixture(scope='module')
def here():
    """Let the tests see one kind of machine, with or without a GPU."""
    device = Device(name='RTX 4000', compute_capability=(8, 9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('edge_vision.engines.preparation.find_device', lambda: device)
        yield


@pytest.fixture(scope='module')
def conveyor():
    return share_file(CONVEYOR_MODEL)


@pytest.fixture(scope='module')
def built(api, here, conveyor, tmp_path_factory):  # noqa: ARG001  the machine it is built on
    """Build the engine once for all tests."""
    directory = tmp_path_factory.mktemp('built')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('EDGE_VISION_ENGINE_CACHE', str(directory))
        obtain(conveyor)
    return directory


@pytest.fixture(autouse=True)
def there(built, engine_directory):
    """Let a test find the engine that nobody has looked at yet."""
    shutil.copytree(built, engine_directory)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    directory = tmp_path_factory.mktemp('pictures')
    for index in range(3):
        cv2.imwrite(str(directory / f'{index}.png'), make_picture(9, index, HELD_OUT)[0])
    return directory


@pytest.fixture
def blind(tmp_path):
    """Make what an engine gone wrong is like: it gives the same box for every picture."""
    return models.fixed_boxes(
        tmp_path / 'blind.onnx', [(9.0, 9.0, 4.0, 4.0, 0.9, 0, 0, 0)], labels=LABELS, input_size=SIZE
    )


def opens(model):
    """Run another model in the place of the engine: what is tested needs no GPU, and takes any runtime."""
    return lambda path: open_runtime('onnxruntime', model, Options())


def prepare(model, open_engine, pictures=None, *, force=False):
    steps = Preparation.of(model)
    return steps.judged(steps.opened(steps.obtain(force=force), open_engine), pictures)


class NotLookedAt:
    """A runtime that must not be asked for anything."""


def test_an_engine_that_sees_what_its_model_sees_is_accepted_with_its_figures(conveyor, pictures):
    engine = prepare(conveyor, opens(conveyor), pictures=pictures)
    verdict = engine.side_car['validation']
    assert verdict['accepted']
    assert verdict['figures']['found'] == 1.0
    assert verdict['figures']['pictures'] == 3
    assert engine.runtime.input_size == SIZE
    assert obtain(conveyor).side_car == engine.side_car


def test_an_engine_is_compared_once(conveyor, pictures):
    prepare(conveyor, opens(conveyor), pictures=pictures)
    again = prepare(conveyor, lambda path: NotLookedAt(), pictures=pictures)
    assert again.side_car['validation']['accepted']


def test_a_verdict_by_other_pictures_does_not_count(conveyor, pictures, blind, tmp_path):
    prepare(conveyor, opens(conveyor), pictures=pictures)
    others = tmp_path / 'others'
    others.mkdir()
    (others / '0.png').write_bytes((pictures / '0.png').read_bytes())
    with pytest.raises(ModelError, match='does not see what its model sees'):
        prepare(conveyor, opens(blind), pictures=others)


def test_an_engine_that_sees_something_else_is_refused_for_good(conveyor, pictures, blind):
    with pytest.raises(ModelError, match=r'does not see .* found 0.0% of the boxes, .* validate_engine to false'):
        prepare(conveyor, opens(blind), pictures=pictures)
    with pytest.raises(ModelError, match=r'found 0.0% of the boxes'):
        prepare(conveyor, lambda path: NotLookedAt(), pictures=pictures)
    verdict = obtain(conveyor).side_car['validation']
    assert not verdict['accepted']
    assert verdict['figures']['found'] == 0.0


def test_a_refused_engine_is_judged_anew_when_built_anew(conveyor, pictures, blind):
    with pytest.raises(ModelError):
        prepare(conveyor, opens(blind), pictures=pictures)
    engine = prepare(conveyor, opens(conveyor), pictures=pictures, force=True)
    assert engine.side_car['validation']['accepted']


def test_an_engine_that_does_not_open_is_built_anew_once(conveyor, caplog):
    opened = []

    def refuse_the_first(path):
        opened.append(path)
        if len(opened) == 1:
            raise ModelError('made by another driver')
        return NotLookedAt()

    steps = Preparation.of(conveyor)
    engine = steps.opened(steps.obtain(), refuse_the_first)
    assert engine.built
    assert isinstance(engine.runtime, NotLookedAt)
    assert 'does not open, building it anew: made by another driver' in caplog.text


def test_an_engine_that_never_opens_is_an_error(conveyor):
    def refuse(_):
        raise ModelError('made by another driver')

    with pytest.raises(ModelError, match='made by another driver'):
        prepare(conveyor, refuse)


def test_an_engine_given_as_a_file_has_the_verdict_of_its_side_car(conveyor, pictures, blind):
    with pytest.raises(ModelError):
        prepare(conveyor, opens(blind), pictures=pictures)
    with pytest.raises(ModelError, match=r'found 0.0% of the boxes.* validate_engine to false'):
        vouch_for(obtain(conveyor).path, NotLookedAt(), None)
    engine = prepare(conveyor, opens(conveyor), pictures=pictures, force=True)
    vouch_for(engine.path, NotLookedAt(), None)


def test_an_engine_given_as_a_file_is_compared_with_the_model_beside_it(conveyor, pictures, blind, tmp_path, caplog):
    engine = tmp_path / 'of_trtexec.engine'
    engine.write_bytes(b'a plan')
    vouch_for(engine, opens(blind)(engine), pictures)
    assert 'without a comparison with its model, which is not known' in caplog.text
    shutil.copy(conveyor, engine.with_suffix('.onnx'))
    vouch_for(engine, opens(conveyor)(engine), pictures)
    with pytest.raises(ModelError, match='does not see what its model sees'):
        vouch_for(engine, opens(blind)(engine), pictures)


def test_a_machine_that_cannot_run_engines_says_so_and_the_engine_stays_unjudged(conveyor):
    def refuse(_):
        raise RuntimeUnavailable('no GPU')

    with pytest.raises(RuntimeUnavailable, match='no GPU'):
        prepare(conveyor, refuse)
    assert obtain(conveyor).side_car['validation'] is None


def test_a_library_that_builds_for_the_gpu_that_is_here_refuses_to_build_where_there_is_none(
    api, conveyor, monkeypatch
):
    def no_gpu():
        raise RuntimeUnavailable("no GPU works here (no NVIDIA driver); see what 'nvidia-smi' says")

    monkeypatch.setattr(preparation, 'find_device', no_gpu)
    assert Preparation.of(conveyor).want.identity['device'] is None  # TensorRT-RTX builds for any
    monkeypatch.setattr(preparation, 'find', lambda **_: replace(api, name='tensorrt'))
    with pytest.raises(
        RuntimeUnavailable, match=r'builds for the GPU that is here, and sees none: no GPU .*nvidia-smi'
    ):
        Preparation.of(conveyor)
    monkeypatch.setattr(preparation, 'find_device', find_device)
    monkeypatch.setitem(sys.modules, 'edge_vision.cuda', None)
    with pytest.raises(RuntimeUnavailable, match=r'cuda-python is not installed .*, see requirements/tensorrt\.txt'):
        Preparation.of(conveyor)
