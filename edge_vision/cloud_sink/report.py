"""What a day brought, per device and rule."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any

from ..demo.report import human_bytes, percentile

DAY_NS = 86_400 * 10**9
PAIRED_WITHIN_NS = 7 * DAY_NS  # beyond that the beginning or the end of a stop is not looked for


def daily(connection: sqlite3.Connection, day: date, now_ns: int) -> dict[str, Any]:
    """Sum up a day, UTC: events by their capture, messages by their arrival.

    Args:
        connection: Database of a store.
        day: The day.
        now_ns: How far the day has come, ns since the epoch.

    """
    begin_ns = _begin_of(day)
    end_ns = min(begin_ns + DAY_NS, max(now_ns, begin_ns))
    events = _rows(connection, _EVENTS, (begin_ns, begin_ns + DAY_NS))
    stops = _stops(connection, begin_ns)
    traffic = {row['device']: row for row in _rows(connection, _TRAFFIC, (day.isoformat(),))}
    states = {row['device']: row for row in _rows(connection, _DEVICES)}
    rules = _grouped(events, 'device')
    return {
        'day': day.isoformat(),
        'devices': [
            {
                'device': device,
                **_availability(states.get(device)),
                'messages': traffic.get(device, {}).get('messages', 0),
                'bytes': traffic.get(device, {}).get('bytes', 0),
                'rejected': traffic.get(device, {}).get('rejected', 0),
                'given_up': _given_up(states.get(device, {}).get('stats')),
                'pictures_without_event': states.get(device, {}).get('waiting', 0),
                'offline': _offline(connection, device, begin_ns, end_ns),
                'rules': [
                    _rule(rule, rows, stops.get((device, rule), ()))
                    for rule, rows in sorted(_grouped(rules.get(device, ()), 'rule').items())
                ],
            }
            for device in sorted({*states, *traffic, *rules})
        ],
    }


def table(report: Mapping[str, Any]) -> str:
    """Lay a report out for a person."""
    lines = [f'{report["day"]} (UTC)']
    if not report['devices']:
        lines.append('  no device has said anything')
    for device in report['devices']:
        lines += ['', *_device_lines(device)]
    return '\n'.join(lines)


_EVENTS = """
    SELECT device, rule, action, phase, stamp_ns, arrived_ns, command_ms, copies, bytes, sha256 != '' AS promised,
        (SELECT count(*) FROM pictures p WHERE p.device = e.device AND p.id = e.id AND p.sha256 = e.sha256) AS received,
        (SELECT count(*) FROM pictures p WHERE p.device = e.device AND p.id = e.id AND p.sha256 != e.sha256) AS wrong,
        (SELECT coalesce(sum(bytes), 0) FROM pictures p WHERE p.device = e.device AND p.id = e.id) AS picture_bytes
    FROM events e WHERE stamp_ns >= ? AND stamp_ns < ?
"""
_STOPS = """
    SELECT device, camera, rule, track_id, phase, stamp_ns FROM events
    WHERE action = 'stop' AND stamp_ns >= ? AND stamp_ns < ? ORDER BY stamp_ns, id
"""
_TRAFFIC = 'SELECT * FROM traffic WHERE day = ?'
_DEVICES = """
    SELECT device, online, since_ns, stats, (
        SELECT count(*) FROM pictures p
        WHERE p.device = d.device AND NOT EXISTS (SELECT 1 FROM events e WHERE e.device = p.device AND e.id = p.id)
    ) AS waiting FROM (SELECT device FROM devices UNION SELECT DISTINCT device FROM pictures) d
    LEFT JOIN devices USING (device)
