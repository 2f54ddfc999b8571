"""Runs ``python -m edge_vision <command>``."""

import sys

from .cli import main

sys.exit(main())
