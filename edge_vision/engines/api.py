"""One small layer over TensorRT 8.6, 10 and 11, TensorRT-RTX, and the lean runtime that only runs.

What differs is asked of the library itself, never of its version number:

========================  =======  =======  =======  ==============  ====
                          8.6      10       11       RTX             lean
========================  =======  =======  =======  ==============  ====
``can_build``             yes      yes      yes      yes, any host   no
``strongly_typed``        no       yes      yes      yes             yes
``has_precision_flags``   yes      yes      no       no              no
``has_timing_cache``      yes      yes      yes      no              no
``has_progress``          no       yes      yes      yes             no
========================  =======  =======  =======  ==============  ====
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..errors import RuntimeUnavailable
from .device import Device

log = logging.getLogger(__name__)

MODULES = {  # in the order of choice; the first module of a library that can be imported is it
    'tensorrt': ('tensorrt',),
    'tensorrt_rtx': ('tensorrt_rtx', 'tensorrt_rtx_bindings'),
    'tensorrt_lean': ('tensorrt_lean', 'tensorrt_lean_bindings'),
}
OLDEST = (8, 6)
WAY_OUT = 'on a Jetson it comes with JetPack (apt install tensorrt), elsewhere: pip install tensorrt'
Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done, 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A TensorRT library that is there.

    Attributes:
        name: A name in `MODULES`.
        version: Its version, such as '10.3.0'.
        module: What was imported.
        can_build: It has a builder and an ONNX parser.
        strongly_typed: Every tensor can be held to the type that the model gives it.
        has_precision_flags: The builder can be left to choose between precisions.
        has_progress: The builder tells how far it is.
        has_timing_cache: The builder remembers what it timed.

    """

    name: str
    version: str
    module: ModuleType
    can_build: bool
    strongly_typed: bool
    has_precision_flags: bool
    has_progress: bool
    has_timing_cache: bool

    def __str__(self) -> str:
        return f'{self.name} {self.version}'


def find(*, to_build: bool = False) -> Api:
    """Find the TensorRT library to use.

    Args:
        to_build: It has to be able to build.

    Raises:
        RuntimeUnavailable: There is none, or none that can build.

    """
    reasons: list[str] = []
    for api in found(reasons):
        if api.can_build or not to_build:
            return api
        reasons.append(f'{api} can run engines but not build them')
    raise RuntimeUnavailable(f'TensorRT is not available: {"; ".join(reasons)}; {WAY_OUT}')


def found(reasons: list[str]) -> Iterator[Api]:
    """Import one library after the other, the best one first; say in ``reasons`` why one is left out."""
    for name, modules in MODULES.items():
        module = import_first(name, modules, reasons)
        if module is not None:
            yield describe(name, module)


