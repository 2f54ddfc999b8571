import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from edge_vision.backends import RUNTIMES
from edge_vision.doctor import child, inference, programs
from edge_vision.doctor.programs import Answer
from edge_vision.engines.device import Device
from edge_vision.errors import RuntimeUnavailable
from edge_vision.params import DetectorParams
from edge_vision.share import CONVEYOR_MODEL, share_file

NO_CUDA = {'trouble': "No module named 'cuda'", 'missing_module': 'cuda'}
NO_TENSORRT = {'trouble': 'TensorRT is not available: tensorrt is not installed; on a Jetson it comes with JetPack'}
ORIN = {
    'version': '12.6.2',
    'name': 'Orin',
    'compute_capability': [8, 7],
    'integrated': True,
    'total_memory': 8 << 30,
}
TENSORRT = {'name': 'tensorrt', 'version': '10.3.0', 'can_build': True}
OPENVINO = {'version': '2026.4.1', 'devices': ['CPU'], 'capabilities': ['FP32', 'INT8', 'BIN']}
ORT = {'version': '1.32.0', 'providers': ['CPUExecutionProvider']}
OPENCV = {'version': '4.6.0', 'numpy': '1.26.4', 'build': '    GStreamer:  YES (1.20.3)\n    FFMPEG:  NO\n'}
MISSING = {'trouble': "No module named 'x'", 'missing_module': 'openvino'}
LAPTOP = {
    **{name: {} for name in RUNTIMES},
    'cuda': NO_CUDA,
    'tensorrt': NO_TENSORRT,
    'openvino': OPENVINO,
    'onnxruntime': ORT,
    'opencv': OPENCV,
}
JETSON = {**LAPTOP, 'cuda': ORIN, 'tensorrt': TENSORRT, 'openvino': MISSING}
MODEL = {'name': 'm.onnx', 'suffix': '.onnx', 'labels': ['a', 'b', 'c', 'd', 'e'], 'input_size': [480, 640]}
ENGINE = {'model': 'm.onnx', 'path': '/cache/k.engine', 'reason': '', 'validation': None}
ACCEPTED = {'accepted': True, 'refusal': '', 'summary': '99 of 100 boxes'}
REFUSED = {'accepted': False, 'refusal': 'engine finds 3 of 100 boxes', 'summary': ''}


def statuses(facts, detector=DetectorParams(), smi=None):  # noqa: B008  it is frozen
    found = inference.libraries(facts, smi, inference.wanted_by([detector]))
    return {finding.name: finding.status for finding in found}


def models(facts, detector=DetectorParams(), model=MODEL):  # noqa: B008  it is frozen
    return list(inference.model(model, detector, facts, '', needed=True))


def test_a_machine_without_a_gpu_lacks_nothing():
    assert set(statuses(LAPTOP).values()) == {'ok', 'absent'}


def test_what_is_asked_for_must_work():
    found = statuses(LAPTOP, DetectorParams(backend='tensorrt'))
    assert [found[name] for name in ('gpu', 'CUDA', 'TensorRT')] == ['fail', 'fail', 'fail']
    assert statuses(LAPTOP, DetectorParams(backend='openvino'))['OpenVINO'] == 'ok'
    assert statuses({**LAPTOP, 'openvino': MISSING})['OpenVINO'] == 'absent'
    assert statuses({**LAPTOP, 'openvino': MISSING}, DetectorParams(backend='openvino'))['OpenVINO'] == 'fail'
    assert statuses(LAPTOP, DetectorParams(providers=('CUDAExecutionProvider',)))['ONNX Runtime'] == 'fail'


def test_some_runtime_must_work():
    nothing = {**LAPTOP, **{name: {'trouble': 'x', 'missing_module': name} for name in RUNTIMES}}
    found = statuses(nothing)
    assert (found['OpenVINO'], found['ONNX Runtime']) == ('fail', 'fail')
    (finding,) = models(nothing)
    assert finding.status == 'fail'
    assert 'nothing here runs it' in finding.found


def test_a_gpu_that_lies_idle_is_a_warning():
    found = statuses(LAPTOP, smi=Answer('NVIDIA RTX A2000, 560.35, 6144 MiB, 8.6\n'))
    assert (found['gpu'], found['CUDA'], found['TensorRT']) == ('ok', 'warn', 'warn')


