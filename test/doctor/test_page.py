import pytest

from edge_vision.doctor.findings import Finding, Group, absent, ok, problem
from edge_vision.doctor.page import INDENT, as_dict, page

COMMAND = 'sudo sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304 ' + 'x' * 80


def groups(*findings):
    return [Group('Things', findings)]


def laid_out(*findings, **kwargs):
    return page('title', groups(*findings), **kwargs)


def test_a_problem_is_followed_by_what_mends_it():
    lines = laid_out(problem('broker', 'is away', 'start it', 'mosquitto -d', needed=True)).splitlines()
    at = next(i for i, line in enumerate(lines) if 'broker' in line)
    assert lines[at].split() == ['FAIL', 'broker', 'is', 'away']
    assert lines[at + 1].strip() == '-> start it'
    assert lines[at + 2].strip() == '$ mosquitto -d'


@pytest.mark.parametrize('width', [80, 100, 300])
def test_words_stay_within_the_columns_and_commands_whole(width):
    text = 'a sentence of many words ' * 12
    lines = laid_out(problem('x', text, text, COMMAND, needed=False, details=[text]), width=width).splitlines()
    assert any(line.strip() == f'$ {COMMAND}' for line in lines)
    assert all(len(line) <= min(width, 100) for line in lines if COMMAND not in line)
    assert max(len(line) for line in lines if COMMAND not in line) > min(width, 100) - 12  # the width is used


def test_what_was_found_stands_in_one_column():
    page_lines = laid_out(ok('a', 'here it is', 'a detail'), absent('a longer name', 'here it is')).splitlines()
    found = [line for line in page_lines if 'here it is' in line or 'a detail' in line]
    assert [line.index('here it is' if 'here' in line else 'a detail') for line in found] == [INDENT] * 3


def test_colours_change_nothing_but_colour():
    findings = [ok('a', 'text'), problem('b', 'text ' * 40, 'way ' * 40, 'command', needed=True)]
    coloured = laid_out(*findings, color=True)
    assert '\033[' in coloured
    for code in ('0', '1', '2', '32', '33', '1;31'):
        coloured = coloured.replace(f'\033[{code}m', '')
    assert coloured == laid_out(*findings)


@pytest.mark.parametrize(
    ('findings', 'verdict'),
    [
        ([ok('a', ''), absent('b', '')], 'Ready.'),
        ([problem('clock', '', needed=False)], 'Ready, with 1 warning: clock.'),
        ([problem('x', '', needed=False), problem('y', '', needed=True)], 'Not ready: y; 1 warning more.'),
        ([problem('y', '', needed=True), problem('y', '', needed=True)], 'Not ready: y.'),
    ],
)
def test_the_last_line_says_what_it_comes_to(findings, verdict):
    assert laid_out(*findings).splitlines()[-1] == verdict


def test_json_holds_all_that_the_page_shows():
    content = as_dict(groups(Finding('a', 'fail', 'found', 'way out', 'command', ('detail',)), ok('b', 'c')))
    assert content['ready'] is False
    assert content['counts'] == {'ok': 1, 'warn': 0, 'fail': 1, 'absent': 0}
    assert content['findings'][0] == {
        'group': 'Things',
        'name': 'a',
        'status': 'fail',
        'found': 'found',
        'way_out': 'way out',
        'command': 'command',
        'details': ['detail'],
    }
