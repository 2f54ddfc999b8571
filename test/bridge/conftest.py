import pytest

LINES = pytest.StashKey[list]()


@pytest.fixture
def figures(request):
    """Have lines printed when all tests are over."""
    return request.config.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(LINES, [])
    if lines:
        terminalreporter.section('the bridge')
    for line in lines:
        terminalreporter.write_line(line)
