"""What `scripts/bench_tensorrt` runs: the table of one machine for docs/performance.md, and trtexec beside it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..backends import PRECISIONS
from ..engines import api, files
from ..errors import EdgeVisionError
from ..runtimes import Options, open_runtime
from ..runtimes.tensorrt import TensorRtRuntime
from ..share import model_file
from . import gpu, positive, size
from .figures import Figures, Row, dimensions, show

TRTEXEC = ('trtexec', '/usr/src/tensorrt/bin/trtexec', 'tensorrt_rtx')
COLUMNS = ('upload', 'letterbox', 'mapped', 'copy', 'take', 'copy_output', 'infer')


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog='scripts/bench_tensorrt', description=main.__doc__)
    add = parser.add_argument
    add('--model', type=Path, help='.onnx, .pt or .engine [the one of the conveyor]')
    add('--precision', default='fp16', choices=PRECISIONS, help='of the engine, where it is built [%(default)s]')
    add('--size', metavar='WxH', action='append', type=size, help='picture, repeatable [VGA, full HD, 4K]')
    add('--duration', type=positive, default=5.0, help='seconds per line [%(default)s]')
    args = parser.parse_args()
    try:
        for line in table(args):
            show(line)
    except EdgeVisionError as error:
        sys.stderr.write(f'bench_tensorrt: {error}\n')
        return 1
    return 0


def table(args: argparse.Namespace) -> Iterator[str]:
    """Yield the table line by line.

    Raises:
        EdgeVisionError: There is no GPU or no TensorRT, or the model is not usable.

    """
    runtime = open_runtime('tensorrt', model_file(args.model), Options(precision=args.precision))
    rows = list(gpu.steps(runtime, args))
    height, width = runtime.input_size
    yield f'{rows[0]["gpu"]}, {api.find()}, {width}x{height} {args.precision}; medians in ms, infer also p99'
    yield ''
    yield from markdown(rows)
    yield ''
    yield from beside_trtexec(runtime, rows)


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Lay the figures out."""
    yield table_row(('picture', *COLUMNS, 'infer p99', 'letterbox/copy', 'take/copy'))
    yield table_row(['---'] * (len(COLUMNS) + 4))
    for row in rows:
        middles = [f'{row[f"{name}_ms"]["p50"]:.3f}' for name in COLUMNS]
        ratios = [f'{row[name]:.1f}x' for name in ('letterbox_per_copy', 'take_per_copy')]
        yield table_row((dimensions(row), *middles, f'{row["infer_ms"]["p99"]:.3f}', *ratios))


def table_row(cells: Iterable[str]) -> str:
    """Write one row of a table."""
    return f'| {" | ".join(cells)} |'


def beside_trtexec(runtime: object, rows: Sequence[Row]) -> Iterator[str]:
    """Run trtexec on the same engine, where there is one, and compare."""
    program = next(filter(None, map(shutil.which, TRTEXEC)), None)
    if program is None or not isinstance(runtime, TensorRtRuntime):
        yield f'trtexec not compared: none of {", ".join(TRTEXEC)} is here'
        return
    with tempfile.NamedTemporaryFile(suffix='.engine') as file:
        file.write(files.read(runtime.engine_path).plan)  # without a header, which trtexec does not know
        file.flush()
        command = [program, f'--loadEngine={file.name}', '--useCudaGraph', '--noDataTransfers', '--useSpinWait']
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    bare = compute_time(done.stdout)
    if done.returncode or bare is None:
        yield f'trtexec failed: {(done.stdout + done.stderr).strip().splitlines()[-1:]}'
        return
    yield f'trtexec, the bare network: {bare["p50"]:.3f} ms'
    for row in rows:
        yield f'infer of {dimensions(row)} takes {row["infer_ms"]["p50"] / bare["p50"]:.2f}x as long'


def compute_time(output: str) -> Figures | None:
    """Find the median of the GPU's time in what trtexec prints, ms."""
    found = re.search(r'GPU Compute Time: .*?median = ([\d.]+) ms', output)
    return {'p50': float(found[1])} if found else None


if __name__ == '__main__':
    sys.exit(main())
