"""Runs nodes in a process: start, spin, shut down, and say in one line what went wrong."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

import cv2
import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos_overriding_options import InvalidQosOverridesError
from rclpy.signals import SignalHandlerOptions

from ..errors import EdgeVisionError
from .memory import keep_freed_memory, leave_alone_what_stays

# Python gives a waiting thread the interpreter after this long, s. The default of 5 ms would be most
# of the time there is between a frame and the stop command.
SWITCH_INTERVAL = 0.0001
ENDS = signal.SIGINT, signal.SIGTERM
LONGEST_WAIT = 0.1  # s until a signal is noticed when nothing else happens
crashed = threading.Event()  # a worker of this process is dead
# What rclpy raises for arguments and parameter files that it cannot use.
ROS_ERRORS = (
    ParameterException,
    NameValidationException,
    InvalidQosOverridesError,
    _rclpy.RCLError,
    _rclpy.RCLInvalidROSArgsError,
    _rclpy.UnknownROSArgsError,
)


def make_executor() -> Executor:
    """Return the executor with the least latency that this rclpy has."""
    try:
        from rclpy.experimental import EventsExecutor  # noqa: PLC0415  since Jazzy 7.1.4
    except ImportError:
        return SingleThreadedExecutor()
    executor: Executor = EventsExecutor()
    return executor


class RosLogHandler(logging.Handler):
    """Hands the core's log records to the ROS logger of the same name."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record at its own level."""
        logger = get_logger(record.name)
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            logger.error(text)
        elif record.levelno >= logging.WARNING:
            logger.warning(text)
        elif record.levelno >= logging.INFO:
            logger.info(text)
        else:
            logger.debug(text)


def run(make_nodes: Callable[[], Sequence[Node]], args: Sequence[str] | None = None) -> int:
    """Make nodes and spin them until the process is told to end by SIGINT or SIGTERM; before they are made, these kill.

    Nodes are destroyed in their order while ROS is still up, so that a decision can say stop as its last word.

    Args:
        make_nodes: Called once rclpy is up; may raise `EdgeVisionError`.
        args: Command line with ``--ros-args``; None takes the process's.

    Returns:
        The exit code: 0 after a signal, 1 when the nodes could not start or one of them crashed.

    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    cv2.setNumThreads(1)  # the network has all CPUs; waking threads beside it takes longer than they save
    keep_freed_memory()
    log = logging.getLogger('edge_vision')
    log.setLevel(logging.INFO)
    log.handlers = [RosLogHandler()]
    told_to_end = threading.Event()
    for number in ENDS:  # it may take minutes to make the nodes, where an engine is built, and nothing moves before
        signal.signal(number, signal.SIG_DFL)
    nodes: Sequence[Node] = ()
    try:
        rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
        nodes = make_nodes()
        for number in ENDS:
            signal.signal(number, lambda *_: told_to_end.set())
        leave_alone_what_stays()
        return _spin(nodes, told_to_end)
    except ExternalShutdownException:
        return 1
    except (EdgeVisionError, *ROS_ERRORS) as error:
        print('edge_vision: error:', *_explain(error).split(), file=sys.stderr)  # some of them have several lines
        return 1
    finally:
        end(nodes)
        rclpy.try_shutdown()


def end(nodes: Sequence[Node]) -> None:
    """Destroy nodes in their order, whatever happens; first of all, what can stop the machine says so."""
    for node in nodes:
        if hasattr(node, 'say_stop'):
            node.say_stop()
    for node in nodes:
        try:
            node.destroy_node()
        except Exception:  # noqa: BLE001  the next node has evidence to bring to disk
            get_logger('edge_vision').error(f'{node.get_name()} did not end well:\n{traceback.format_exc()}')


def _explain(error: Exception) -> str:
    if isinstance(error, _rclpy.UnknownROSArgsError):
        return f'unknown arguments after --ros-args: {error}'
    return str(error)


def _spin(nodes: Sequence[Node], told_to_end: threading.Event) -> int:
    """Spin in a thread until told to end.

    This one sleeps, which signals can always interrupt; a wait of the executor may outlast its time when the
    wall clock is set back. Each of those is finite, as the events executor's endless wait overflows its clock on
    some machines and then burns a core without ever calling back.
    """
    executor = make_executor()
    for node in nodes:
        executor.add_node(node)

    def over() -> bool:
        return told_to_end.is_set() or crashed.is_set()

    def turn() -> None:
        while not over():
            executor.spin_once(timeout_sec=LONGEST_WAIT)

    spinner = Worker('executor', turn)
    while not over() and spinner.alive:
        time.sleep(LONGEST_WAIT)
    executor.wake()
    spinner.join()
    return int(crashed.is_set() or not told_to_end.is_set())


class Worker:
    """A named thread that a node owns and joins; a crash in it ends the process, which says why.

    Args:
        name: Thread name, as seen in ``top -H`` and py-spy.
        target: Runs until its source of work is closed.

    """

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._target = target
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._target()
        except ExternalShutdownException:
            pass
        except Exception:  # noqa: BLE001  whatever it is, half a pipeline must not go on as if it were whole
            if rclpy.ok():
                get_logger('edge_vision').fatal(f'{self._thread.name} crashed:\n{traceback.format_exc()}')
                crashed.set()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def join(self, timeout: float = 5.0) -> bool:
        """Wait for the thread to end; tell whether it did."""
        self._thread.join(timeout)
        return not self._thread.is_alive()
