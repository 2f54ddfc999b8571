"""The machine itself: system, processor, memory, how fast it is allowed to be, and its clock."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import programs
from .findings import Finding, absent, ok, problem

LEAST_MEMORY = 1 << 30  # bytes that should be left for a pipeline
LARGEST_CLOCK_ERROR = 0.1  # s
CPU_PARTS = {  # CPU implementer and CPU part of /proc/cpuinfo, which has no names on ARM
    (0x41, 0xD03): 'Cortex-A53',
    (0x41, 0xD07): 'Cortex-A57',
    (0x41, 0xD08): 'Cortex-A72',
    (0x41, 0xD0B): 'Cortex-A76',
    (0x41, 0xD42): 'Cortex-A78AE',
    (0x41, 0xD83): 'Neoverse-V3AE',
    (0x4E, 0x004): 'Carmel',
}
JETPACKS = {'32': '4', '35': '5', '36': '6', '38': '7'}  # release of Jetson Linux -> JetPack
GPU_CLOCKS = ('gpu', 'gv11b', 'ga10b', 'gp10b', 'gm20b', 'gb10b', 'gpc')  # names of GPUs below /sys/class/devfreq


def text_of(path: str | Path) -> str:
    """Read a small file of the kernel; '' where it is not there or not for us."""
    try:
        return Path(path).read_text(encoding='utf-8', errors='replace').strip('\0\n ')
    except OSError:
        return ''


def probe() -> Iterator[Finding]:
    """Look at the machine."""
    yield system(jetson_model())
    yield processor(cpu_of(text_of('/proc/cpuinfo')), len(os.sched_getaffinity(0)), os.getloadavg()[0])
    yield memory(text_of('/proc/meminfo'))
    yield governors(
        [text_of(path) for path in Path('/sys/devices/system/cpu/cpufreq').glob('policy*/scaling_governor')],
        text_of('/sys/devices/system/cpu/cpufreq/policy0/scaling_driver'),
    )
    if jetson_model():
        asked = programs.ask('nvpmodel', '-q')
        yield power_mode('' if asked is None else asked.output, text_of('/etc/nvpmodel.conf'))
        yield jetson_clocks(gpu_clocks(Path('/sys/class/devfreq')))
    yield clock(*kernel_clock(), programs.ask('chronyc', '-n', 'tracking'))


def jetson_model() -> str:
    """Name the Jetson that this is; '' on any other machine."""
    model = text_of('/proc/device-tree/model')
    return model if 'jetson' in model.lower() or Path('/etc/nv_tegra_release').exists() else ''


def system(jetson: str) -> Finding:
    """Say what runs here."""
    names = re.search(r'^PRETTY_NAME="?([^"\n]*)', text_of('/etc/os-release'), re.MULTILINE)
    words = [names[1] if names else platform.system(), f'Linux {platform.release()}', platform.machine()]
    if in_container():
        words.append('in a container')
    release = l4t(text_of('/etc/nv_tegra_release')) if jetson else ''
    details = [', '.join(word for word in (jetson, release) if word)] if jetson else []
    python = f'Python {platform.python_version()} in {sys.prefix}'
    return ok('system', ', '.join(words), *details, python)


def in_container() -> bool:
    """Tell whether this runs in a Docker or Podman container."""
    return Path('/.dockerenv').exists() or Path('/run/.containerenv').exists()


def l4t(text: str) -> str:
    """Name the release of Jetson Linux in /etc/nv_tegra_release, and the JetPack that it is of."""
    found = re.search(r'R(\d+) \(release\), REVISION: ([\d.]+)', text)
    if not found:
        return ''
    jetpack = f' (JetPack {JETPACKS[found[1]]})' if found[1] in JETPACKS else ''
    return f'Jetson Linux {found[1]}.{found[2]}{jetpack}'


class Cpu(NamedTuple):
    """A processor: its name and what it can do, in the kernel's words."""

    name: str
    flags: frozenset[str]


def cpu_of(text: str) -> Cpu:
    """Read /proc/cpuinfo."""
    values = dict(re.findall(r'^([^\t:\n]+?)\s*:[ \t]*(.*)$', text, re.MULTILINE))
    name = values.get('model name', '').strip()
    if not name or 'CPU part' in values:  # ARM
        part = int(values.get('CPU implementer', '0'), 16), int(values.get('CPU part', '0'), 16)
        name = CPU_PARTS.get(part, name or f'ARM implementer {part[0]:#x} part {part[1]:#x}')
    return Cpu(name, frozenset((values.get('flags') or values.get('Features', '')).split()))


