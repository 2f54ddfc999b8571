"""Every row of the fail-safe table, with real processes and real signals.

What is asserted is order, never speed: that the machine is held, by what, that nothing lets it move until the fault is
gone, and that it goes on afterwards. The times go into the table (``--faults-table``).
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_line import FRAMERATE
from machine import LOCK_TIMEOUT

from edge_vision.nodes import diagnostics
from edge_vision.params import DecisionParams

DEFAULTS = DecisionParams()
TICK = 0.02  # s
FRAME = 1.0 / FRAMERATE  # s
UNSEEN = DEFAULTS.source_timeout + TICK  # s from the last picture to the stop
SLACK = 1.0  # s that a fault lasts on after it was noticed, and that a busy machine may add to an age
LATE = 5.0  # s beyond the bound, which no machine is busy enough for
HOUR = 3600.0  # s
WAKINGS = 5
TURN, SHARE = 0.05, 0.1  # s that a starved process runs in a row, and share of the time that it runs
PATIENT = 5.0  # s of source_timeout where only a real stop may stop
FRESH = f'{DEFAULTS.release_consecutive_frames} fresh pictures'

separate = pytest.mark.parametrize('started', ['separate'], indirect=True)


class Fault:
    """A stretch of time in which something is wrong."""

    def __init__(self, machine):
        self._machine = machine
        self.begin, self.begin_sent = time.monotonic(), time.time()

    def wait(self, condition, what):
        return self._machine.wait(condition, what)

    def stopped_by(self, cause):
        """Wait for a state that names a cause; return the first stop of those that it is about."""
        said = self.wait(lambda: self._states(cause), f'stop by {cause}')[0]
        self.wait(lambda: self._machine.stops(said.sent), 'all stops before it have arrived')
        stops = [t for t in self._machine.log[:] if t.topic == 'stop' and t.sent <= said.sent]
        stop = stops[-1]
        for told in reversed(stops):
            if not told.value:
                break
            stop = told
        return stop

    def _states(self, cause):
        log = self._machine.log[:]
        return [t for t in log if t.topic == 'state' and t.at >= self.begin and f'stop: {cause}' in t.value]

    def last_until(self, at):
        """Let it last."""
        self.wait(lambda: time.monotonic() > at, 'time passes')


def holds_while(line, note, inject, undo=None, *, fault, cause, bound, released_by=FRESH):
    """Put a fault into a line, and see that the decision says stop until it is gone; `Line.heal` undoes the rest."""
    machine = line.machine
    trouble = Fault(machine)
    inject()
    stop = trouble.stopped_by(cause)
    trouble.last_until(max(stop.at, trouble.begin + bound) + SLACK)
    healed = time.time()
    moves = machine.moves(stop.sent, healed)
    if undo is not None:
        undo()
    line.heal()
    note(
        fault=fault,
        held_by=f'stop, `{cause}`',
        held_after=max(0.0, stop.at - trouble.begin),
        bound=bound,
        moves=len(moves),
        released_by=released_by,
    )
    assert not moves
    assert stop.at < trouble.begin + bound + LATE
    if cause == 'no_fresh_image':
        assert machine.oldest_move(trouble.begin_sent, healed) < UNSEEN + SLACK


def test_unplugged_camera_holds_the_machine(line, note):
    holds_while(
        line, note, lambda: line.show('nothing'), fault='camera unplugged', cause='no_fresh_image', bound=UNSEEN + FRAME
    )


def test_detector_that_does_not_detect_holds_the_machine(line, note):
    holds_while(
        line,
        note,
        lambda: line.enable_detector(False),
        lambda: line.enable_detector(True),
        fault='detector disabled by `~/enable`',
        cause='no_fresh_image',
        bound=UNSEEN,
    )


@separate
@pytest.mark.parametrize('number', [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize('node', ['camera', 'detector'])
def test_dead_source_holds_the_machine(line, note, node, number):
    holds_while(
        line,
        note,
        lambda: line.send(node, number),
        fault=f'{node} {number.name}',
        cause='no_fresh_image',
        bound=UNSEEN,
        released_by=f'{FRESH} after {"SIGCONT" if number == signal.SIGSTOP else "restart"}',
    )


def test_frozen_picture_holds_the_machine(line, note):
    holds_while(
        line,
        note,
        lambda: line.show('frozen'),
        fault='picture frozen, stamps go on',
        cause='frozen',
        bound=DEFAULTS.frozen_timeout + FRAME + TICK,
        released_by='changing pictures',
    )


def test_black_picture_holds_the_machine(line, note):
    holds_while(
        line,
        note,
        lambda: line.show('black'),
        fault='picture black',
        cause='blinded',
        bound=DEFAULTS.blinded_timeout + FRAME + TICK,
        released_by='usable pictures',
    )


def test_frozen_decision_lets_the_lock_engage_and_wakes_up_stopped(line, machine, note):
    wrong = []
    for _ in range(WAKINGS):
        trouble = Fault(machine)
        line.send('decision', signal.SIGSTOP)
        held = machine.wait(lambda: machine.held_since(trouble.begin), 'the lock engages')  # noqa: B023
        noticed = noticed_by(machine, trouble)
        trouble.last_until(held + UNSEEN)
        woken = time.time()
        line.send('decision', signal.SIGCONT)
        stop = machine.wait(lambda: next((t for t in machine.stops(woken) if t.value), None), 'it says stop')  # noqa: B023
        wrong.append(machine.moves(woken, stop.sent))
        line.heal()
    note(
        fault=f'{line.process_of("decision")} SIGSTOP',
        held_by=f'lock timeout{noticed}',
        held_after=held - trouble.begin,
        bound=LOCK_TIMEOUT,
        moves=sum(map(len, wrong)),
        released_by=f'{FRESH} after SIGCONT',
    )
    # A command may have been on its way out of the process when that was frozen, but hardly ever.
    assert sum(bool(moves) for moves in wrong) <= 1, wrong


def noticed_by(machine, trouble):
    """Wait until the middleware has told that nobody says anything any more; nothing where that is not offered."""
    if not machine.hears_silence:
        return ''
    times = [
        f'{what} after {machine.wait(lambda: machine.after(what, trouble.begin), what).at - trouble.begin:.2f} s'  # noqa: B023
        for what in ('deadline missed', 'liveliness lost')
    ]
    return f'; {", ".join(times)}'


def test_killed_decision_starts_stopped_and_releases_on_fresh_pictures_only(line, machine, note):
    trouble = Fault(machine)
    line.send('decision', signal.SIGKILL)
    held = machine.wait(lambda: machine.held_since(trouble.begin), 'the lock engages')
    noticed = noticed_by(machine, trouble)
    trouble.last_until(held + SLACK)
    silent = machine.moves(trouble.begin_sent + LOCK_TIMEOUT, time.time())
    line.show('nothing')
    restarted = time.time()
    line.start()
    stop = machine.wait(lambda: next(iter(machine.stops(restarted)), None), 'it is back')
    trouble.last_until(stop.at + UNSEEN + SLACK)
    unseen = machine.moves(restarted, time.time())
    line.heal()
    note(
        fault=f'{line.process_of("decision")} SIGKILL',
        held_by=f'lock timeout{noticed}; after restart stop, `starting`',
        held_after=held - trouble.begin,
        bound=LOCK_TIMEOUT,
        moves=len(silent) + len(unseen),
        released_by=f'{FRESH} after restart',
    )
    assert stop.value
    assert not silent
    assert not unseen


@pytest.mark.parametrize('step', [HOUR, -HOUR], ids=['forward', 'back'])
def test_step_of_the_wall_clock_neither_releases_nor_blinds(line, machine, note, step):
    need_clocks(line)
    held = Fault(machine)
    line.show('nothing')
    stop = held.stopped_by('no_fresh_image')
    held.last_until(stop.at + 0.1)
    stepped = time.monotonic()
    line.step_clock(step)
    held.last_until(stepped + UNSEEN + SLACK)
    released = [told for told in machine.log[:] if told.moves and told.at > stepped]
    line.show('moving')
    keeps_moving(machine)
    line.step_clock(0.0)
    keeps_moving(machine)
    running = Fault(machine)
    line.show('nothing')
    stop = machine.wait(lambda: machine.first('stop', running.begin), 'it says stop')
    line.heal()
    note(
        fault=f'wall clock of all stepped {"forward" if step > 0 else "back"} by 1 h',
        held_by='stop, `no_fresh_image`, camera unplugged meanwhile',
        held_after=stop.at - running.begin,
        bound=UNSEEN + FRAME,
        moves=len(released),
        released_by=FRESH,
    )
    assert not released


def keeps_moving(machine):
    """Wait until the machine moves by what is repeated, not only by what changed."""
    machine.wait(lambda: machine.moving, 'it moves')
    Fault(machine).last_until(time.monotonic() + 2 * LOCK_TIMEOUT)
    machine.wait(lambda: machine.moving, 'it still moves')


@separate
@pytest.mark.parametrize('step', [HOUR, -HOUR], ids=['forward', 'back'])
def test_camera_whose_clock_is_wrong_holds_the_machine(line, note, step):
    need_clocks(line)
    holds_while(
        line,
        note,
        lambda: line.step_clock(step, 'camera'),
        fault=f"camera's clock alone stepped {'forward' if step > 0 else 'back'} by 1 h",
        cause='no_fresh_image',
        bound=UNSEEN,
    )


def need_clocks(line):
    if not line.clocks:
        pytest.skip('there is no C compiler to build the clock with (apt install gcc, or name one by CC)')


def test_overloaded_machine_never_moves_on_old_pictures(line, machine, note):
    trouble = Fault(machine)
    with busy(8 * os.cpu_count()):
        trouble.last_until(trouble.begin + 3.0)
    oldest = machine.oldest_move(trouble.begin_sent, time.time())
    stops = machine.times_stopped(trouble.begin)
    line.heal()
    note(
        fault=f'CPU overload, {8 * os.cpu_count()} busy processes for 3 s',
        held_by=f'stopped {stops} times; the newest picture at a command to move was at most {oldest:.2f} s old',
        bound=UNSEEN,
        released_by=FRESH,
    )
    assert oldest < UNSEEN + SLACK


@separate
def test_detector_that_gets_too_little_of_a_cpu_holds_the_machine(line, note):
    starving = Starving(line)
    holds_while(
        line,
        note,
        starving.begin,
        starving.end,
        fault=f'detector gets {SHARE:.0%} of the time, {TURN} s in a row',
        cause='no_fresh_image',
        bound=UNSEEN,
    )


class Starving:
    """Lets the detector run for a small share of the time, as too much else to do would."""

    def __init__(self, line):
        self._line, self._enough = line, threading.Event()
        self._thread = threading.Thread(target=self._ration, daemon=True)

    def _ration(self):
        while not self._enough.is_set():
            self._line.send('detector', signal.SIGSTOP)
            self._enough.wait(TURN / SHARE - TURN)
            self._line.send('detector', signal.SIGCONT)
            self._enough.wait(TURN)

    def begin(self):
        self._thread.start()

    def end(self):
        self._enough.set()
        self._thread.join()


@contextmanager
def busy(count):
    """Keep the CPUs busy."""
    loops = [subprocess.Popen(['timeout', '60', 'sh', '-c', 'while :; do :; done']) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.terminate()
        for loop in loops:
            loop.wait()


@contextmanager
def flood(kind, count=0):
    """Flood a topic; gives a function that ends it and tells how many messages per second it sent."""
    command = [sys.executable, Path(__file__).with_name('flood.py'), kind, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert 'flooding\n' in process.stdout  # Fast DDS 2.14 prints its errors there, too
            yield process
        finally:
            process.kill()


def rate(process):
    """End a flood; return how many messages per second it sent."""
    process.kill()
    return int([line for line in process.stdout.read().splitlines() if line.isdigit()][-1])


def test_flood_of_speeds_passes_no_stop(line, machine, note):
    with flood('cmd_vel_in') as flooding:
        shown = Fault(machine)
        line.show('red')
        stop = shown.stopped_by('red')
        shown.last_until(stop.at + SLACK)
        moves = machine.moves(stop.sent, time.time())
        per_second = rate(flooding)
    line.heal()
    note(
        fault=f'flood of {round(per_second, -2)} `cmd_vel_in` per second',
        held_by='stop, `red` shown meanwhile',
        held_after=stop.at - shown.begin,
        moves=len(moves),
        released_by=FRESH,
    )
    assert not moves


@separate
def test_flood_of_detections_that_are_not_new_releases_nothing(line, machine, note):
    with flood('looks_again') as flooding:
        shown = Fault(machine)
        line.show('red')
        held = machine.wait(lambda: machine.held_since(shown.begin), 'it is held')
        shown.last_until(max(held, shown.begin + UNSEEN) + SLACK)
        line.show('nothing')
        unplugged = Fault(machine)
        stop = unplugged.stopped_by('')
        unplugged.last_until(unplugged.begin + UNSEEN + SLACK)
        moves = machine.moves(shown.begin_sent + UNSEEN + SLACK, time.time())
        per_second = rate(flooding)
    line.heal()
    note(
        fault=f'flood of {round(per_second, -2)} old, repeated and future detections per second',
        held_by='stop, `red` shown meanwhile',
        held_after=held - shown.begin,
        moves=len(moves),
        released_by=FRESH,
    )
    assert stop.value
    assert not moves


@separate
def test_malformed_detections_are_dropped_and_release_nothing(line, machine, note):
    unplugged = Fault(machine)
    line.show('nothing')
    stop = unplugged.stopped_by('no_fresh_image')
    before = figures(machine, unplugged)
    with flood('malformed', 10_000) as flooding:
        machine.wait(lambda: flooding.poll() is not None, 'all are sent')
    sent = Fault(machine)
    after = figures(machine, sent)
    moves = machine.moves(stop.sent, time.time())
    line.heal()
    dropped = after['malformed'] - before['malformed']
    note(
        fault='10 000 malformed detections',
        held_by=f'stop, `no_fresh_image`; {dropped} taken and dropped, 0 decided on',
        moves=len(moves),
        released_by=FRESH,
    )
    assert dropped > 0
    assert after['decided'] == before['decided']
    assert not moves


def figures(machine, since):
    """Wait for the decision's next but one report, which is all about the time after a fault, and return its counts."""
    status = machine.wait(lambda: machine.reported('decision', since.begin + 1.0), 'it reports')
    return {pair.key: int(pair.value) for pair in status.values if pair.key in {'malformed', 'decided'}}


