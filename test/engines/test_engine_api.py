import sys
from dataclasses import replace

import pytest

from edge_vision.engines import api as layer
from edge_vision.engines.api import Phases, check_device, find, found, make_logger, make_monitor
from edge_vision.engines.device import Device
from edge_vision.errors import RuntimeUnavailable


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Write a module that is taken for TensorRT."""

    def write(source):
        (tmp_path / 'a_tensorrt.py').write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, 'a_tensorrt', raising=False)
        monkeypatch.setattr(layer, 'MODULES', {'tensorrt': ('a_tensorrt',)})

    yield write
    sys.modules.pop('a_tensorrt', None)


def test_tensorrt_rtx_is_strongly_typed_and_tells_how_far_it_is(api):
    assert (api.can_build, api.has_progress, api.has_timing_cache) == (True, True, False)
    assert (api.strongly_typed, api.has_precision_flags) == (True, False)
    assert str(api) == f'tensorrt_rtx {api.module.__version__}'


def test_the_lean_runtime_cannot_build():
    pytest.importorskip('tensorrt_lean_bindings', reason='the lean runtime is not installed')
    lean = {api.name: api for api in found([])}['tensorrt_lean']
    assert not lean.can_build
    assert lean.strongly_typed


def test_nothing_installed_is_said_with_the_way_out(monkeypatch):
    monkeypatch.setattr(layer, 'MODULES', {'tensorrt': ('no_such_tensorrt',)})
    with pytest.raises(RuntimeUnavailable, match=r'tensorrt is not installed; .*pip install tensorrt'):
        find()


def test_a_library_that_is_too_old_is_passed_over(library):
    library("__version__ = '8.5.2.2'")
    with pytest.raises(RuntimeUnavailable, match=r'tensorrt 8.5.2.2 is too old, expected 8.6 or newer'):
        find()


@pytest.mark.parametrize('failure', ["OSError('libnvinfer.so.10 is missing')", "ImportError('libnvinfer is missing')"])
def test_a_library_that_is_half_installed_is_passed_over(library, failure):
    library(f'raise {failure}')
    with pytest.raises(RuntimeUnavailable, match=r'cannot be imported .*missing'):
        find()


def test_a_library_without_a_builder_is_not_one_to_build_with(library):
    library("class BuilderFlag: TF32 = 1\n__version__ = '11.4.0'")
    assert find().name == 'tensorrt'
    with pytest.raises(RuntimeUnavailable, match=r'tensorrt 11.4.0 can run engines but not build them'):
        find(to_build=True)


def test_a_library_with_flags_for_the_precision_alone_is_not_strongly_typed(library):
    library("class BuilderFlag: FP16 = 0\nclass Builder: pass\nclass OnnxParser: pass\n__version__ = '8.6.1'")
    old = find(to_build=True)
    assert (old.strongly_typed, old.has_precision_flags) == (False, True)
    assert (old.has_progress, old.has_timing_cache) == (False, True)


@pytest.mark.parametrize(('capability', 'known'), [((7, 5), True), ((12, 0), True), ((9, 0), False), ((8, 7), False)])
def test_a_gpu_that_tensorrt_rtx_does_not_know_is_said_before_anything_is_built(api, capability, known):
    device = Device(name='a GPU', compute_capability=capability)
    if known:
        check_device(api, device)
    else:
        with pytest.raises(RuntimeUnavailable, match=r'does not know a GPU \(compute capability \d.\d\)'):
            check_device(api, device)
    check_device(api, None)
    check_device(replace(api, name='tensorrt'), device)  # that one says it when it builds


def test_a_library_has_one_logger_for_all_that_log(api):
    assert make_logger(api) is make_logger(replace(api, version='another'))


def test_progress_counts_phases_within_phases():
    phases = Phases()
    phases.start('build', None, 2)
    phases.complete('build', 0)
    phases.start('tactics', 'build', 4)
    phases.complete('tactics', 1)
    assert phases.share() == 0.75
    phases.finish('tactics')
    assert phases.share() == 0.75  # it does not go back
    phases.finish('build')
    assert phases.share() == 1.0


def test_what_the_listener_raises_cancels_the_build(api):
    def stop(*_):
        raise KeyboardInterrupt

    monitor = make_monitor(api, stop)
    monitor.phase_start('build', None, 2)
    assert not monitor.step_complete('build', 0)
    assert isinstance(monitor.raised, KeyboardInterrupt)
