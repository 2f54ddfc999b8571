import logging
import shutil

import cv2
import pytest

import models
from edge_vision.engines import Device, obtain, prepare, vouch_for
from edge_vision.errors import ModelError, RuntimeUnavailable
from edge_vision.runtimes import Options, open_runtime
from edge_vision.share import CONVEYOR_MODEL, share_file
from edge_vision.simulator.dataset import HELD_OUT, make_picture

LABELS = ('part', 'scratch', 'dent', 'stain')
SIZE = (256, 320)


@pytest.fixture(scope='module')
def here():
    """Let the tests see one kind of machine, with or without a GPU."""
    device = Device(name='RTX 4000', compute_capability=(8, 9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('edge_vision.engines.preparation.this_device', lambda: device)
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


class NotLookedAt:
    """A runtime that must not be asked for anything."""


def test_an_engine_that_sees_what_its_model_sees_is_accepted_with_its_figures(conveyor, pictures):
    engine = prepare(conveyor, open_engine=opens(conveyor), pictures=pictures)
    verdict = engine.side_car['validation']
    assert verdict['accepted']
    assert verdict['figures']['found'] == 1.0
    assert verdict['figures']['pictures'] == 3
    assert engine.runtime.input_size == SIZE
    assert obtain(conveyor).side_car == engine.side_car


def test_an_engine_is_compared_once(conveyor, pictures):
    prepare(conveyor, open_engine=opens(conveyor), pictures=pictures)
    again = prepare(conveyor, open_engine=lambda path: NotLookedAt(), pictures=pictures)
    assert again.side_car['validation']['accepted']


def test_a_verdict_by_other_pictures_does_not_count(conveyor, pictures, blind, tmp_path):
    prepare(conveyor, open_engine=opens(conveyor), pictures=pictures)
    others = tmp_path / 'others'
    others.mkdir()
    (others / '0.png').write_bytes((pictures / '0.png').read_bytes())
    with pytest.raises(ModelError, match='does not see what its model sees'):
        prepare(conveyor, open_engine=opens(blind), pictures=others)


def test_an_engine_that_sees_something_else_is_refused_for_good(conveyor, pictures, blind):
    with pytest.raises(ModelError, match=r'does not see .* found 0.0% of the boxes, .* validate_engine to false'):
        prepare(conveyor, open_engine=opens(blind), pictures=pictures)
    with pytest.raises(ModelError, match=r'found 0.0% of the boxes'):
        prepare(conveyor, open_engine=lambda path: NotLookedAt(), pictures=pictures)
    verdict = obtain(conveyor).side_car['validation']
    assert not verdict['accepted']
    assert verdict['figures']['found'] == 0.0


def test_a_refused_engine_is_used_when_asked_and_judged_anew_when_built_anew(conveyor, pictures, blind, caplog):
    with pytest.raises(ModelError):
        prepare(conveyor, open_engine=opens(blind), pictures=pictures)
    with caplog.at_level(logging.WARNING):
        assert prepare(conveyor, open_engine=opens(blind), pictures=pictures, validate=False).runtime is not None
    assert 'without a comparison' in caplog.text
    engine = prepare(conveyor, open_engine=opens(conveyor), pictures=pictures, force=True)
    assert engine.side_car['validation']['accepted']


def test_an_engine_that_does_not_open_is_built_anew_once(conveyor, caplog):
    opened = []

    def refuse_the_first(path):
        opened.append(path)
        if len(opened) == 1:
            raise ModelError('made by another driver')
        return NotLookedAt()

    engine = prepare(conveyor, open_engine=refuse_the_first, validate=False)
    assert engine.built
    assert 'does not open, building it anew: made by another driver' in caplog.text


def test_an_engine_that_never_opens_is_an_error(conveyor):
    def refuse(_):
        raise ModelError('made by another driver')

    with pytest.raises(ModelError, match='made by another driver'):
        prepare(conveyor, open_engine=refuse)


def test_an_engine_given_as_a_file_has_the_verdict_of_its_side_car(conveyor, pictures, blind):
    with pytest.raises(ModelError):
        prepare(conveyor, open_engine=opens(blind), pictures=pictures)
    with pytest.raises(ModelError, match=r'found 0.0% of the boxes.* validate_engine to false'):
        vouch_for(obtain(conveyor).path, NotLookedAt(), None)
    engine = prepare(conveyor, open_engine=opens(conveyor), pictures=pictures, force=True)
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
        prepare(conveyor, open_engine=refuse)
    assert obtain(conveyor).side_car['validation'] is None
