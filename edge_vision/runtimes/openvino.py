"""OpenVINO: colours, scaling and layout are part of the graph; the picture is resized into its input memory."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..errors import ConfigurationError, ModelError
from ..frames import Image
from ..yolov8 import Canvas, Floats, Letterbox, candidates
from . import Options, metadata

# Importing OpenVINO forks a process that reports to a web service; where that package is absent, its stub does nothing.
sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402


class OpenVinoRuntime:
    """Runs an ONNX or OpenVINO model on the CPU.

    Args:
        path: Model file, .onnx or .xml.
        options: ``precision`` 'fp32', or 'fp16' on a processor that computes in half or bfloat16 precision;
            ``threads`` for one inference.

    Raises:
        ConfigurationError: The precision is not available on this processor.
        ModelError: The file is damaged or not a YOLOv8 detection model.

    """

    name = 'openvino'

    def __init__(self, path: Path, options: Options) -> None:
        properties = metadata.read_onnx(path) if path.suffix.lower() == '.onnx' else read_yaml(path)
        info = metadata.parse(properties, path)
        core = ov.Core()
        model = read_model(core, path, options.input_size or info.input_size)
        batch, _, height, width = model.input(0).shape
        self.labels = info.labels
        self.input_size = (height, width)
        config = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_PRECISION_HINT': precision_hint(core, options.precision),
            **({'INFERENCE_NUM_THREADS': options.threads} if options.threads else {}),
        }
        try:
            compiled = core.compile_model(take_bgr_bytes(model), 'CPU', config)
            output = np.zeros(tuple(compiled.output(0).shape), np.float32)
        except RuntimeError as error:
            raise metadata.damaged(path) from error
        pixels = np.zeros((batch, height, width, 3), np.uint8)
        self._request = compiled.create_infer_request()
        self._request.set_input_tensor(ov.Tensor(pixels, shared_memory=True))
        self._request.set_output_tensor(ov.Tensor(output, shared_memory=True))
        self._canvas = Canvas(pixels[0])
        self._output = output[0].T if metadata.is_transposed(output.shape, info.labels, path) else output[0]
        self._request.infer()  # the first one is slow

    def infer(self, image: Image, geometry: Letterbox, min_score: float) -> Floats:
        """Letterbox a picture, run the network and hand back the anchors that may count."""
        self._canvas.draw(image, geometry)
        self._request.infer()
        return candidates(self._output, min_score)


def read_yaml(path: Path) -> dict[str, str]:
    """Read the metadata.yaml that ultralytics puts beside an OpenVINO model."""
    import yaml  # noqa: PLC0415  only this kind of model needs it

    beside = path.with_name('metadata.yaml')
    if not beside.is_file():
        raise ModelError(f'model file {str(path)!r} has no metadata.yaml beside it, expected the whole exported folder')
    try:
        content = yaml.safe_load(beside.read_text(encoding='utf-8'))
        return {str(key): str(value) for key, value in content.items()}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError) as error:
        raise ModelError(f'metadata file {str(beside)!r} is damaged, export the model again') from error


def read_model(core: ov.Core, path: Path, input_size: tuple[int, int]) -> ov.Model:
    """Read a model and give its input a fixed shape where it has none."""
    try:
        model = core.read_model(path)
        if model.input(0).partial_shape.is_dynamic:
            model.reshape([1, 3, *input_size])
    except RuntimeError as error:
        raise metadata.damaged(path) from error
    metadata.check_input(model.input(0).shape, path)
    return model


def take_bgr_bytes(model: ov.Model) -> ov.Model:
    """Make a model for RGB planes of 0..1 take BGR bytes, shape (N, height, width, 3), and give float32."""
    steps = ov.preprocess.PrePostProcessor(model)
    tensor = steps.input().tensor()
    tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout('NHWC'))
    tensor.set_color_format(ov.preprocess.ColorFormat.BGR)
    steps.input().model().set_layout(ov.Layout('NCHW'))
    steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ov.preprocess.ColorFormat.RGB).scale(
        255.0
    )
    steps.output().tensor().set_element_type(ov.Type.f32)
    return steps.build()


def precision_hint(core: ov.Core, precision: str) -> str:
    """Name the element type that the CPU computes in."""
    capabilities = core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    if precision == 'fp32':
        return 'f32'
    if precision == 'fp16' and 'FP16' in capabilities:
        return 'f16'
    if precision == 'fp16' and 'BF16' in capabilities:
        return 'bf16'
    raise ConfigurationError(
        f"precision is {precision!r}, which openvino does not compute in on this processor; use 'fp32' "
        '(a model that was quantised before it was exported runs as it is)'
    )