def processor(cpu: Cpu, cores: int, load: float) -> Finding:
    """Say what the processor can do of what inference uses."""
    words = [cpu.name, f'{cores} core{"" if cores == 1 else "s"}', *abilities(cpu.flags), f'load {load:.1f}']
    found = ', '.join(words)
    x86 = 'sse2' in cpu.flags
    if x86 and 'avx2' not in cpu.flags:
        way_out = "give the virtual machine its host's processor (QEMU: -cpu host)" if 'hypervisor' in cpu.flags else ''
        return problem(
            'processor', f'{found}; without AVX2 inference takes several times as long', way_out, needed=False
        )
    if load > 1.5 * cores:
        return problem(
            'processor',
            f'{found}: other work is in the way',
            'see what it is',
            'ps -eo pcpu,pid,comm --sort=-pcpu | head',
            needed=False,
        )
    return ok('processor', found)


def abilities(flags: frozenset[str]) -> Iterator[str]:
    """Name what speeds up inference, and what of it is missing."""
    if 'asimd' in flags:
        yield 'NEON'
        yield from (
            name for flag, name in (('asimddp', 'dot product'), ('i8mm', 'int8'), ('bf16', 'bf16')) if flag in flags
        )
        return
    yield 'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'no AVX2'
    yield 'VNNI' if flags & {'avx512_vnni', 'avx_vnni'} else 'no VNNI (int8 gains little)'
    if 'amx_tile' in flags:
        yield 'AMX'
    elif 'avx512_bf16' in flags:
        yield 'bf16'


def memory(text: str) -> Finding:
    """Read /proc/meminfo."""
    kib = {name: int(value) for name, value in re.findall(r'^(\w+):\s+(\d+) kB', text, re.MULTILINE)}
    total, available = kib.get('MemTotal', 0) << 10, kib.get('MemAvailable', 0) << 10
    found = f'{amount(total)}, {amount(available)} of it available'
    if available >= LEAST_MEMORY:
        return ok('memory', found)
    return problem('memory', found, 'end what needs it most', 'ps -eo rss,pid,comm --sort=-rss | head', needed=False)


def amount(size: float) -> str:
    """Write a number of bytes with three digits."""
    for unit in ('B', 'KiB', 'MiB', 'GiB'):
        if size < 1000:
            return f'{size:.3g} {unit}'
        size /= 1024
    return f'{size:.3g} TiB'


def governors(found: Sequence[str], driver: str) -> Finding:
    """Judge what decides how fast the cores run."""
    names = sorted(set(found))
    if not names:
        return absent('cpu clock', 'not ours to set: the kernel shows no governor')
    said = f'governor {", ".join(names)}{f" ({driver})" if driver else ""}'
    if names == ['performance']:
        return ok('cpu clock', said)
    return problem(
        'cpu clock',
        f'{said}: the cores slow down when little happens, and what happens then takes longer',
        'until the next start',
        'echo performance | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor',
        needed=False,
    )


def power_mode(query: str, configuration: str) -> Finding:
    """Judge what ``nvpmodel -q`` says by the modes of /etc/nvpmodel.conf."""
    found = re.search(r'NV Power Mode:\s*(\S+)\s+(\d+)\s*$', query)
    if not found:
        return problem('power mode', 'nvpmodel does not tell', 'ask it as root', 'sudo nvpmodel -q', needed=False)
    name, number = found[1], int(found[2])
    modes = power_modes(configuration)
    best = fastest(modes)
    if best in (None, number):
        return ok('power mode', f'{name} (mode {number})')
    return problem(
        'power mode',
        f'{name} (mode {number}) of {", ".join(modes.values())}',
        f'{modes[best]} is the fastest; it needs its supply and its cooling',
        f'sudo nvpmodel -m {best}',
        needed=False,
    )


def power_modes(configuration: str) -> dict[int, str]:
    """Read the modes of nvpmodel.conf, names by number."""
    pattern = r'^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>'
    return {int(number): name for number, name in re.findall(pattern, configuration, re.MULTILINE)}