@pytest.mark.parametrize(
    ('text', 'gpus'),
    [
        (
            'NVIDIA H100 80GB HBM3, 570.86.15, 81559 MiB, 9.0\n',
            ['NVIDIA H100 80GB HBM3, driver 570.86.15, 81559 MiB, compute capability 9.0'],
        ),
        ('Orin (nvgpu), 540.4.0, [N/A], [N/A]\n', ['Orin (nvgpu), driver 540.4.0']),
        (
            'Tesla T4, 450.80.02, 15109 MiB\nTesla T4, 450.80.02, 15109 MiB\n',
            ['Tesla T4, driver 450.80.02, 15109 MiB'] * 2,
        ),
    ],
    ids=['h100', 'jetson', 'old driver, two'],
)
def test_nvidia_smi_is_read(text, gpus):
    assert inference.gpus_of(text) == gpus


def test_an_old_nvidia_smi_is_asked_again_for_less(tmp_path, monkeypatch):
    script = tmp_path / 'nvidia-smi'
    script.write_text(
        '#!/bin/sh\ncase "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field" ; exit 2;; esac\n'
        'echo "Tesla T4, 450.80.02, 15109 MiB"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    finding = inference.graphics(inference.ask_gpu(), needed=False)
    assert (finding.status, finding.found) == ('ok', 'Tesla T4, driver 450.80.02, 15109 MiB')


def test_a_driver_that_does_not_answer_is_a_problem():
    text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    finding = inference.graphics(Answer('', text), needed=False)
    assert (finding.status, finding.command) == ('warn', 'sudo reboot')


def test_a_gpu_on_the_bus_without_a_driver_is_seen(tmp_path):
    for name, vendor, kind in (('0', '0x8086', '0x030000'), ('1', '0x10de', '0x040300')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'vendor').write_text(f'{vendor}\n')
        (tmp_path / name / 'class').write_text(f'{kind}\n')
    assert not inference.nvidia_on_bus(tmp_path)
    (tmp_path / '1' / 'class').write_text('0x030200\n')
    assert inference.nvidia_on_bus(tmp_path)


@pytest.mark.parametrize(
    ('facts', 'detector', 'suffix', 'backend'),
    [
        (LAPTOP, {}, '.onnx', 'openvino'),
        (LAPTOP, {'providers': ('CPUExecutionProvider',)}, '.onnx', 'onnxruntime'),
        (LAPTOP, {'backend': 'onnxruntime'}, '.onnx', 'onnxruntime'),
        (LAPTOP, {}, '.xml', 'openvino'),
        (LAPTOP, {}, '.engine', ''),
        (LAPTOP, {'backend': 'tensorrt'}, '.onnx', ''),
        (JETSON, {}, '.onnx', 'tensorrt'),
        (JETSON, {}, '.engine', 'tensorrt'),
        (JETSON, {'backend': 'openvino'}, '.onnx', ''),
        (JETSON, {'backend': 'onnxruntime'}, '.onnx', 'onnxruntime'),
    ],
)
def test_the_runtime_is_the_one_that_would_be_taken(facts, detector, suffix, backend):
    assert inference.choose(DetectorParams(**detector), suffix, facts)[0] == backend


def test_the_first_of_the_table_that_works_would_be_taken():
    facts = {**JETSON, 'openvino': OPENVINO}
    for name in (name for name, entry in RUNTIMES.items() if '.onnx' in entry.suffixes):
        assert inference.choose(DetectorParams(), '.onnx', facts)[0] == name
        facts[name] = {'trouble': 'x'}


def test_cuda_without_its_compiler_does_not_work_and_says_what_is_missing(monkeypatch):
    def no_compiler():
        raise RuntimeUnavailable("the kernels cannot be compiled: not found; CUDA's libnvrtc must be there")

    gpu = SimpleNamespace(
        use=lambda: None, device=Device(name='Orin', compute_capability=(8, 7), integrated=True, total_memory=8 << 30)
    )
    monkeypatch.setitem(sys.modules, 'cuda', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'edge_vision.cuda', SimpleNamespace(gpu=lambda: gpu))
    kernels = SimpleNamespace(kernels=no_compiler)
    monkeypatch.setitem(sys.modules, 'edge_vision.cuda.kernels', kernels)
    with pytest.raises(RuntimeUnavailable) as refusal:
        child.cuda({})
    finding = inference.cuda({'trouble': str(refusal.value)}, has_gpu=True, needed=True)
    assert (finding.status, finding.way_out) == ('fail', "CUDA's libnvrtc must be there")
    assert finding.found == 'the kernels cannot be compiled: not found'
    kernels.kernels = lambda: None
    assert child.cuda({})['name'] == 'Orin'


@pytest.mark.parametrize(
    ('jetson', 'words', 'command'),
    [
        ('', 'package for the GPU', 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu'),
        ('NVIDIA Jetson Orin', 'for this JetPack', 'pip uninstall -y onnxruntime onnxruntime-gpu'),
    ],
    ids=['desktop', 'Jetson'],
)
@pytest.mark.parametrize('found', [ORT, {'trouble': 'x', 'missing_module': 'onnxruntime'}], ids=['for the CPU', 'none'])
def test_onnxruntime_for_the_gpu_takes_the_place_of_that_for_the_cpu(monkeypatch, found, jetson, words, command):
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    monkeypatch.setattr(inference, 'jetson_model', lambda: jetson)
    wanted = inference.wanted_by([DetectorParams(providers=('CUDAExecutionProvider',))])
    finding = inference.onnxruntime(found, wanted, needed=True)
    assert words in finding.way_out
    assert finding.command == command


def test_nothing_that_is_installed_replaces_the_numpy_of_a_distro(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    major = np.__version__[0]
    assert inference.pip_install('openvino') == f'pip install openvino "numpy=={major}.*"'
    monkeypatch.delenv('ROS_DISTRO')
    assert inference.pip_install('openvino') == 'pip install openvino'


@pytest.mark.parametrize(
    ('changes', 'detector', 'status', 'word'),
    [
        ({}, {}, 'warn', 'has not been compared'),
        ({}, {'validate_engine': False}, 'ok', '/cache/k.engine fits this GPU'),
        ({'validation': ACCEPTED}, {}, 'ok', '/cache/k.engine fits this GPU'),
        ({'validation': REFUSED}, {}, 'fail', '3 of 100 boxes'),
        ({'validation': REFUSED}, {'validate_engine': False}, 'ok', 'fits'),
        ({'reason': 'there is none yet'}, {'precision': 'fp16', 'dla_core': 1}, 'warn', 'there is none yet'),
    ],
)
def test_the_engine_that_would_be_used_is_judged(changes, detector, status, word):
    facts = {**JETSON, 'engine': {**ENGINE, **changes}}
    finding = models(facts, DetectorParams(**detector))[-1]
    assert (finding.name, finding.status) == ('engine', status)
    assert word in finding.found
    if changes.get('reason'):
        assert finding.command == 'edge_vision build-engine m.onnx --precision fp16 --dla-core 1'


def test_without_a_gpu_there_is_no_word_of_engines():
    assert [finding.name for finding in models(LAPTOP)] == ['model']


def test_the_shipped_model_is_read_without_loading_it():
    found = programs.child('model', {'path': str(share_file(CONVEYOR_MODEL))})
    assert found['input_size'] == [256, 320]
    assert found['labels'][0] == 'part'


def test_a_model_that_is_none_is_a_failure(tmp_path):
    (tmp_path / 'm.onnx').write_text('no model')
    (finding,) = models(LAPTOP, model=programs.child('model', {'path': str(tmp_path / 'm.onnx')}))
    assert finding.status == 'fail'
    assert 'm.onnx' in finding.found


def opened(path='', **changes):
    arguments = {'backend': 'auto', 'precision': 'fp32', 'threads': 1, 'providers': [], 'classes': [], **changes}
    return programs.child('model', {'path': str(path), 'open': True, **arguments})


@pytest.mark.parametrize('backend', ['openvino', 'onnxruntime'])
def test_a_model_is_opened_by_the_runtime_that_is_asked_for(backend):
    pytest.importorskip(backend)
    found = opened(backend=backend)
    assert found['runtime'] == backend
    (finding,) = models(LAPTOP, DetectorParams(backend=backend), found)
    assert finding.status == 'ok'
    assert finding.details == (f'runs on {backend} in fp32 (as asked)',)


def test_a_model_that_only_looks_like_one_is_found_out_by_opening_it(tmp_path):
    whole = share_file(CONVEYOR_MODEL).read_bytes()
    at = whole.index(b'Conv')
    (tmp_path / 'm.onnx').write_bytes(whole[:at] + b'Vonc' + whole[at + 4 :])
    assert 'trouble' not in programs.child('model', {'path': str(tmp_path / 'm.onnx')})
    (finding,) = models(LAPTOP, model=opened(tmp_path / 'm.onnx'))
    assert finding.status == 'fail'
    assert 'is damaged' in finding.found
    assert finding.way_out == 'copy it again, or export it again'


@pytest.mark.parametrize(
    ('facts', 'detector', 'opens'),
    [
        (LAPTOP, {}, True),
        (LAPTOP, {'backend': 'tensorrt'}, False),
        (LAPTOP, {'model_file_path': 'm.engine'}, False),
        (JETSON, {}, False),
        (JETSON, {'backend': 'onnxruntime'}, True),
        (JETSON, {'model_file_path': 'm.xml'}, True),
        (JETSON, {'providers': ('CPUExecutionProvider',)}, True),
    ],
)
def test_a_model_that_tensorrt_would_take_is_not_opened(facts, detector, opens):
    assert inference.opens_on_cpu(DetectorParams(**detector), facts) is opens


def test_a_file_that_this_user_may_not_read_is_told_in_a_sentence(tmp_path, request):
    path = tmp_path / 'm.onnx'
    path.touch(0o000)
    assert 'trouble' not in child.model({})
    if os.geteuid() == 0:  # root may read every file
        request.addfinalizer(lambda: os.seteuid(0))
        os.seteuid(65534)
    found = child.model({'path': str(path)})
    assert found['trouble'] == f"model file '{path}' cannot be read: Permission denied"
    (finding,) = models(LAPTOP, DetectorParams(model_file_path=str(path)), found)
    assert (finding.status, finding.way_out, finding.command) == ('fail', 'let this user read it', f'namei -l {path}')


@pytest.mark.parametrize(
    ('capabilities', 'computes'),
    [
        (['FP32', 'INT8', 'BIN'], 'fp32'),
        (['FP32', 'FP16', 'INT8'], 'fp32 and fp16'),
        (['FP32', 'BF16'], 'fp32 and fp16 (as bf16)'),
    ],
)
def test_openvino_computes_in_what_may_be_asked_of_it(capabilities, computes):
    finding = inference.openvino({**OPENVINO, 'capabilities': capabilities}, needed=True)
    assert finding.found.endswith(f'computes in {computes}')


def test_the_engine_of_a_model_is_looked_for_and_not_built(tmp_path, monkeypatch):
    pytest.importorskip('edge_vision.engines.preparation')
    monkeypatch.setenv('EDGE_VISION_ENGINE_CACHE', str(tmp_path / 'engines'))
    arguments = {'path': '', 'engine': '', 'precision': 'fp32', 'calibration': '', 'dla_core': -1}
    found = programs.child('engine', arguments)
    if 'TensorRT is not available' in found.get('trouble', ''):
        pytest.skip(found['trouble'])
    assert found['reason'] == 'there is none yet'
    assert found['path'].startswith(str(tmp_path / 'engines'))
    assert not (tmp_path / 'engines').exists()


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        (OPENCV['build'], {'GStreamer': 'YES', 'FFMPEG': 'NO'}),
        ('    v4l/v4l2:                    YES (linux/videodev2.h)\n', {'v4l2': 'YES'}),
        ('', {}),
    ],
)
def test_what_opencv_was_built_with_is_read(text, parts):
    assert inference.built_with(text) == parts


def test_the_opencv_of_this_machine_tells_what_it_was_built_with():
    assert set(inference.built_with(programs.child('opencv')['build'])) == {'GStreamer', 'FFMPEG', 'v4l2'}
