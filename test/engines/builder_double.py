"""TensorRT's builder and parser as far as the project goes: the plan says what was asked for, and nothing is built.

Which flags there are is what versions differ in. `test_engine_builder.py` holds all other names against a real library.
"""

import enum
import json
from types import SimpleNamespace

import onnx

FLAGS = {'FP16': 0, 'INT8': 1, 'GPU_FALLBACK': 3}
NETWORKS = {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1}
VERSIONS = {  # what each has of them
    '8.6.2': ([*FLAGS], ['EXPLICIT_BATCH']),
    '10.3.0': ([*FLAGS], [*NETWORKS]),
    '11.4.1': (['GPU_FALLBACK'], ['STRONGLY_TYPED']),
}


class DataType(enum.Enum):
    FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class DeviceType(enum.Enum):
    GPU, DLA = 0, 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002  as the library names them
        self._shapes[input] = [list(min), list(opt), list(max)]


class IBuilderConfig:
    __slots__ = ('DLA_core', '_flags', '_limits', '_profiles', 'default_device_type')

    def __init__(self):
        self.DLA_core, self.default_device_type = -1, DeviceType.GPU
        self._flags, self._limits, self._profiles = [], {}, []

    def set_flag(self, flag):
        self._flags.append(flag.name)

    def set_memory_pool_limit(self, pool, pool_size):
        self._limits[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        self._profiles.append(profile)
        return len(self._profiles) - 1


class INetworkDefinition:
    num_inputs = num_outputs = 1

    def __init__(self, kind):
        self._kind, self._model = kind, None

    def get_input(self, index):
        return ITensor(self._model.graph.input[index])


class ITensor:
    __slots__ = ('dtype', 'name', 'shape')

    def __init__(self, proto):
        kind = proto.type.tensor_type
        self.name, self.dtype = proto.name, DataType(kind.elem_type)
        self.shape = tuple(d.dim_value or -1 for d in kind.shape.dim)


class OnnxParser:
    num_errors = 0

    def __init__(self, network, _):
        self._network = network

    def parse(self, model):
        self._network._model = onnx.load_from_string(model)
        return True


class Builder:
    num_DLA_cores = 2  # noqa: N815  as the library names it

    def __init__(self, _):
        pass

    def create_network(self, flags):
        return INetworkDefinition(flags)

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        asked = {
            'network': [name for name, bit in NETWORKS.items() if network._kind >> bit & 1],
            'input': network.get_input(0).dtype.name,
            'quantised': any(node.op_type == 'QuantizeLinear' for node in network._model.graph.node),
            'flags': config._flags,
            'device': [config.default_device_type.name, config.DLA_core],
            'limits': config._limits,
            'profiles': [profile._shapes for profile in config._profiles],
        }
        return json.dumps(asked).encode()


def library(version):
    """Return what ``import tensorrt`` would give of a version."""
    flags, networks = VERSIONS[version]
    return SimpleNamespace(
        __version__=version,
        BuilderFlag=enum.IntEnum('BuilderFlag', {name: FLAGS[name] for name in flags}),
        NetworkDefinitionCreationFlag=enum.IntEnum('Network', {name: NETWORKS[name] for name in networks}),
        float16=DataType.HALF,
        **{kind.__name__: kind for kind in (DeviceType, MemoryPoolType, ILogger, OnnxParser, Builder)},
    )
