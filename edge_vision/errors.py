"""The errors a caller can act on.

::

    EdgeVisionError
    ├── ConfigurationError   a parameter, rule, argument or file the user wrote
    │   └── RuntimeUnavailable   an inference runtime that is absent or cannot work on this machine
    ├── SourceError          a camera, stream or file that gives no pictures
    │   └── EndOfStream      a file or folder that has been read to its end
    ├── ModelError           a model that is missing, damaged or not YOLOv8 detection
    ├── EncodingError        an image message that cannot be read as pixels
    └── SpoolError           the event store cannot be opened or written

Every message is one sentence that says what was wrong, shows the value, says what was
expected and names the way out, so that a command can print it as it is.
"""


class EdgeVisionError(Exception):
    """Any failure of this package that a caller can act on."""


class ConfigurationError(EdgeVisionError):
    """A value the user wrote is not usable."""


class RuntimeUnavailable(ConfigurationError):  # noqa: N818  a state of the machine, not a fault in what was written
    """An inference runtime is not installed, or cannot work on this machine; another one may."""


class SourceError(EdgeVisionError):
    """A camera, stream or file cannot be opened or was lost."""


class EndOfStream(SourceError):  # noqa: N818  a state of the source, named as GStreamer names it
    """A finite source has delivered its last frame."""


class ModelError(EdgeVisionError):
    """A model file is missing, damaged or of a kind that is not supported."""


class EncodingError(EdgeVisionError):
    """An image message cannot be turned into pixels."""


class SpoolError(EdgeVisionError):
    """The event store cannot be opened, read or written."""
