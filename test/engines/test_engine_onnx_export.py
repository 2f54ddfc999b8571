import importlib.util
import sys
import textwrap

import pytest

import models
from edge_vision.engines import BuildOptions, onnx_export, wanted
from edge_vision.engines.preparation import as_onnx
from edge_vision.errors import ConfigurationError, ModelError
from edge_vision.runtimes import metadata

BOX = [(32.0, 32.0, 10.0, 10.0, 0.9, 0.1)]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'my model.pt'
    path.write_bytes(b'weights')
    return path


@pytest.fixture
def ultralytics(tmp_path, monkeypatch):
    """Put a package in the place of ultralytics that exports a small model and notes how it was called."""
    exported = models.fixed_boxes(tmp_path / 'exported.onnx', BOX)
    package = tmp_path / 'packages' / 'ultralytics'
    package.mkdir(parents=True)
    notes = tmp_path / 'notes'
    package.joinpath('__init__.py').write_text(
        textwrap.dedent(f"""
            import os, shutil
            from pathlib import Path
            class YOLO:
                def __init__(self, path, task):
                    if Path(path).read_bytes() != b'weights':
                        raise ValueError('not a checkpoint')
                    self.path = Path(path)
                def export(self, **options):
                    switches = ' '.join(os.environ[n] for n in ('YOLO_OFFLINE', 'YOLO_AUTOINSTALL'))
                    with open({str(notes)!r}, 'a') as file:
                        print(sorted(options.items()), switches, file=file)
                    shutil.copy({str(exported)!r}, self.path.with_suffix('.onnx'))
        """)
    )
    monkeypatch.setenv('PYTHONPATH', str(package.parent))
    return notes


def test_a_checkpoint_is_exported_once_with_what_every_tensorrt_reads(ultralytics, checkpoint, engine_directory):
    options = BuildOptions(imgsz=(320, 416), batch=4)
    first, second = as_onnx(checkpoint, options), as_onnx(checkpoint, options)
    assert first == second
    assert first.parent == engine_directory
    assert metadata.parse(metadata.read_onnx(first), first).labels == ('dent', 'scratch')
    [note] = ultralytics.read_text().splitlines()
    expected = {'batch': 4, 'device': 'cpu', 'format': 'onnx', 'imgsz': [320, 416], 'opset': 17, 'simplify': False}
    assert note == f'{sorted(expected.items())} true false'
    assert [path.name for path in checkpoint.parent.glob('my model*')] == ['my model.pt']  # nothing beside it


@pytest.mark.usefixtures('ultralytics')
def test_another_size_is_another_export(checkpoint):
    first = as_onnx(checkpoint, BuildOptions())
    assert as_onnx(checkpoint, BuildOptions(imgsz=(320, 320))) != first


def test_looking_for_an_engine_exports_nothing_when_it_may_not(api, ultralytics, checkpoint):
    with pytest.raises(ModelError, match='has not been exported to ONNX yet'):
        wanted(checkpoint, BuildOptions(), api, None, may_export=False)
    assert not ultralytics.exists()


@pytest.mark.usefixtures('ultralytics')
def test_what_ultralytics_cannot_read_is_an_error_with_its_reason(checkpoint):
    checkpoint.write_bytes(b'something else')
    with pytest.raises(ModelError, match='cannot be exported by ultralytics: ValueError: not a checkpoint'):
        as_onnx(checkpoint, BuildOptions())


@pytest.mark.skipif(importlib.util.find_spec('ultralytics') is not None, reason='ultralytics is installed')
def test_without_ultralytics_the_way_out_is_said(checkpoint):
    with pytest.raises(ConfigurationError, match=r'not installed; where it is, run: yolo export model=my model.pt'):
        as_onnx(checkpoint, BuildOptions())


def test_a_checkpoint_of_the_real_ultralytics_becomes_onnx(tmp_path):
    ultralytics = pytest.importorskip('ultralytics', reason='ultralytics is not installed')
    ultralytics.YOLO('yolov8n.yaml').save(tmp_path / 'm.pt')
    onnx_export.export(tmp_path / 'm.pt', tmp_path / 'm.onnx', imgsz=(320, 416), batch=1, python=sys.executable)
    info = metadata.parse(metadata.read_onnx(tmp_path / 'm.onnx'), tmp_path / 'm.onnx')
    assert (info.input_size, len(info.labels)) == ((320, 416), 80)


@pytest.mark.parametrize(('name', 'reason'), [('m.xml', 'built from .onnx or .pt'), ('gone.pt', 'does not exist')])
def test_other_files_are_refused(tmp_path, name, reason):
    (tmp_path / 'm.xml').write_bytes(b'')
    with pytest.raises(ModelError, match=reason):
        as_onnx(tmp_path / name, BuildOptions())
