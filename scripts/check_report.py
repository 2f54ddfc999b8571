"""Check what the demo reported: python3 check_report.py MODE REPORT; exits 1 with every fault found."""

import json
import sys
from pathlib import Path

NUMBERS = (
    'duration_s',
    'frames_captured',
    'frames_processed',
    'fps',
    'parts_total',
    'defects_total',
    'defects_stopped',
    'defects_missed',
    'false_stops',
    'events_flagged',
    'events_delivered',
    'events_duplicated',
    'bytes_captured',
    'bytes_sent',
)
TEXTS = ('backend', 'model', 'mode')
DISTRIBUTIONS = {
    'inference_ms': ('p50', 'p99'),
    'reaction_ms': ('p50', 'p99'),
    'stop_reaction_ms': ('p50', 'max'),
    'overhead_ms': ('p50', 'p99'),
}


def is_number(value: object) -> bool:
    """Tell whether a value is a number; booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def missing_fields(report: dict) -> list[str]:
    """Name the fields that are not there or have another type."""
    missing = [name for name in NUMBERS if not is_number(report.get(name))]
    missing += [name for name in TEXTS if not isinstance(report.get(name), str)]
    for name, parts in DISTRIBUTIONS.items():
        values = report.get(name)
        missing += [
            f'{name}.{part}' for part in parts if not isinstance(values, dict) or not is_number(values.get(part))
        ]
    return missing


def faults(report: dict, mode: str) -> list[str]:
    """Say what is wrong with a complete report."""
    checks = {
        f'mode is {report["mode"]!r}, expected {mode!r}': report['mode'] == mode,
        'no frame was processed': report['frames_processed'] > 0,
        'no defect came along, so nothing was shown': report['defects_total'] > 0,
        f'{report["defects_missed"]} defects were missed': report['defects_missed'] == 0,
        f'{report["false_stops"]} stops had no defect': report['false_stops'] == 0,
        f'{report["events_delivered"]} of {report["events_flagged"]} events were delivered': (
            report['events_delivered'] == report['events_flagged'] > 0
        ),
        f'{report["events_duplicated"]} events came twice': report['events_duplicated'] == 0,
    }
    return [sentence for sentence, holds in checks.items() if not holds]


def main() -> None:
    """Check the report named on the command line."""
    mode, path = sys.argv[1:]
    report = json.loads(Path(path).read_text())
    missing = missing_fields(report)
    found = [f'{name} is missing or of another type' for name in missing] or faults(report, mode)
    if found:
        sys.exit('\n'.join(f'{path}: {sentence}' for sentence in found))


if __name__ == '__main__':
    main()
