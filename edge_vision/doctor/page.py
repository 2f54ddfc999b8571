"""Lays findings out: as a page to read, or as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from .findings import ABSENT, FAIL, OK, STATUSES, WARN, Finding, Group

NARROWEST, WIDEST = 60, 100  # columns
STATUS_WIDTH, NAME_WIDTH = 6, 16
INDENT = 2 + STATUS_WIDTH + 2 + NAME_WIDTH
COLORS = {OK: '32', WARN: '33', FAIL: '1;31', ABSENT: '2'}
BOLD, DIM = '1', '2'


def page(title: str, groups: Sequence[Group], *, width: int = 80, color: bool = False) -> str:
    """Lay out a page of text.

    Args:
        title: First line.
        groups: What was found.
        width: Columns of the terminal; commands are never broken, whatever their length.
        color: Whether to colour it.

    """
    width = min(max(width, NARROWEST), WIDEST)
    lines = [painted(title, BOLD, color=color)]
    for group in groups:
        lines += ['', painted(group.title, BOLD, color=color)]
        for finding in group.findings:
            lines += finding_lines(finding, width, color=color)
    return '\n'.join([*lines, '', *wrapped(verdict(groups), width, 0)]) + '\n'


def finding_lines(finding: Finding, width: int, *, color: bool) -> Iterator[str]:
    """Lay out one finding: its line, more of what was found, and how to mend it."""
    status = painted(
        finding.status.upper() if finding.status == FAIL else finding.status, COLORS[finding.status], color=color
    )
    padding = ' ' * (STATUS_WIDTH - len(finding.status))
    first, *rest = wrapped(finding.found, width, INDENT)
    yield f'  {status}{padding}  {finding.name:<{NAME_WIDTH}}{first[INDENT:]}'
    yield from rest
    for detail in finding.details:
        yield from (painted(line, DIM, color=color) for line in wrapped(detail, width, INDENT))
    if finding.way_out:
        yield from wrapped(f'-> {finding.way_out}', width, INDENT, hanging=3)
    if finding.command:
        yield f'{" " * INDENT}$ {painted(finding.command, BOLD, color=color)}'


def wrapped(text: str, width: int, indent: int, *, hanging: int = 0) -> list[str]:
    """Break a text into lines of a width, words longer than a line left whole."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=' ' * indent,
        subsequent_indent=' ' * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [' ' * indent]


def painted(text: str, code: str, *, color: bool) -> str:
    """Colour a text, its indentation left out."""
    words = text.lstrip()
    return f'{text[: len(text) - len(words)]}\033[{code}m{words}\033[0m' if color else text


def verdict(groups: Sequence[Group]) -> str:
    """Say in one sentence what it comes to."""
    failed, warned = named(groups, FAIL), named(groups, WARN)
    if failed:
        ending = f'; {counted(warned, "warning")} more' if warned else ''
        return f'Not ready: {", ".join(failed)}{ending}.'
    if warned:
        return f'Ready, with {counted(warned, "warning")}: {", ".join(warned)}.'
    return 'Ready.'


def named(groups: Sequence[Group], status: str) -> list[str]:
    """Name what has a status, each name once."""
    return list(dict.fromkeys(f.name for group in groups for f in group.findings if f.status == status))


def counted(names: Sequence[str], noun: str) -> str:
    """Count, as in '1 warning' and '2 warnings'."""
    return f'{len(names)} {noun}{"" if len(names) == 1 else "s"}'


def as_dict(groups: Sequence[Group]) -> dict[str, Any]:
    """Turn findings into plain values."""
    rows = [
        {
            'group': group.title,
            'name': finding.name,
            'status': finding.status,
            'found': finding.found,
            'way_out': finding.way_out,
            'command': finding.command,
            'details': list(finding.details),
        }
        for group in groups
        for finding in group.findings
    ]
    return {
        'ready': not named(groups, FAIL),
        'verdict': verdict(groups),
        'counts': {status: sum(row['status'] == status for row in rows) for status in STATUSES},
        'findings': rows,
    }