"""


def _rows(connection: sqlite3.Connection, query: str, values: Sequence[object] = ()) -> list[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _grouped(rows: Iterable[Mapping[str, Any]], name: str) -> dict[str, list[Mapping[str, Any]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return dict(groups)


def _begin_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) * 10**9


def _stops(connection: sqlite3.Connection, begin_ns: int) -> dict[tuple[str, str], list[float | str]]:
    """List what became of the day's stops by device and rule: seconds, 'no end' or 'no beginning'.

    An end belongs to the latest beginning before it of the same camera, rule and track that has none yet: an end that
    was lost spoils one stop, not all that follow.
    """
    span = begin_ns - PAIRED_WITHIN_NS, begin_ns + DAY_NS + PAIRED_WITHIN_NS
    running: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found = defaultdict(list)

    def tell(key: tuple[str, ...], stamp_ns: int, fate: float | str) -> None:
        if begin_ns <= stamp_ns < begin_ns + DAY_NS:
            found[key[0], key[2]].append(fate)

    for *names, phase, stamp_ns in connection.execute(_STOPS, span):
        key = tuple(names)
        if phase == 'new':
            running[key].append(stamp_ns)
        elif running[key]:
            began = running[key].pop()
            tell(key, began, (stamp_ns - began) / 1e9)
        else:
            tell(key, stamp_ns, 'no beginning')
    for key, stamps in running.items():
        for stamp_ns in stamps:
            tell(key, stamp_ns, 'no end')
    return found


def _rule(rule: str, events: Sequence[Mapping[str, Any]], stops: Sequence[float | str]) -> dict[str, Any]:
    lasted = [fate for fate in stops if isinstance(fate, float)]
    received = sum(row['received'] for row in events)
    promised = sum(row['promised'] for row in events)
    return {
        'rule': rule,
        'events': len(events),
        'stops': sum(row['action'] == 'stop' and row['phase'] == 'new' for row in events),
        'stopped_s': {'p50': percentile(lasted, 50), 'max': percentile(lasted, 100), 'sum': round(sum(lasted), 3)},
        'gaps': {'no_end': stops.count('no end'), 'no_beginning': stops.count('no beginning')},
        'evidence': {
            'received': received,
            'missing': promised - received,
            'mismatched': sum(row['wrong'] for row in events),
        },
        'capture_to_command_ms': _percentiles(row['command_ms'] for row in events if row['phase'] == 'new'),
        'capture_to_arrival_ms': _percentiles((row['arrived_ns'] - row['stamp_ns']) / 1e6 for row in events),
        'bytes': sum(row['bytes'] + row['picture_bytes'] for row in events),
        'duplicates': sum(row['copies'] - 1 for row in events),
    }


def _percentiles(values: Iterable[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {'p50': percentile(known, 50), 'p99': percentile(known, 99)}


def _availability(row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None or row['online'] is None:
        return {'online': None, 'since': None}
    since = datetime.fromtimestamp(row['since_ns'] // 10**9, timezone.utc)
    return {'online': bool(row['online']), 'since': since.isoformat().replace('+00:00', 'Z')}


def _given_up(stats: str | None) -> int | None:
    """Read from a device's newest statistics how many events it gave up since it started; None where unknown."""
    try:
        count = json.loads(stats or '{}')['events_dropped']
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return count if isinstance(count, int) else None


def _offline(connection: sqlite3.Connection, device: str, begin_ns: int, end_ns: int) -> dict[str, Any]:
    """Sum up when a device was away, as far as the broker said so to whoever listened."""
    before = connection.execute(
        'SELECT online FROM availability WHERE device = ? AND at_ns < ? ORDER BY at_ns DESC, rowid DESC LIMIT 1',
        (device, begin_ns),
    ).fetchone()
    changes = connection.execute(
        'SELECT at_ns, online FROM availability WHERE device = ? AND at_ns >= ? AND at_ns < ? ORDER BY at_ns, rowid',
        (device, begin_ns, end_ns),
    ).fetchall()
    left = begin_ns if before == (0,) else None
    times = []
    for at_ns, online in [*changes, (end_ns, 1)]:
        if online and left is not None:
            times.append((at_ns - left) / 1e9)
        left = None if online else at_ns
    return {'times': len(times), 'sum_s': round(sum(times), 3)}


def _device_lines(device: Mapping[str, Any]) -> Iterator[str]:
    state = {None: 'never said whether it is online', True: 'online', False: 'offline'}[device['online']]
    since = f' since {device["since"]}' if device['since'] else ''
    yield f'{_printable(device["device"])}: {state}{since}'
    yield (
        f'  {device["messages"]} messages, {human_bytes(device["bytes"])}; {device["rejected"]} set aside; '
        f'{device["pictures_without_event"]} pictures without their event; '
        f'offline {device["offline"]["times"]} times, {device["offline"]["sum_s"]:.0f} s'
        + (f'; {device["given_up"]} events given up on the device since it started' if device['given_up'] else '')
    )
    rows = [_cells(rule) for rule in device['rules']]
    if not rows:
        return
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(rows[0]))]
    for line in lines:
        yield '  ' + '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _cells(rule: Mapping[str, Any]) -> dict[str, str]:
    evidence, gaps, stopped = rule['evidence'], rule['gaps'], rule['stopped_s']
    return {
        'rule': _printable(rule['rule']),
        'events': str(rule['events']),
        'stops': str(rule['stops']),
        'stopped s (p50 max sum)': f'{_number(stopped["p50"])} {_number(stopped["max"])} {_number(stopped["sum"])}',
        'no end/beginning': f'{gaps["no_end"]}/{gaps["no_beginning"]}',
        'pictures': str(evidence['received']),
        'missing': str(evidence['missing']),
        'wrong': str(evidence['mismatched']),
        'to command ms (p50 p99)': _pair(rule['capture_to_command_ms']),
        'to arrival ms (p50 p99)': _pair(rule['capture_to_arrival_ms']),
        'bytes': human_bytes(rule['bytes']),
        'duplicates': str(rule['duplicates']),
    }


def _pair(figures: Mapping[str, float | None]) -> str:
    return f'{_number(figures["p50"])} {_number(figures["p99"])}'


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f}'


def _printable(text: str) -> str:
    """Show a name as it is, unless it would do something to the terminal."""
    return text if text.isprintable() and len(text) <= 60 else f'{text!r:.60}'
