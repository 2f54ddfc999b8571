"""What runs the network here: GPU, CUDA, TensorRT, the CPU runtimes, and the model with its engine."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ..backends import RUNTIMES
from ..params import DetectorParams
from . import child, programs
from .findings import Finding, absent, ok, problem
from .machine import amount, jetson_model, text_of

Facts = Mapping[str, Mapping[str, Any]]

QUERIES = ('name,driver_version,memory.total,compute_cap', 'name,driver_version,memory.total')  # new and old drivers
GPU_PROVIDERS = ('TensorrtExecutionProvider', 'CUDAExecutionProvider')
ELSEWHERE = ('AzureExecutionProvider',)  # is in every wheel and computes nothing here
NVIDIA, DISPLAY = '0x10de', '0x03'  # vendor and class of a PCI device
REQUIREMENTS = Path(__file__).resolve().parents[2] / 'requirements' / 'tensorrt.txt'
EXPORT = 'yolo export model={} format=onnx'
REFUSALS = ('ConfigurationError', 'RuntimeUnavailable')
CPU_RUNTIMES = tuple(name for name in RUNTIMES if name != 'tensorrt')


class Wanted(NamedTuple):
    """What the detectors of the configured pipelines ask for."""

    backends: frozenset[str]
    providers: frozenset[str]

    @property
    def tensorrt(self) -> bool:
        """Whether TensorRT has to work."""
        return 'tensorrt' in self.backends

    @property
    def gpu(self) -> bool:
        """Whether a GPU has to work."""
        return self.tensorrt or bool(self.providers & set(GPU_PROVIDERS))


def wanted_by(detectors: Sequence[DetectorParams]) -> Wanted:
    """Collect what detectors ask for."""
    return Wanted(frozenset(d.backend for d in detectors), frozenset(p for d in detectors for p in d.providers))


def libraries(facts: Facts, smi: programs.Answer | None, wanted: Wanted) -> Iterator[Finding]:
    """Judge GPU and libraries."""
    gpu = graphics(smi, needed=wanted.gpu)
    yield gpu
    has_gpu = gpu.status == 'ok' or 'name' in facts['cuda']
    yield cuda(facts['cuda'], has_gpu=has_gpu, needed=wanted.gpu)
    yield tensorrt(facts['tensorrt'], runs='name' in facts['cuda'], has_gpu=has_gpu, needed=wanted.tensorrt)
    cpu_works = any(works(name, facts) for name in CPU_RUNTIMES)
    nothing = not cpu_works and not works_on_gpu(facts)
    yield openvino(facts['openvino'], needed='openvino' in wanted.backends or nothing)
    yield onnxruntime(facts['onnxruntime'], wanted, needed='onnxruntime' in wanted.backends or nothing)
    for name in CPU_RUNTIMES:
        if name not in ('openvino', 'onnxruntime'):
            yield another_runtime(name, facts[name], needed=name in wanted.backends)
    yield opencv(facts['opencv'])


def works_on_gpu(facts: Facts) -> bool:
    """Tell whether TensorRT can run an engine here."""
    return 'name' in facts['cuda'] and 'trouble' not in facts['tensorrt']


def works(name: str, facts: Facts) -> bool:
    """Tell whether a runtime works here; one that was not looked at is believed to."""
    return works_on_gpu(facts) if name == 'tensorrt' else 'trouble' not in facts.get(name, {})


def ask_gpu() -> programs.Answer | None:
    """Ask the NVIDIA driver for its GPUs; None where it has no program."""
    said = None
    for query in QUERIES:
        said = programs.ask('nvidia-smi', f'--query-gpu={query}', '--format=csv,noheader')
        if said is None or not said.trouble:
            break
    return said


def graphics(smi: programs.Answer | None, *, needed: bool) -> Finding:
    """Judge what nvidia-smi says; a Jetson has its GPU without it."""
    jetson = jetson_model()
    gpus = [] if smi is None or smi.trouble else gpus_of(smi.output)
    if gpus:
        return ok('gpu', *gpus)
    if jetson:
        return ok('gpu', f'the one of the {jetson}')
    if smi is not None:
        found = f'nvidia-smi: {smi.trouble or "no GPU"}'
        return problem('gpu', found, 'driver and kernel must match; after an update', 'sudo reboot', needed=needed)
    if nvidia_on_bus(Path('/sys/bus/pci/devices')):
        return problem(
            'gpu', 'an NVIDIA GPU without a driver', 'install it', 'sudo ubuntu-drivers install', needed=needed
        )
    if needed:
        return problem('gpu', 'none', 'let the detector run on the CPU: backend: "auto", no providers', needed=True)
    return absent('gpu', 'none; inference runs on the CPU')


def gpus_of(text: str) -> list[str]:
    """Read the CSV of nvidia-smi: a sentence for each GPU."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        name, driver, memory, *capability = (value.strip() for value in row)
        words = [name, f'driver {driver}', memory, *(f'compute capability {value}' for value in capability)]
        gpus.append(', '.join(word for word in words if not word.endswith(('[N/A]', '[Not Supported]'))))
    return gpus