def leaves_the_stop_alone(line, note, inject, *, fault):
    """Put a fault into a line that must not stop it, and see that a defect still does."""
    machine = line.machine
    trouble = Fault(machine)
    inject()
    trouble.last_until(trouble.begin + SLACK)
    stops = machine.times_stopped(trouble.begin)
    shown = Fault(machine)
    line.show('red')
    stop = shown.stopped_by('red')
    shown.last_until(stop.at + SLACK)
    moves = machine.moves(stop.sent, time.time())
    line.show('moving')
    machine.wait(lambda: machine.moving, 'it goes on in spite of the fault')
    note(
        fault=fault,
        held_by='not by the fault; stop, `red` shown meanwhile',
        held_after=stop.at - shown.begin,
        moves=len(moves),
        released_by='clear pictures, fault still there',
    )
    assert not stops
    assert not moves


@pytest.fixture
def patient(line):
    """Let no pause of a busy machine stop it."""
    line.change('decision', source_timeout=PATIENT)
    yield line
    line.heal()
    line.change('decision', source_timeout=DEFAULTS.source_timeout)


@separate
@pytest.mark.parametrize('number', [signal.SIGSTOP, signal.SIGKILL], ids=lambda number: number.name)
def test_bridge_that_is_gone_leaves_the_stop_alone(patient, note, number):
    leaves_the_stop_alone(patient, note, lambda: patient.send('bridge', number), fault=f'bridge {number.name}')


