import os
import stat
import time
from pathlib import Path

import pytest
from mqtt_broker import wait_until

from edge_vision.doctor import programs


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script in front of PATH."""

    def make(name, script):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
        return name

    return make


def test_a_program_that_is_not_installed_is_told_apart():
    assert programs.ask('edge_vision_no_such_program') is None


@pytest.mark.parametrize(
    ('script', 'output', 'trouble'),
    [
        ('echo said', 'said\n', ''),
        ('echo a; echo b >&2; echo why >&2; exit 3', 'a\n', 'why'),
        ('exit 3', '', 'ends with exit code 3'),
        ('kill -SEGV $$', '', 'crashes with SIGSEGV'),
    ],
)
def test_what_a_program_says_and_how_it_ends_is_told(program, script, output, trouble):
    assert programs.ask(program('asked', script)) == programs.Answer(output, trouble)


def test_a_program_that_hangs_is_ended_with_what_it_started(program, tmp_path):
    name = program('asked', f'sleep 60 & echo $! > {tmp_path}/pid; wait')
    started = time.monotonic()
    answer = programs.ask(name, timeout=3.0)
    assert answer.trouble == 'hangs: no answer within 3 s'
    assert time.monotonic() - started < 30.0
    grandchild = Path('/proc', (tmp_path / 'pid').read_text().strip(), 'stat')
    assert wait_until(lambda: is_over(grandchild))


def is_over(process):
    """Whether a process is gone, or waits only for somebody to take note of its end."""
    try:
        return process.read_text().rpartition(')')[2].split()[0] in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_library_is_looked_at_by_a_python_of_its_own():
    found = programs.child('opencv')
    assert found['version']
    assert 'GStreamer' in found['build']


def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch):
    (tmp_path / 'onnxruntime.py').write_text('raise ModuleNotFoundError("No module named x", name="x")')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert programs.child('onnxruntime') == {'trouble': 'No module named x', 'missing_module': 'x'}


def test_a_library_that_crashes_is_told(tmp_path, monkeypatch):
    (tmp_path / 'onnxruntime.py').write_text('import os; os.kill(os.getpid(), 11)')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert programs.child('onnxruntime') == {'trouble': 'crashes with SIGSEGV'}


def test_a_library_that_hangs_is_told(tmp_path, monkeypatch):
    (tmp_path / 'onnxruntime.py').write_text('import time; time.sleep(60)')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert programs.child('onnxruntime', timeout=2.0) == {'trouble': 'hangs: no answer within 2 s'}


def test_a_library_that_prints_does_not_disturb(tmp_path, monkeypatch):
    (tmp_path / 'onnxruntime.py').write_text(
        'import atexit\nprint("hello", end="")\n__version__ = "9"\nget_available_providers = lambda: ["A"]\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert programs.child('onnxruntime') == {'version': '9', 'providers': ['A']}