def nvidia_on_bus(folder: Path) -> bool:
    """Tell whether there is an NVIDIA GPU on the PCI bus."""
    for device in folder.glob('*'):
        if text_of(device / 'vendor') == NVIDIA and text_of(device / 'class').startswith(DISPLAY):
            return True
    return False


def cuda(found: Mapping[str, Any], *, has_gpu: bool, needed: bool) -> Finding:
    """Judge CUDA, as cuda-python gives it."""
    if 'name' in found:
        major, minor = found['compute_capability']
        memory = f'{amount(found["total_memory"])}{" shared with the CPU" if found["integrated"] else ""}'
        version = f', cuda-python {found["version"]}' if found['version'] else ''
        return ok('CUDA', f'{found["name"]}, compute capability {major}.{minor}, {memory}{version}')
    if not (has_gpu or needed):
        return absent('CUDA', 'takes an NVIDIA GPU')
    if not has_gpu:
        return problem('CUDA', 'takes an NVIDIA GPU', 'as for the gpu', needed=True)
    if is_missing(found, 'cuda'):
        return problem('CUDA', 'cuda-python is not installed', 'TensorRT needs it', install(), needed=needed)
    reason, _, way_out = str(found['trouble']).rpartition('; ')
    if 'nvrtc' in way_out:
        return problem('CUDA', reason, way_out, needed=needed)
    tool = 'nvidia-smi' if programs.find('nvidia-smi') else 'sudo dmesg | grep -i nv'
    return problem('CUDA', str(found['trouble']), 'see what the driver says', tool, needed=needed)


def is_missing(found: Mapping[str, Any], module: str) -> bool:
    """Tell whether a library is not there at all."""
    return str(found.get('missing_module', '')).partition('.')[0] == module


def install() -> str:
    """Name the command that installs what TensorRT needs in Python."""
    return pip_install(f'-r {shlex.quote(str(REQUIREMENTS))}' if REQUIREMENTS.is_file() else 'cuda-python')


def pip_install(what: str) -> str:
    """Name the command that installs something and leaves a distro the numpy that its cv_bridge was built for."""
    numpy = child.version('numpy') if os.environ.get('ROS_DISTRO') else ''
    return f'pip install {what}' + (f' "numpy=={numpy.partition(".")[0]}.*"' if numpy else '')


def tensorrt(found: Mapping[str, Any], *, runs: bool, has_gpu: bool, needed: bool) -> Finding:
    """Judge TensorRT."""
    if 'trouble' in found and not (has_gpu or needed):
        return absent('TensorRT', 'takes an NVIDIA GPU')
    if 'trouble' in found:
        command = 'sudo apt install nvidia-jetpack' if jetson_model() else pip_install('tensorrt')
        reason = str(found['trouble']).removeprefix('TensorRT is not available: ').partition('; on a Jetson')[0]
        return problem('TensorRT', reason, 'install it', command, needed=needed)
    named = f'{found["name"]} {found["version"]}'
    if runs:
        return ok('TensorRT', named + ('' if found['can_build'] else ', which runs engines and builds none'))
    if needed:
        return problem('TensorRT', f'{named}, but CUDA does not work here', 'as for CUDA', needed=True)
    return absent('TensorRT', f'{named} is installed; there is no GPU to run an engine')


def openvino(found: Mapping[str, Any], *, needed: bool) -> Finding:
    """Judge OpenVINO."""
    if 'trouble' not in found:
        named, does = f'{found["version"]} on {", ".join(found["devices"])}', found['capabilities']
        half = ' and fp16' if 'FP16' in does else ' and fp16 (as bf16)' if 'BF16' in does else ''
        return ok('OpenVINO', f'{named}; computes in fp32{half}')
    return lacking('OpenVINO', 'openvino', found, needed=needed)


