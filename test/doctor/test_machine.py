import time

import pytest

from edge_vision.doctor import machine
from edge_vision.doctor.programs import Answer

EPYC = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9454 48-Core Processor
flags\t\t: fpu sse2 ssse3 avx avx2 hypervisor avx512f avx512_bf16 avx512_vnni
power management:

processor\t: 1
model name\t: AMD EPYC 9454 48-Core Processor
flags\t\t: fpu sse2 ssse3 avx avx2 hypervisor avx512f avx512_bf16 avx512_vnni
"""
ORIN = """processor\t: 0
model name\t: ARMv8 Processor rev 1 (v8l)
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1
"""
OLD = 'model name\t: Common KVM processor\nflags\t\t: fpu sse2 hypervisor\n'

NVPMODEL_CONF = """# comment
< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
CHRONY = """Reference ID    : C0248F82 (time.example)
Stratum         : 3
Ref time (UTC)  : Mon Nov 23 21:00:00 2026
System time     : 0.000123456 seconds slow of NTP time
Leap status     : Normal
"""


@pytest.mark.parametrize(
    ('text', 'status', 'words'),
    [
        (EPYC, 'ok', ('AMD EPYC 9454', '4 cores', 'AVX-512', 'VNNI', 'bf16')),
        (ORIN, 'ok', ('Cortex-A78AE', 'NEON', 'dot product')),
        (OLD, 'warn', ('without AVX2',)),
    ],
    ids=['avx512', 'jetson', 'old'],
)
def test_the_processor_is_told_by_what_inference_uses(text, status, words):
    finding = machine.processor(machine.cpu_of(text), 4, 0.5)
    assert finding.status == status
    assert [word for word in words if word not in finding.found] == []


def test_a_virtual_machine_without_avx2_is_told_the_way_out():
    assert '-cpu host' in machine.processor(machine.cpu_of(OLD), 4, 0.5).way_out


def test_other_work_is_a_warning():
    assert machine.processor(machine.cpu_of(EPYC), 2, 3.5).status == 'warn'


def test_this_machine_has_a_processor_and_memory():
    cpu = machine.cpu_of(machine.text_of('/proc/cpuinfo'))
    assert cpu.name
    assert cpu.flags
    finding = machine.memory(machine.text_of('/proc/meminfo'))
    assert 'iB' in finding.found
    assert not finding.found.startswith('0 B')


def test_little_memory_is_a_warning():
    text = 'MemTotal:        3964032 kB\nMemFree:          100000 kB\nMemAvailable:     400000 kB\n'
    finding = machine.memory(text)
    assert (finding.status, finding.found) == ('warn', '3.78 GiB, 391 MiB of it available')


@pytest.mark.parametrize(
    ('size', 'text'), [(0, '0 B'), (64 << 20, '64 MiB'), (1 << 30, '1 GiB'), (2.5e12, '2.27 TiB'), (1023, '0.999 KiB')]
)
def test_amounts_have_three_digits(size, text):
    assert machine.amount(size) == text


@pytest.mark.parametrize(
    ('found', 'status'),
    [([], 'absent'), (['performance'] * 6, 'ok'), (['performance', 'schedutil'], 'warn'), (['powersave'], 'warn')],
)
def test_only_the_governor_performance_is_fine(found, status):
    assert machine.governors(found, 'intel_pstate').status == status


@pytest.mark.parametrize(
    ('query', 'status', 'command'),
    [
        ('NV Power Mode: MAXN_SUPER\n2\n', 'ok', ''),
        ('NVPM WARN: fan mode is not set!\nNV Power Mode: 15W\n0\n', 'warn', 'sudo nvpmodel -m 2'),
        ('', 'warn', 'sudo nvpmodel -q'),
    ],
    ids=['fastest', 'limited', 'silent'],
)
def test_power_mode_is_judged_by_the_modes_of_the_board(query, status, command):
    finding = machine.power_mode(query, NVPMODEL_CONF)
    assert (finding.status, finding.command) == (status, command)


@pytest.mark.parametrize(
    ('modes', 'best'),
    [
        ({0: 'MAXN', 1: 'MODE_10W', 2: 'MODE_15W'}, 0),
        ({0: '15W', 1: '7W'}, 0),
        ({0: 'MAXN', 1: '40W', 2: 'MAXN_SUPER'}, 2),
        ({0: 'MODE_20W_2CORE', 1: 'MODE_20W_6CORE', 2: 'MODE_10W'}, 0),
        ({0: 'quiet'}, None),
        ({}, None),
    ],
)
def test_the_fastest_mode_is_the_unlimited_or_the_one_of_most_watts(modes, best):
    assert machine.fastest(modes) == best


def test_a_gpu_whose_clock_may_fall_is_told_how_to_keep_it_up(tmp_path):
    gpu = tmp_path / '17000000.gpu'
    gpu.mkdir()
    (tmp_path / '15340000.vic').mkdir()
    (gpu / 'min_freq').write_text('306000000\n')
    (gpu / 'max_freq').write_text('1020000000\n')
    finding = machine.jetson_clocks(machine.gpu_clocks(tmp_path))
    assert (finding.status, finding.command) == ('warn', 'sudo jetson_clocks')
    (gpu / 'min_freq').write_text('1020000000\n')
    assert machine.jetson_clocks(machine.gpu_clocks(tmp_path)).status == 'ok'


def test_jetson_linux_is_told_with_its_jetpack():
    text = '# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025'
    assert machine.l4t(text) == 'Jetson Linux 36.4.3 (JetPack 6)'
    assert machine.l4t('something else') == ''


@pytest.mark.parametrize(
    ('code', 'error', 'status'), [(0, 0.02, 'ok'), (0, 3.0, 'warn'), (5, 16.0, 'warn'), (-1, 0.0, 'warn')]
)
def test_a_clock_that_nobody_sets_is_a_warning(code, error, status):
    assert machine.clock(code, error, None).status == status


def test_chrony_tells_how_far_off_the_clock_is():
    finding = machine.clock(0, 0.02, Answer(CHRONY))
    assert finding.details == ('chrony: 0.123 ms off C0248F82 (time.example), stratum 3',)


def test_the_kernel_is_asked_for_its_clock_and_not_told():
    before = time.time()
    code, error = machine.kernel_clock()
    assert 0 <= code <= 5
    assert error >= 0.0
    assert abs(time.time() - before) < 60.0
