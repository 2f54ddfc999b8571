"""TensorRT engines: built from a model, kept by content, and judged before they may control anything."""

from .builder import BuildOptions as BuildOptions
from .builder import BuildReport as BuildReport
from .cache import CachedEngine as CachedEngine
from .device import Device as Device
from .preparation import Preparation as Preparation
from .preparation import Wanted as Wanted
from .preparation import this_device as this_device
from .preparation import vouch_for as vouch_for
from .preparation import wanted as wanted