def onnxruntime(found: Mapping[str, Any], wanted: Wanted, *, needed: bool) -> Finding:
    """Judge ONNX Runtime and the providers asked of it."""
    wants_gpu = bool(wanted.providers & set(GPU_PROVIDERS))
    if 'trouble' in found:
        if wants_gpu:
            return problem('ONNX Runtime', str(found['trouble']), *onnxruntime_gpu(), needed=True)
        return lacking('ONNX Runtime', 'onnxruntime', found, needed=needed)
    named = [name.removesuffix('ExecutionProvider') for name in found['providers'] if name not in ELSEWHERE]
    said = f'{found["version"]} on {", ".join(named)}'
    missing = sorted(wanted.providers - set(found['providers']))
    if missing:
        way_out = onnxruntime_gpu() if set(missing) & set(GPU_PROVIDERS) else ('take another provider', '')
        return problem('ONNX Runtime', f'{said}: has no {", ".join(missing)}', *way_out, needed=True)
    return ok('ONNX Runtime', said)


def onnxruntime_gpu() -> tuple[str, str]:
    """Say how to install ONNX Runtime for the GPU, in words and as a command."""
    remove = 'pip uninstall -y onnxruntime onnxruntime-gpu'  # they write into the same folder
    if jetson_model():
        return "remove the package for the CPU, then pip install NVIDIA's onnxruntime-gpu for this JetPack", remove
    return 'put the package for the GPU in its place', f'{remove} && {pip_install("onnxruntime-gpu")}'


def another_runtime(name: str, found: Mapping[str, Any], *, needed: bool) -> Finding:
    """Judge a runtime of which nothing more is known than whether it can be imported."""
    if 'trouble' not in found:
        return ok(name, 'can be imported')
    if needed:
        return problem(name, str(found['trouble']), RUNTIMES[name].install, needed=True)
    return absent(name, str(found['trouble']), RUNTIMES[name].install)


def lacking(name: str, package: str, found: Mapping[str, Any], *, needed: bool) -> Finding:
    """Describe a runtime for the CPU that does not work."""
    if not is_missing(found, package):
        return problem(
            name, str(found['trouble']), 'install it again', pip_install(f'--force-reinstall {package}'), needed=needed
        )
    if needed:
        return problem(name, 'not installed', 'install it', pip_install(package), needed=True)
    return absent(name, 'not installed', 'where it would serve', pip_install(package))


def opencv(found: Mapping[str, Any]) -> Finding:
    """Judge OpenCV, without which nothing runs."""
    if 'trouble' in found:
        missing = is_missing(found, 'cv2') or is_missing(found, 'numpy')
        reason = 'not installed' if missing else str(found['trouble'])
        return problem('OpenCV', reason, 'install it', 'sudo apt install python3-opencv', needed=True)
    parts = built_with(found['build'])
    names = {'v4l2': 'V4L2', 'FFMPEG': 'FFmpeg', 'GStreamer': 'GStreamer'}
    has = [f'{"" if parts.get(part) == "YES" else "no "}{name}' for part, name in names.items()]
    return ok('OpenCV', f'{found["version"]} with {", ".join(has)}; numpy {found["numpy"]}')


def built_with(text: str) -> dict[str, str]:
    """Read from OpenCV's build information which ways to pictures it has: 'YES' or 'NO' by part."""
    found = re.findall(r'^\s*(GStreamer|FFMPEG|v4l/v4l2|V4L/V4L2):\s+(YES|NO)\b', text, re.MULTILINE)
    return {'v4l2' if part.lower().startswith('v4l') else part: answer for part, answer in found}


def model(
    found: Mapping[str, Any],
    detector: DetectorParams,
    facts: Facts,
    where: str,
    *,
    needed: bool,
    named_by: str = 'model_file_path',
) -> Iterator[Finding]:
    """Judge a detector's model, what would run it, and its engine.

    Args:
        found: What the probe 'model' has found.
        detector: Parameters of the detector.
        facts: What all other probes have found.
        where: Put before what is said, such as 'line1: '.
        needed: Whether the user has chosen the model.
        named_by: The parameter or argument that the user names the model with.

    """
    needed = needed or not detector.model_file_path
    if 'trouble' in found:
        yield problem('model', f'{where}{found["trouble"]}', *mend(found, detector, named_by), needed=needed)
        return
    backend, reasons = choose(detector, found['suffix'], facts)
    height, width = found['input_size'] or (0, 0)
    size = f', {width}x{height}' if height else ''
    classes = f', {len(found["labels"])} classes ({shortened(found["labels"])})' if found['labels'] else ''
    said = f'{where}{found["name"]}{size}{classes}'
    if not backend:
        way_out, command = another_way(detector, found['suffix'], facts)
        yield problem(
            'model', f'{said}: nothing here runs it', f'{"; ".join(reasons)}; {way_out}', command, needed=True
        )
        return
    if 'refusal' in found:
        yield problem('model', f'{said}: {found["refusal"]}', *mend(found, detector, named_by), needed=needed)
        return
    how = 'as asked' if detector.backend != 'auto' else '; '.join(reasons) or 'first choice'
    yield ok('model', said, f'runs on {found.get("runtime", backend)} in {detector.precision} ({how})')
    if backend == 'tensorrt' and found['suffix'] == '.onnx':
        yield engine(facts.get('engine', {}), detector)


