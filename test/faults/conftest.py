from pathlib import Path

import pytest
import wall_clock
from fault_table import Row, page
from faulty_line import Line
from machine import LOCK_TIMEOUT, Machine, Spinning
from mqtt_broker import Mosquitto, free_port

rows = []


def pytest_addoption(parser):
    parser.addoption('--faults-table', type=Path, help='write what the faults did to this Markdown file')


def pytest_sessionfinish(session, exitstatus):
    path = session.config.getoption('faults_table', None)
    if path and rows and exitstatus == 0:
        path.write_text(page(rows, LOCK_TIMEOUT))


@pytest.fixture
def note(line):
    """Keep a row for the table."""

    def keep(*, fault, held_by, held_after=None, bound=None, moves=0, released_by):
        row = Row(fault, line.mode, held_by, held_after, bound, moves, released_by)
        rows.append(row)
        print(row.line())  # noqa: T201  seen with -s, and when the test fails

    return keep


@pytest.fixture(scope='module')
def broker(tmp_path_factory):
    """Give a broker to be killed; None where none is installed."""
    try:
        made = Mosquitto(tmp_path_factory.mktemp('broker'))
    except pytest.skip.Exception:
        yield None
        return
    with made:
        yield made


@pytest.fixture(scope='module')
def clock_library(tmp_path_factory):
    return wall_clock.build(tmp_path_factory.mktemp('clock'))


@pytest.fixture(scope='module', params=['composed', 'separate'])
def started(request, by_udp, broker, clock_library, tmp_path_factory):  # noqa: ARG001  it is the environment that counts
    """Give a line in either mode and its machine, shared by the tests, which `line` heals."""
    port = broker.port if broker else free_port()
    spinning = Spinning(Machine)
    made = Line(request.param, tmp_path_factory.mktemp(request.param), spinning.node, port, clock_library)
    try:
        yield made
    finally:
        made.close()
        spinning.close()


@pytest.fixture
def line(started):
    """Give a line whose machine moves."""
    started.put_in_order()
    return started


@pytest.fixture
def machine(line):
    return line.machine
