import pytest
from figures import HEAD

rows = []


@pytest.fixture
def show():
    """Have the figures of a run printed when all tests are over."""
    return lambda name, figures: rows.append((name, figures))


def pytest_terminal_summary(terminalreporter):
    if not rows:
        return
    terminalreporter.section('recorded run, against the truth of the line')
    width = max(len(name) for name, _ in rows)
    for line in HEAD:
        terminalreporter.write_line(f'{"":{width}} {line}')
    for name, figures in rows:
        terminalreporter.write_line(f'{name:{width}} {figures.row()}')
