"""The kernels go through CUDA's own compiler, for every kind of GPU that the project names."""

import pytest

from edge_vision.errors import RuntimeUnavailable

kernels = pytest.importorskip('edge_vision.cuda.kernels', reason='cuda-python is not installed')
GPUS = [(7, 5), (8, 7), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0)]  # Turing to Blackwell; 8.7 Orin, 11.0 Thor


@pytest.fixture(autouse=True)
def _compiler():
    try:
        kernels.built(kernels.nvrtc.nvrtcVersion())
    except Exception as error:  # noqa: BLE001  the library raises its own
        pytest.skip(f"CUDA's run-time compiler is not installed: {str(error).splitlines()[0]}")


@pytest.mark.parametrize('compute_capability', GPUS, ids=lambda cc: f'sm_{cc[0]}{cc[1]}')
def test_kernels_compile_to_machine_code_for_what_the_compiler_knows(compute_capability):
    known = kernels.built(kernels.nvrtc.nvrtcGetSupportedArchs())
    is_known = compute_capability[0] * 10 + compute_capability[1] in known
    code = kernels.compiled(compute_capability)
    assert code.startswith(b'\x7fELF') is is_known
    for name in (b'letterbox', b'take_float', b'take_half'):
        assert (b'.text.' if is_known else b'.visible .entry ') + name in code


def test_gpu_that_is_newer_than_the_compiler_gets_code_that_its_driver_translates():
    code = kernels.compiled((99, 0))
    assert b'.visible .entry letterbox' in code


def test_gpu_that_is_too_old_is_refused_in_one_sentence():
    with pytest.raises(RuntimeUnavailable, match=r'compute capability 1\.0: the compiler knows .* and nothing older'):
        kernels.compiled((1, 0))


def test_source_that_does_not_compile_says_why(tmp_path, monkeypatch):
    source = tmp_path / 'kernels.cu'
    source.write_text('void oops() { return 1; }')
    monkeypatch.setattr(kernels, 'SOURCE', source)
    with pytest.raises(RuntimeUnavailable, match='return value type'):
        kernels.compiled((8, 7))
