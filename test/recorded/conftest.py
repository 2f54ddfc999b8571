import pytest
from figures import HEAD

ROWS = pytest.StashKey[list]()


@pytest.fixture
def show(request):
    """Have the figures of a run printed when all tests are over."""
    rows = request.config.stash.setdefault(ROWS, [])
    return lambda name, figures: rows.append((name, figures))


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section('recorded run, against the truth of the line')
    width = max(len(name) for name, _ in rows)
    for line in HEAD:
        terminalreporter.write_line(f'{"":{width}} {line}')
    for name, figures in rows:
        terminalreporter.write_line(f'{name:{width}} {figures.row()}')
