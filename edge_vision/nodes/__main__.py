"""Runs the nodes of one module of this folder: ``python -m edge_vision.nodes MODULE --ros-args ...``."""

import importlib
import sys

from .spin import run

sys.exit(run(importlib.import_module(f'.{sys.argv[1]}', __package__).make_nodes, sys.argv[1:]))