def fastest(modes: dict[int, str]) -> int | None:
    """Pick the mode without a limit, else the one of most watts; None where the names do not tell."""
    rank: dict[int, tuple[int, ...]] = {}
    for number, name in modes.items():
        watts = re.search(r'(\d+)W', name)
        unlimited = name.upper().startswith('MAXN')
        if unlimited or watts:
            rank[number] = (unlimited, len(name) if unlimited else 0, int(watts[1]) if watts else 0, -number)
    return max(rank, key=rank.__getitem__, default=None)


@dataclass(frozen=True, slots=True)
class Clock:
    """Least and greatest frequency that a GPU is allowed, Hz."""

    name: str
    least: int
    greatest: int


def gpu_clocks(folder: Path) -> list[Clock]:
    """Read what the GPU of a Jetson is allowed."""
    clocks = []
    for device in sorted(folder.glob('*')):
        least, greatest = text_of(device / 'min_freq'), text_of(device / 'max_freq')
        if any(word in device.name for word in GPU_CLOCKS) and least.isdecimal() and greatest.isdecimal():
            clocks.append(Clock(device.name, int(least), int(greatest)))
    return clocks


def jetson_clocks(clocks: Sequence[Clock]) -> Finding:
    """Judge whether the GPU has to speed up first when a frame comes."""
    if not clocks:
        return absent('gpu clock', 'the kernel does not show it')
    said = ', '.join(f'{c.name} {c.least / 1e6:.0f}..{c.greatest / 1e6:.0f} MHz' for c in clocks)
    if all(c.least == c.greatest for c in clocks):
        return ok('gpu clock', said)
    return problem(
        'gpu clock',
        f'{said}: it has to speed up first when a frame comes',
        'until the next start',
        'sudo jetson_clocks',
        needed=False,
    )


class Timex(ctypes.Structure):
    """The first members of ``struct timex``; what follows is only room."""

    _fields_ = (
        ('modes', ctypes.c_uint),
        ('offset', ctypes.c_long),
        ('freq', ctypes.c_long),
        ('maxerror', ctypes.c_long),
        ('esterror', ctypes.c_long),
        ('status', ctypes.c_int),
        ('rest', ctypes.c_char * 256),
    )


def kernel_clock() -> tuple[int, float]:
    """Ask the kernel about its clock; it changes nothing and needs no rights.

    Returns:
        What adjtimex returns (5: not synchronised), and the greatest error of the clock, s.

    """
    state = Timex()  # modes 0 only asks
    code = ctypes.CDLL(None).adjtimex(ctypes.byref(state))
    return code, state.maxerror / 1e6


def clock(code: int, error: float, chrony: programs.Answer | None) -> Finding:
    """Judge the clock: stamps of other machines, events and certificates are measured by it."""
    detail = tracking(chrony.output) if chrony else ''
    details = (detail,) if detail else ()
    if code not in (-1, 5) and error <= LARGEST_CLOCK_ERROR:
        return ok('clock', f'synchronised, at most {error * 1e3:.0f} ms off', *details)
    found = f'synchronised, but may be {error:.1f} s off' if code not in (-1, 5) else 'not synchronised'
    found += ': images of other machines look older or newer than they are, events get wrong times'
    if programs.find('chronyc'):
        return problem('clock', found, 'see what chrony hears', 'chronyc sources', needed=False, details=details)
    if Path('/run/systemd/system').is_dir() and programs.find('timedatectl'):
        return problem(
            'clock', found, 'let the system follow a time server', 'sudo timedatectl set-ntp true', needed=False
        )
    if in_container():
        return problem('clock', found, "the clock is the host's: synchronise it there", needed=False)
    return problem('clock', found, 'let it follow a time server', 'sudo apt install chrony', needed=False)


def tracking(text: str) -> str:
    """Say what ``chronyc tracking`` says: how far off, and by whom that is known."""
    values = dict(re.findall(r'^([^:\n]+?)\s*: (.*)$', text, re.MULTILINE))
    offset, reference = re.match(r'([\d.]+) seconds', values.get('System time', '')), values.get('Reference ID', '')
    if not offset or not reference:
        return ''
    return f'chrony: {float(offset[1]) * 1e3:.3g} ms off {reference}, stratum {values.get("Stratum", "?")}'
