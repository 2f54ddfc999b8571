"""TensorRT as far as the runner goes, on the emulated GPU: an engine is an ONNX file, run by ONNX Runtime.

`test_interfaces.py` checks that each name in here exists in the real libraries, and the runner meets no other.
"""

import ctypes
import enum
import math
import weakref

import numpy as np
import onnxruntime as ort

ELEMENTS = {'tensor(float)': 'FLOAT', 'tensor(float16)': 'HALF', 'tensor(double)': 'INT8'}  # INT8: one that is refused
TYPES = {'FLOAT': np.float32, 'HALF': np.float16}
FREE_SIDES = {0: (1, 1, 4), 2: (32, 64, 640), 3: (32, 96, 640)}  # least, best and most of a free dimension

happened = []  # what was made and what was given back, in this order
queued = []  # the library may be called after a context is no longer
behaviour = {}  # what a test wants to go wrong


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = 1, 2


class TensorLocation(enum.Enum):
    DEVICE, HOST = 0, 1


class DataType(enum.Enum):
    FLOAT, HALF, INT8 = 0, 1, 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity, text):
        raise NotImplementedError


class BuilderFlag(enum.Enum):
    TF32 = 1


class Runtime:
    DLA_core = -1

    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, plan):
        try:
            session = ort.InferenceSession(bytes(plan), providers=['CPUExecutionProvider'])
        except Exception as error:  # noqa: BLE001
            reason = f'cannot read it: {type(error).__name__}'
            self._logger.log(ILogger.ERROR, reason)
            return None
        happened.append(f'engine on {self.DLA_core}')
        return ICudaEngine(session, self._logger)

    def __del__(self):
        happened.append('runtime gone')


class ICudaEngine:
    def __init__(self, session, logger):
        self._session, self._logger = session, logger
        self._tensors = [*session.get_inputs(), *session.get_outputs()]

    def _tensor(self, name):
        return next(tensor for tensor in self._tensors if tensor.name == name)

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index].name

    def get_tensor_mode(self, name):
        is_input = name in [tensor.name for tensor in self._session.get_inputs()]
        return TensorIOMode.INPUT if is_input else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(n if isinstance(n, int) else -1 for n in self._tensor(name).shape)

    def get_tensor_profile_shape(self, name, _):
        shape = self.get_tensor_shape(name)
        return [tuple(n if n >= 0 else FREE_SIDES[i][kind] for i, n in enumerate(shape)) for kind in range(3)]

    def get_tensor_dtype(self, name):
        return DataType[ELEMENTS[self._tensor(name).type]]

    def get_tensor_location(self, _):
        return TensorLocation.DEVICE

    def create_execution_context(self):
        happened.append('context')
        return IExecutionContext(self._session, self, self._logger)

    def __del__(self):
        happened.append('engine gone')


class IExecutionContext:
    def __init__(self, session, engine, logger):
        self._session, self._logger = session, logger
        self._gpu = ctypes.CDLL('libcuda.so.1')
        self._gpu.emulated_memory.restype = ctypes.c_void_p
        self._input = session.get_inputs()[0].name
        self._shape = engine.get_tensor_shape(self._input)
        self._addresses = {}
        self._names = [self._input, *(tensor.name for tensor in session.get_outputs())]
        self._types = {name: TYPES.get(engine.get_tensor_dtype(name).name) for name in self._names}

    def set_optimization_profile_async(self, profile, _):
        return profile == 0

    def set_input_shape(self, _, shape):
        self._shape = tuple(shape)
        return True

    def _run(self, picture):
        return self._session.run(None, {self._input: picture})[0]

    def get_tensor_shape(self, name):
        if name == self._input:
            return self._shape
        return self._run(np.zeros(self._shape, self._types[self._input])).shape

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream_handle):
        assert set(self._addresses) == set(self._names)
        if behaviour.get('fails'):
            self._logger.log(ILogger.ERROR, 'it is tired')
            return False
        if behaviour.get('cannot be captured'):
            self._gpu.emulated_break_capture(ctypes.c_void_p(stream_handle))
        captured = self._gpu.emulated_is_capturing(ctypes.c_void_p(stream_handle)) & 1
        this = weakref.ref(self)
        work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: this()._work_on(bool(captured)))
        queued.append(work)
        return self._gpu.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), work, None) == 0

    def _work_on(self, captured):
        output = self._run(self._view(self._input, self._shape).copy())
        if captured and behaviour.get('lies in a graph'):
            output = output + 1
        self._view(self._names[1], output.shape)[...] = output

    def _view(self, name, shape):
        size = math.prod(shape) * np.dtype(self._types[name]).itemsize
        address = self._gpu.emulated_memory(ctypes.c_uint64(self._addresses[name]), ctypes.c_size_t(size))
        assert address, "TensorRT was given memory that is not the GPU's"
        return np.frombuffer((ctypes.c_char * size).from_address(address), self._types[name]).reshape(shape)

    def __del__(self):
        happened.append('context gone')