def import_first(name: str, modules: tuple[str, ...], reasons: list[str]) -> ModuleType | None:
    """Import the first of the modules that is there and not too old."""
    reason = 'is not installed'
    for module_name in modules:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                reason = f'cannot be imported ({error})'
        except Exception as error:  # noqa: BLE001  a library that is half installed fails in its own ways
            reason = f'cannot be imported ({error})'
        else:
            version = str(getattr(module, '__version__', '0'))
            if name == 'tensorrt' and numbers(version) < OLDEST:
                reason = f'{version} is too old, expected {".".join(map(str, OLDEST))} or newer'
                continue
            return module
    reasons.append(f'{name} {reason}')
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Take the leading numbers of a version."""
    parts = []
    for part in version.split('.'):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def describe(name: str, module: ModuleType) -> Api:
    """Ask a library what it can do."""
    can_build = hasattr(module, 'Builder') and hasattr(module, 'OnnxParser')
    has_flags = hasattr(module.BuilderFlag, 'FP16')
    creation = getattr(module, 'NetworkDefinitionCreationFlag', None)
    return Api(
        name=name,
        version=str(module.__version__),
        module=module,
        can_build=can_build,
        strongly_typed=not has_flags or hasattr(creation, 'STRONGLY_TYPED'),
        has_precision_flags=has_flags,
        has_progress=can_build and hasattr(module, 'IProgressMonitor'),
        has_timing_cache=can_build and name == 'tensorrt',  # TensorRT-RTX times nothing: it compiles where it runs
    )


def check_device(api: Api, device: Device | None) -> None:
    """Make sure that a library knows a GPU; only TensorRT-RTX says which ones it knows.

    Raises:
        RuntimeUnavailable: It does not.

    """
    known = getattr(api.module, 'ComputeCapability', None) if api.name == 'tensorrt_rtx' else None
    if known is None or device is None:
        return
    major, minor = device.compute_capability
    if not hasattr(known, f'SM{major}{minor}'):
        raise RuntimeUnavailable(
            f'{api} does not know {device.name} (compute capability {major}.{minor}), which takes TensorRT itself; '
            f'{WAY_OUT}'
        )


_loggers: dict[str, Any] = {}


def make_logger(api: Api) -> Any:
    """Make the ``ILogger`` of a library, once: a process has one of them, and whatever comes after it is ignored.

    It writes into this module's log, and keeps the last lines in ``lines`` and the last errors in ``errors``. An error
    of the library is a line of the log too: not every one of them becomes an exception.
    """
    if api.name not in _loggers:
        _loggers[api.name] = new_logger(api)
    return _loggers[api.name]


def new_logger(api: Api) -> Any:
    """Make an ``ILogger``; it must live as long as the library."""
    trt = api.module
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=4)
            self.lines: deque[str] = deque(maxlen=200)

        def log(self, severity: Any, text: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.errors.append(text.strip())
            if severity == trt.ILogger.VERBOSE:
                return
            self.lines.append(text)
            log.log(level, '%s: %s', api.name, text)

    return Logger()


def make_monitor(api: Api, progress: Progress) -> Any:
    """Make an ``IProgressMonitor`` that hands on the share of the whole that is done.

    What ``progress`` raises ends the build; it is kept in ``raised``, because it cannot pass through the library.
    """
    trt = api.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases()
            self.raised: BaseException | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.phases.start(name, parent, steps)
            self.tell(name)

        def step_complete(self, name: str, step: int) -> bool:
            self.phases.complete(name, step)
            return self.tell(name)

        def phase_finish(self, name: str) -> None:
            self.phases.finish(name)
            self.tell(name)

        def tell(self, name: str) -> bool:
            try:
                if self.raised is None:
                    progress(name, self.phases.share())
            except BaseException as error:  # noqa: BLE001  raised again when the builder has come back
                self.raised = error
            return self.raised is None

    return Monitor()


@dataclass(slots=True)
class Phase:
    """One phase of a build: how many steps it has, how many are done, and the phase whose step it is."""

    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """How far a build is, from phases within phases."""

    def __init__(self) -> None:
        self._open: dict[str, Phase] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase."""
        self._open[name] = Phase(parent or None, max(steps, 1))

    def complete(self, name: str, step: int) -> None:
        """Note that the step counted from 0 is done."""
        if name in self._open:
            self._open[name].done = max(self._open[name].done, step + 1)

    def finish(self, name: str) -> None:
        """End a phase, whether or not all its steps were told."""
        phase = self._open.pop(name, None)
        if phase is not None and phase.parent is None:
            self._share = 1.0

    def share(self) -> float:
        """Tell the share of the whole that is done, 0..1; it never goes back."""
        roots = [name for name, phase in self._open.items() if phase.parent not in self._open]
        if roots:
            self._share = max(self._share, *(self._within(name, 8) for name in roots))
        return self._share

    def _within(self, name: str, depth: int) -> float:
        phase = self._open[name]
        inner = [n for n, p in self._open.items() if p.parent == name and n != name] if depth else []
        current = max((self._within(n, depth - 1) for n in inner), default=0.0)
        return min((phase.done + current) / phase.steps, 1.0)
