"""Where this package keeps what has to outlast the process, unless the user names another place."""

from __future__ import annotations

import os
from pathlib import Path

from .events import topic_segment
from .params import BridgeParams

ENGINE_CACHE_VARIABLE = 'EDGE_VISION_ENGINE_CACHE'


def spool_directory(params: BridgeParams, namespace: str) -> Path:
    """Return where events are kept: one directory per namespace, as only one process may have it open."""
    if params.spool_directory:
        return Path(params.spool_directory).expanduser()
    data = Path(os.environ.get('XDG_DATA_HOME') or '~/.local/share').expanduser()
    return data / 'edge_vision' / 'spool' / topic_segment(namespace.strip('/') or 'default')


def engine_directory() -> Path:
    """Return where TensorRT engines are kept."""
    if os.environ.get(ENGINE_CACHE_VARIABLE):
        return Path(os.environ[ENGINE_CACHE_VARIABLE]).expanduser()
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'edge_vision' / 'engines'
