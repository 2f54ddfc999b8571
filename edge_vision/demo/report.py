"""Figures of a run, from what the observer and the cloud saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..causes import NO_FRESH_IMAGE

SECONDS_PER_YEAR = 365 * 24 * 3600
COMMAND_WINDOW_NS = 250_000_000  # from a decision to the line receiving its command, at most
WARM_UP_NS = 1_000_000_000
TRUTH = ('parts_total', 'defects_total', 'defects_stopped', 'defects_missed', 'false_stops')


class Run(NamedTuple):
    """What was seen of one run.

    Attributes:
        seen: What the observer wrote down.
        events: CloudEvents by id, as they reached the cloud.
        pictures: JPEG evidence by event id.
        duplicated: Events that reached the cloud again.
        bytes_sent: Bytes that reached the cloud.

    """

    seen: Mapping[str, Any]
    events: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    duplicated: int
    bytes_sent: int


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], 3)


def stop_events(run: Run) -> list[Any]:
    """List the events with which something that was seen stopped the machine, by the time of their frames."""

    def stops(data: Mapping[str, Any]) -> bool:
        return bool(data['phase'] == 'new' and data['action'] == 'stop' and data['class_id'])

    began = [event for event in all_events(run).values() if stops(event['data'])]
    return sorted(began, key=lambda event: (int(event['data']['stamp_ns']), str(event['id'])))


def stop_reactions(run: Run) -> dict[str, float]:
    """Time every stop that an event began: from its frame's stamp to ``stop`` seen as True outside, ms by event id.

    An event that began while a stop held already has no command of its own.
    """
    commands = [received_ns for received_ns, stopped in run.seen['stops'] if stopped]
    reactions, taken = {}, 0
    for event in stop_events(run):
        data = event['data']
        later = [at for at in commands if at > max(data['stamp_ns'], taken)]
        decided_by = data['stamp_ns'] + data['latency_ms'].get('capture_to_command', 0.0) * 1e6 + COMMAND_WINDOW_NS
        if later and later[0] <= decided_by:
            taken = later[0]
            reactions[event['id']] = (taken - data['stamp_ns']) / 1e6
    return reactions


def idle_stops(run: Run) -> tuple[int, int]:
    """Count the line's stops without a defect that had another reason.

    Returns:
        Those for lack of vision, which is what they are there for, and the one that a decision says as its last
        word when the run ends.

    """
    lost = [e['data']['stamp_ns'] for e in all_events(run).values() if e['subject'] == NO_FRESH_IMAGE]
    ended = max((received for _, received in run.seen['decided']), default=0)
    idle = [stop['stamp_ns'] for stop in run.seen['truth'].get('stops', ()) if stop['cause'] == 'nothing']
    blind = sum(any(abs(at - event) <= COMMAND_WINDOW_NS for event in lost) for at in idle if at < ended)
    return blind, sum(at >= ended for at in idle)


def all_events(run: Run) -> dict[str, Any]:
    """Return every event anybody saw, by id."""
    return {event['id']: event for event in run.seen['events']} | dict(run.events)


def figures(run: Run, *, mode: str, model: str) -> dict[str, Any]:
    """Make the report of a run.

    Reaction is counted per frame, from its stamp to ``flagged`` received in another process; overhead is what
    of it was not inference. The run counts from the first decided frame to the last; the times leave out its first
    second, in which processes still find each other.
    """
    decided = dict(run.seen['decided'])
    first, last = min(decided, default=0), max(decided, default=0)
    captured = {stamp: size for stamp, size in run.seen['captured'] if first <= stamp <= last}
    infer_ns = dict(run.seen['infer_ns'])
    reaction = {stamp: (at - stamp) / 1e6 for stamp, at in decided.items() if stamp >= first + WARM_UP_NS}
    infer = [infer_ns[stamp] / 1e6 for stamp in reaction if stamp in infer_ns]
    overhead = [ms - infer_ns[stamp] / 1e6 for stamp, ms in reaction.items() if stamp in infer_ns]
    duration = (last - first) / 1e9
    detector: Mapping[str, str] = next(
        (health for name, health in run.seen['health'].items() if name.endswith('detector')), {}
    )
    not_processed = len(set(captured) - set(decided))
    replaced = int(detector.get('replaced', 0))
    stops = list(stop_reactions(run).values())
    truth = dict(run.seen['truth'])
    blind, last_word = idle_stops(run)
    if truth:
        truth['false_stops'] -= blind + last_word
    return {
        'mode': mode,
        'backend': detector.get('backend', ''),
        'model': model,
        'duration_s': round(duration, 3),
        'frames_captured': len(captured),
        'frames_processed': len(decided),
        'frames_replaced': min(replaced, not_processed),
        'frames_lost': max(0, not_processed - replaced),
        'fps': round((len(decided) - 1) / duration, 2) if duration else 0.0,
        'inference_ms': {'p50': percentile(infer, 50), 'p99': percentile(infer, 99)},
        'reaction_ms': {'p50': percentile(list(reaction.values()), 50), 'p99': percentile(list(reaction.values()), 99)},
        'overhead_ms': {'p50': percentile(overhead, 50), 'p99': percentile(overhead, 99)},
        'stop_reaction_ms': {'p50': percentile(stops, 50), 'max': percentile(stops, 100)},
        **{name: truth.get(name) for name in TRUTH},
        'blind_stops': blind,
        'events_flagged': len(all_events(run)),
        'events_delivered': len(run.events),
        'events_duplicated': run.duplicated,
        'bytes_captured': sum(captured.values()),
        'bytes_sent': run.bytes_sent,
    }


def yearly_bill(jpeg_bytes: float, fps: float, price_per_gb: float) -> float:
    """Price a camera streaming JPEG pictures to a cloud all year.

    Args:
        jpeg_bytes: Mean size of a compressed picture.
        fps: Pictures per second.
        price_per_gb: Price of moving 10⁹ bytes.

    """
    return jpeg_bytes * fps * SECONDS_PER_YEAR / 1e9 * price_per_gb


def human_bytes(count: float) -> str:
    """Write a number of bytes in the largest decimal unit that leaves at least one."""
    for unit in ('B', 'kB', 'MB', 'GB'):
        if count < 1000:
            return f'{count:.0f} {unit}' if unit == 'B' else f'{count:.1f} {unit}'
        count /= 1000
    return f'{count:.1f} TB'


def table(report: Mapping[str, Any]) -> str:
    """Lay the report out for a person."""
    rows = list(_rows(report))
    width = max(len(name) for name, text in rows if text)
    return '\n'.join(f'  {name.ljust(width)}   {text}' if text else f'\n{name}' for name, text in rows)


def _ms(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f} ms'


def _rows(r: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f'Frame path: {r["model"]} on {r["backend"]}, {r["mode"]}', ''),
        ('frames', f'{r["frames_processed"]} decided in {r["duration_s"]:.1f} s = {r["fps"]:.1f} per second'),
        ('not decided', f'{r["frames_replaced"]} replaced by a newer one, {r["frames_lost"]} lost'),
        ('inference', f'{_ms(r["inference_ms"]["p50"])} (p99 {_ms(r["inference_ms"]["p99"])})'),
        ('frame to decision outside', f'{_ms(r["reaction_ms"]["p50"])} (p99 {_ms(r["reaction_ms"]["p99"])})'),
        ('of which not inference', f'{_ms(r["overhead_ms"]["p50"])} (p99 {_ms(r["overhead_ms"]["p99"])})'),
        ('frame to stop command', f'{_ms(r["stop_reaction_ms"]["p50"])} (worst {_ms(r["stop_reaction_ms"]["max"])})'),
    ]
    if r['defects_total'] is not None:
        rows += [
            ('Line', ''),
            ('parts inspected', f'{r["parts_total"]}, {r["defects_total"]} of them bad'),
            ('stopped before the gate', f'{r["defects_stopped"]} of {r["defects_total"]}'),
            ('missed', str(r['defects_missed'])),
            ('stopped for nothing', str(r['false_stops'])),
            ('stopped as it saw too late', str(r['blind_stops'])),
        ]
    rows += [
        ('Cloud', ''),
        (
            'flagged events delivered',
            f'{r["events_delivered"]} of {r["events_flagged"]}, {r["events_duplicated"]} twice',
        ),
        ('pixels kept at home', human_bytes(r['bytes_captured'])),
        ('sent', f'{human_bytes(r["bytes_sent"])} ({100 * r["bytes_sent"] / max(r["bytes_captured"], 1):.3f} %)'),
    ]
    if 'yearly_bill' in r:
        bill = r['yearly_bill']
        stream = f'as {human_bytes(bill["jpeg_bytes"])} JPEGs at {bill["price_per_gb"]} $/GB'
        rows.append(('yearly bill avoided', f'{bill["avoided"]:,.0f} $ per camera, for streaming it {stream}'))
    if 'cloud' in r:
        c = r['cloud']
        low, high = c['round_trip_ms']
        stopped = f'{c["defects_stopped"]} of {c["defects_total"]}'
        rows += [
            (f'The same line, decided in a cloud {low:.0f} to {high:.0f} ms away', ''),
            ('stopped before the gate', f'{stopped}  (edge: {r["defects_stopped"]} of {r["defects_total"]})'),
            ('missed', f'{c["defects_missed"]}  (edge: {r["defects_missed"]})'),
            (
                'frame to stop command',
                f'{_ms(c["stop_reaction_ms"]["p50"])}  (edge: {_ms(r["stop_reaction_ms"]["p50"])})',
            ),
        ]
    return rows
