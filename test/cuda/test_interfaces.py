"""Every name that is used of TensorRT and cuda-python exists in the real ones."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / 'edge_vision'
RUNNER = SOURCES / 'runtimes' / 'tensorrt.py'
LIBRARIES = ['tensorrt', 'tensorrt_rtx_bindings', 'tensorrt_lean_bindings']
OPTIONAL = {  # asked for with getattr or after it, and who has it
    'is_stream_capturable': ('IExecutionContext', ['tensorrt_rtx_bindings']),
    'get_tensor_format': ('ICudaEngine', LIBRARIES),
}


def double():
    """Import the double without what it runs on."""
    sys.path.insert(0, str(HERE))
    try:
        import tensorrt_double  # noqa: PLC0415
    finally:
        sys.path.remove(str(HERE))
    return tensorrt_double


def names_of_the_double():
    module = double()
    for class_name, value in inspect.getmembers(module, inspect.isclass):
        if value.__module__ == module.__name__:
            yield class_name, [name for name in vars(value) if not name.startswith('_')]


@pytest.mark.parametrize('library', LIBRARIES)
def test_double_has_no_name_that_the_real_library_lacks(library):
    real = pytest.importorskip(library, reason=f'{library} is not installed')
    checked = 0
    for class_name, names in names_of_the_double():
        real_class = getattr(real, class_name)
        missing = [name for name in names if not hasattr(real_class, name)]
        assert missing == [], class_name
        checked += len(names)
    assert checked > 20


def test_runner_asks_tensorrt_for_nothing_that_the_double_lacks_but_what_is_optional():
    """The runner's way through the double shows the rest; this is what ``getattr`` would hide there."""
    hidden = set(re.findall(r"getattr\(\w+(?:\.\w+)*, '(\w+)', None\)", RUNNER.read_text()))
    assert hidden == {'is_stream_capturable', 'TensorFormat'}


@pytest.mark.parametrize('name', OPTIONAL)
def test_what_is_optional_exists_where_it_is_said_to(name):
    class_name, libraries = OPTIONAL[name]
    found = 0
    for library in libraries:
        try:
            module = __import__(library)
        except ImportError:
            continue
        assert hasattr(getattr(module, class_name), name)
        found += 1
    if not found:
        pytest.skip(f'none of {libraries} is installed')


def test_plain_order_has_a_name_in_tensorrt_rtx():
    real = pytest.importorskip('tensorrt_rtx_bindings', reason='TensorRT-RTX is not installed')
    assert real.TensorFormat.LINEAR is not None


def attributes(path, module):
    """Yield every attribute that a file takes from a module of this name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module:
            yield node.attr


@pytest.mark.parametrize(('alias', 'least'), [('cu', 25), ('nvrtc', 9)])
def test_every_function_of_cuda_that_is_called_exists(alias, least):
    bindings = pytest.importorskip('edge_vision.cuda.bindings', reason='cuda-python is not installed')
    module = {'cu': bindings.driver, 'nvrtc': bindings.nvrtc}[alias]
    names = {name for path in (SOURCES / 'cuda').glob('*.py') for name in attributes(path, alias)}
    assert len(names) >= least
    assert [name for name in sorted(names) if not hasattr(module, name)] == []


def test_cuda_has_the_flags_and_attributes_that_are_asked_for():
    cu = pytest.importorskip('edge_vision.cuda.bindings', reason='cuda-python is not installed').driver
    assert int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING) == 1
    assert cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL is not None
    asked = set(attributes(SOURCES / 'cuda' / 'driver.py', 'attribute'))
    assert len(asked) == 3
    assert all(hasattr(cu.CUdevice_attribute, name) for name in asked)
