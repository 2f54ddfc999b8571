"""The way to the cloud: settings, one connection, and the thread that sends what the spool holds."""

from .sender import Sender as Sender
from .sender import SenderState as SenderState
from .settings import PASSWORD_VARIABLE as PASSWORD_VARIABLE
from .settings import USERNAME_VARIABLE as USERNAME_VARIABLE
from .settings import BrokerSettings as BrokerSettings
from .settings import TlsSettings as TlsSettings
from .settings import Topics as Topics
from .settings import settings_of as settings_of
