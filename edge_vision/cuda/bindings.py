"""cuda-python, under the names that its releases have had."""

try:
    from cuda.bindings import driver, nvrtc
except ImportError:  # before 11.8.6 and 12.6
    from cuda import cuda as driver
    from cuda import nvrtc

__all__ = ['driver', 'nvrtc']
