"""A thin layer over CUDA's driver interface, and the two kernels that stand before and after the network.

Only `layout` does without the library. Every call is checked; a failure is a `GpuError`. After some failures (an
illegal address, a lost device) CUDA answers every further call of the process with the same failure: then every
frame raises, nothing is detected, and the machine stops until the process is started anew.
"""

from .driver import Event as Event
from .driver import Gpu as Gpu
from .driver import GpuError as GpuError
from .driver import Graph as Graph
from .driver import HostBuffer as HostBuffer
from .driver import Memory as Memory
from .driver import Stream as Stream
from .driver import device as device
from .driver import gpu as gpu
