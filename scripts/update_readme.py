"""Write the parameter tables of README.md anew from edge_vision/params.py: python scripts/update_readme.py."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_vision.params import (  # noqa: E402
    BridgeParams,
    CameraParams,
    DecisionParams,
    DetectorParams,
    Spec,
    specs,
)
from edge_vision.rules import RuleParams  # noqa: E402

TABLES = {
    'camera': CameraParams,
    'detector': DetectorParams,
    'decision': DecisionParams,
    'rule': RuleParams,
    'bridge': BridgeParams,
}


def default(spec: Spec) -> str:
    """Write a default as YAML has it."""
    value = spec.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return '[' + ', '.join(f'"{item}"' for item in value) + ']'
    return f'"{value}"' if isinstance(value, str) else str(value)


def meaning(spec: Spec) -> str:
    """Write the description with choices or bounds, and whether it is fixed at start."""
    text = spec.description.replace('|', '\\|')
    if spec.one_of:
        text += ': ' + ', '.join(f'`{choice}`' for choice in spec.one_of)
    if spec.bounds:
        low, high = (f'{bound:g}' for bound in spec.bounds)
        text += f' [{low}..{high}]'
    return text + (' *(at start)*' if spec.read_only else '')


def table(cls: type) -> str:
    """Write the Markdown table of a parameters class."""
    rows = [f'| `{spec.name}` | `{default(spec)}` | {meaning(spec)} |' for spec in specs(cls)]
    return '\n'.join(['| parameter | default | |', '|---|---|---|', *rows])


def updated(text: str) -> str:
    """Return a README with every table between its markers written anew."""
    for name, cls in TABLES.items():
        marked = re.compile(rf'(<!-- parameters of {name} -->\n).*?(\n<!-- end -->)', re.DOTALL)
        written = table(cls)
        text = marked.sub(lambda match, written=written: match[1] + written + match[2], text)
    return text


if __name__ == '__main__':
    readme = ROOT / 'README.md'
    readme.write_text(updated(readme.read_text(encoding='utf-8')), encoding='utf-8')
