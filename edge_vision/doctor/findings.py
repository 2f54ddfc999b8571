"""What was found of one thing, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OK = 'ok'
WARN = 'warn'  # works, but not as well or not as safely as it could
FAIL = 'fail'  # something that the configured pipeline needs does not work
ABSENT = 'absent'  # not there, and not needed either
STATUSES = (OK, WARN, FAIL, ABSENT)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the page.

    Attributes:
        name: What was looked at.
        status: One of `STATUSES`.
        found: What is there, or what is wrong with it.
        way_out: What to do about it, in words; '' where there is nothing to do.
        command: The command that does it, to be copied as it is; '' where words are all there is.
        details: More of what is there, one line each.

    """

    name: str
    status: str
    found: str
    way_out: str = ''
    command: str = ''
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Findings about one part of the machine."""

    title: str
    findings: tuple[Finding, ...]


def ok(name: str, found: str, *details: str) -> Finding:
    """Make a finding that all is well."""
    return Finding(name, OK, found, details=details)


def absent(name: str, found: str, way_out: str = '', command: str = '') -> Finding:
    """Make a finding that something is not there, and need not be."""
    return Finding(name, ABSENT, found, way_out, command)


def problem(
    name: str, found: str, way_out: str = '', command: str = '', *, needed: bool, details: Iterable[str] = ()
) -> Finding:
    """Make a finding that something is wrong: a failure where the pipeline needs it, else a warning."""
    return Finding(name, FAIL if needed else WARN, found, way_out, command, tuple(details))