def test_broker_that_hangs_leaves_the_stop_alone(patient, broker, note):
    need_broker(broker)
    try:
        leaves_the_stop_alone(patient, note, lambda: broker.send_signal(signal.SIGSTOP), fault='broker SIGSTOP')
    finally:
        broker.send_signal(signal.SIGCONT)


def test_broker_that_is_gone_leaves_the_stop_alone(patient, broker, note):
    need_broker(broker)
    killed = Fault(patient.machine)
    try:
        leaves_the_stop_alone(patient, note, broker.kill, fault='broker SIGKILL')
        patient.machine.wait(
            lambda: in_error(patient.machine, 'bridge', killed), lambda: patient.machine.health['bridge']
        )
    finally:
        broker.start()


def need_broker(broker):
    if broker is None:
        pytest.skip('mosquitto is not installed (apt install mosquitto)')


def test_full_disk_leaves_the_stop_alone(patient, note):
    pid = patient.pid('bridge')
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    filled = Fault(patient.machine)
    try:
        leaves_the_stop_alone(
            patient, note, lambda: resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard)), fault='disk full'
        )
        patient.machine.wait(
            lambda: in_error(patient.machine, 'bridge', filled), lambda: patient.machine.health['bridge']
        )
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def in_error(machine, node, since):
    """Whether a node's diagnostics say ERROR since a fault."""
    status = machine.reported(node, since.begin)
    return status is not None and status.level == diagnostics.ERROR
