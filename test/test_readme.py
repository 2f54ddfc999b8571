import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'scripts'))

import update_readme  # noqa: E402


def test_the_readme_lists_every_parameter_as_the_code_declares_it():
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    for name in update_readme.TABLES:
        assert f'<!-- parameters of {name} -->' in text
    assert update_readme.updated(text) == text, 'run: python scripts/update_readme.py'