def mend(found: Mapping[str, Any], detector: DetectorParams, named_by: str) -> tuple[str, str]:
    """Say what to do about a model that cannot be read or opened, in words and as a command."""
    reason, kind = str(found.get('trouble') or found['refusal']), found.get('kind', '')
    ways = (
        ('missing_module' in found, 'install what the detector needs', 'scripts/setup'),
        (kind == 'PermissionError', 'let this user read it', f'namei -l {shlex.quote(detector.model_file_path)}'),
        (reason.startswith('precision is '), 'set precision: "fp32"', ''),
        (reason.startswith('classes holds '), "correct the detector's classes", ''),
        (kind in REFUSALS, 'set backend: "auto" and no providers', ''),
        ('does not exist' in reason or ' ends in ' in reason, f'name the file of a model with {named_by}', ''),
        ('metadata.yaml' in reason, 'copy the whole folder that the export has written', ''),
        (kind == 'ModelError', 'copy it again, or export it again', EXPORT.format('MODEL.pt')),
        (True, 'check the file and the disk it is on, or export the model again', ''),
    )
    return next((way_out, command) for applies, way_out, command in ways if applies)


def opens_on_cpu(detector: DetectorParams, facts: Facts) -> bool:
    """Tell whether a runtime for the CPU would be tried with the model, and not TensorRT."""
    suffix = Path(detector.model_file_path or 'shipped.onnx').suffix.lower()
    of_gpu = {name: facts[name] for name in ('cuda', 'tensorrt')}
    return choose(detector, suffix, of_gpu)[0] in CPU_RUNTIMES


def choose(detector: DetectorParams, suffix: str, facts: Facts) -> tuple[str, list[str]]:
    """Tell which runtime would be taken, '' for none, and why not those before it."""
    reasons = []
    for name, entry in RUNTIMES.items():
        if detector.backend not in ('auto', name):
            continue
        if suffix not in entry.suffixes:
            reasons.append(f'{name} does not read {suffix}')
        elif detector.providers and name != 'onnxruntime':
            reasons.append(f'{name} has no such providers')
        elif not works(name, facts):
            reasons.append(f'{name} does not work here')
        else:
            return name, reasons
    return '', reasons


def another_way(detector: DetectorParams, suffix: str, facts: Facts) -> tuple[str, str]:
    """Say how a model that nothing runs could be run, in words and as a command."""
    backend, _ = choose(replace(detector, backend='auto', providers=()), suffix, facts)
    if backend:
        return f'{backend} would run it: set backend: "auto" and no providers', ''
    if suffix == '.pt':
        return 'export it', EXPORT.format(shlex.quote(detector.model_file_path))
    if suffix in ('.engine', '.xml'):
        return 'give the .onnx file it was made from', ''
    return 'install a runtime for the CPU', pip_install('openvino')


def shortened(labels: Sequence[str]) -> str:
    """Name the first labels."""
    return ', '.join(labels[:4]) + (', ...' if len(labels) > 4 else '')


def engine(found: Mapping[str, Any], detector: DetectorParams) -> Finding:
    """Judge the TensorRT engine that would be used."""
    if 'trouble' in found or not found:
        reason = found.get('trouble', 'not looked at')
        return problem(
            'engine',
            str(reason),
            'try it',
            f'edge_vision build-engine {detector.model_file_path or "MODEL"}',
            needed=detector.backend == 'tensorrt',
        )
    build = f'edge_vision build-engine {found["model"]} --precision {detector.precision}'
    if detector.dla_core >= 0:
        build += f' --dla-core {detector.dla_core}'
    if found['reason']:
        said = f'{found["path"]}: {found["reason"]}; it is built at the next start, which takes minutes'
        return problem('engine', said, 'build it now', build, needed=False)
    judged, said = found['validation'], f'{found["path"]} fits this GPU'
    if judged and not judged['accepted'] and detector.validate_engine:
        way_out = 'build it in a higher precision or with pictures of your own (--calibration DIR)'
        again = f'edge_vision build-engine {found["model"]} --precision fp16 --force'
        return problem('engine', judged['refusal'], way_out, again, needed=True)
    if judged is None and detector.validate_engine:
        said += '; it has not been compared with its model yet, and is at the next start'
        return problem('engine', said, 'compare it now', build, needed=False)
    return ok('engine', said, judged['summary'] if judged else 'used without a comparison with its model, as asked')
