"""A runtime of one file and one line of the table, in a copy of the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import edge_vision
import models
from edge_vision.backends import RUNTIMES

PACKAGE = Path(edge_vision.__file__).parent
LINE = "    'toy': Entry('toy_of_a_test', 'ToyRuntime', 'pip install toy', ('.onnx', '.toy')),\n}\n"
FILE = """
import numpy as np
from . import metadata

class ToyRuntime:
    name = 'toy'

    def __init__(self, path, options):
        said = metadata.parse(metadata.read_onnx(path), path)
        self.labels, self.input_size = said.labels, said.input_size

    def infer(self, image, geometry, min_score):
        return np.array([[48, 32, 20, 10, 0.1, 0.9]], np.float32).T
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Run a command of a copy of the package that has the runtime ``toy``."""
    root = tmp_path_factory.mktemp('copy')
    shutil.copytree(PACKAGE, root / 'edge_vision', ignore=shutil.ignore_patterns('__pycache__'))
    table = root / 'edge_vision' / 'backends.py'
    text = table.read_text()
    assert text.endswith('\n}\n')
    table.write_text(text.removesuffix('}\n') + LINE)
    (root / 'edge_vision' / 'runtimes' / 'toy_of_a_test.py').write_text(FILE)
    models.fixed_boxes(root / 'm.onnx', [[48, 32, 20, 10, 0.1, 0.9]])
    cv2.imwrite(str(root / 'grey.png'), np.full((64, 96, 3), 128, np.uint8))

    def run(*words):
        return subprocess.run(
            [sys.executable, '-m', 'edge_vision', *words],
            cwd=root,
            env={**os.environ, 'PYTHONPATH': str(root)},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_new_runtime_detects(run):
    ran = run('detect', 'grey.png', '--model', 'm.onnx', '--backend', 'toy', '--json')
    assert ran.returncode == 0, ran.stderr
    assert [box['class_id'] for box in json.loads(ran.stdout)[0]] == ['scratch']


@pytest.mark.parametrize('command', ['demo', 'replay', 'bench', 'validate'])
def test_a_new_runtime_is_a_choice_of_every_command(run, command):
    choices = ','.join(('auto', *RUNTIMES, 'toy'))
    assert f'--backend {{{choices}}}' in run(command, '--help').stdout


def test_the_doctor_knows_a_new_runtime_and_opens_models_with_it(run, tmp_path):
    given = tmp_path / 'given.yaml'
    given.write_text('/**/detector: {ros__parameters: {backend: toy, model_file_path: m.onnx}}')
    ran = run('doctor', '--params-file', str(given), '--json')
    found = {finding['name']: finding for finding in json.loads(ran.stdout)['findings']}
    assert found['parameters']['status'] == found['toy']['status'] == found['model']['status'] == 'ok', ran.stdout
    assert found['model']['details'] == ['runs on toy in fp32 (as asked)']


def test_the_table_needs_only_the_standard_library():
    script = 'import sys, edge_vision.params; print([m for m in ("numpy", "cv2") if m in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', script], text=True).strip() == '[]'
