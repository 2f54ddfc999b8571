"""From a PyTorch checkpoint to ONNX, with ultralytics in a process of its own that stays off the network."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .. import durable
from ..errors import ConfigurationError, ModelError

log = logging.getLogger(__name__)

OPSET = 17  # the newest that TensorRT 8.6 knows
WITHOUT_ULTRALYTICS = 66  # exit code of the script
SCRIPT = f"""
import json, sys
try:
    from ultralytics import YOLO
except ImportError as error:
    sys.exit({WITHOUT_ULTRALYTICS} if error.name == 'ultralytics' else str(error))
model = YOLO(sys.argv[1], task='detect')
print(model.export(format='onnx', device='cpu', opset={OPSET}, simplify=False, **json.loads(sys.argv[2])))
"""


def export(
    model: Path, target: Path, *, imgsz: tuple[int, int] | None, batch: int, python: str = sys.executable
) -> None:
    """Write a checkpoint as ONNX.

    A checkpoint is a pickle: loading it runs code that is in it, so it must come from a trusted place.

    Args:
        model: Checkpoint, .pt.
        target: ONNX file to write.
        imgsz: Height and width of the network input in pixels; None: what it was trained with.
        batch: Pictures at once.
        python: Interpreter that has ultralytics.

    Raises:
        ConfigurationError: Ultralytics is not installed.
        ModelError: Ultralytics cannot export it.
        OSError: The target cannot be written.

    """
    arguments: dict[str, Any] = {'batch': batch, **({'imgsz': list(imgsz)} if imgsz else {})}
    log.info('exporting %s to ONNX with ultralytics', model)
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory, 'model.pt')  # ultralytics writes beside it
        shutil.copyfile(model, copy)
        command = [python, '-c', SCRIPT, str(copy), json.dumps(arguments)]
        done = subprocess.run(  # noqa: S603
            command, cwd=directory, env=environment(directory), capture_output=True, text=True, check=False
        )
        if done.returncode == WITHOUT_ULTRALYTICS:
            raise ConfigurationError(
                f'model file {str(model)!r} is a PyTorch checkpoint and ultralytics, which reads it, is not installed; '
                f'where it is, run: yolo export model={model.name} format=onnx opset={OPSET}, and give the ONNX file'
            )
        result = copy.with_suffix('.onnx')
        if done.returncode != 0 or not result.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or 'no reason given').splitlines()[-1]
            raise ModelError(f'model file {str(model)!r} cannot be exported by ultralytics: {last}')
        durable.write(target, result.read_bytes())


def environment(directory: str) -> dict[str, str]:
    """Return the environment in which ultralytics neither installs nor downloads nor reports anything."""
    return {
        **os.environ,
        'YOLO_OFFLINE': 'true',
        'YOLO_AUTOINSTALL': 'false',
        'YOLO_CONFIG_DIR': directory,
        'CUDA_VISIBLE_DEVICES': '',
    }
