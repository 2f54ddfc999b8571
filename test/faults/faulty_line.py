"""The pipeline as processes that a test may freeze and kill, in front of a camera that a test holds pictures to."""

import signal
import time

import cv2
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import SetBool
from wall_clock import WallClock

from edge_vision.demo.processes import Child
from models import mean_colours

NODES = ('camera', 'detector', 'decision', 'bridge')
FRAMERATE = 30.0
SIZE = 64  # pixels
PICTURES = 12
COMES_UP, ATTEMPTS = 20.0, 3  # s that a line may take to come up before it is started again, and how often it is
ASK_AGAIN = 2.0  # s


class Line:
    """All nodes of a pipeline, in one process or in one each.

    Args:
        mode: composed or separate.
        directory: For logs, pictures, model and spool.
        machine: Who listens.
        broker_port: Where the bridge sends events to.
        clock_library: To be preloaded, so that clocks can be stepped; None if there is none.

    """

    def __init__(self, mode, directory, machine, broker_port, clock_library):
        self.mode, self.machine = mode, machine
        self._directory = directory
        self._children = {}
        self._started = {}
        self._stopped = set()
        self._clients = {}
        self._whole = True
        self._show = directory / 'show'
        make_scenes(directory)
        model = mean_colours(directory / 'colours.onnx', input_size=(SIZE, SIZE))
        self._parameters = {
            'camera': {'video_device': self._show, 'framerate': FRAMERATE, 'loop': 'true', 'reopen_period': 0.1},
            'detector': {'model_file_path': model, 'backend': 'onnxruntime', 'threads': 1},
            'decision': {'rules': '["red"]', 'red.classes': '["red"]', 'red.min_score': 0.6, 'red.evidence': 'frame'},
            'bridge': {'broker.port': broker_port, 'spool.directory': directory / 'spool', 'device_id': 'faults'},
        }
        self.clocks = {}
        if clock_library is not None:
            self.clocks = {name: WallClock(clock_library, directory / f'{name}.offset') for name in self.names}
        self.show('moving')

    @property
    def names(self):
        """The processes, in the order in which they are started."""
        return ('pipeline',) if self.mode == 'composed' else tuple(reversed(NODES))

    def process_of(self, node):
        """The process that a node runs in."""
        return 'pipeline' if self.mode == 'composed' else node

    def pid(self, node):
        """The number of the process that a node runs in."""
        return self._children[self.process_of(node)].process.pid

    def show(self, scene):
        """Hold a scene to the camera: moving, red, frozen or black; nothing unplugs it."""
        link = self._directory / 'next'
        link.symlink_to(self._directory / scene)
        link.replace(self._show)

    def send(self, node, number):
        """Send a signal to the process that a node runs in."""
        name = self.process_of(node)
        self._children[name].process.send_signal(number)
        if number == signal.SIGSTOP:
            self._stopped.add(name)
        elif number == signal.SIGCONT:
            self._stopped.discard(name)
        elif number == signal.SIGKILL:
            self._stopped.discard(name)
            self._children.pop(name).wait()

    def step_clock(self, offset, node=None):
        """Let the wall clock of a node's process, or of all, be off by so many seconds."""
        for name in self.names:
            if node in {None, name}:
                self.clocks[name].set(offset)

    def change(self, node, **values):
        """Set numbers among the parameters of a running node."""
        request = SetParameters.Request()
        for name, value in values.items():
            typed = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
            request.parameters.append(Parameter(name=name, value=typed))
        answer = self._call(SetParameters, f'{node}/set_parameters', request)
        assert all(result.successful for result in answer.results), answer

    def enable_detector(self, on):
        """Let the detector detect, or not."""
        self._call(SetBool, 'detector/enable', SetBool.Request(data=on))

    def _call(self, service, name, request):
        """Call a service until it answers: an answer can be lost while the two are still getting to know each other."""
        if name not in self._clients:
            self._clients[name] = self.machine.create_client(service, name)
        client, asked = self._clients[name], []

        def answer():
            if client.service_is_ready() and (not asked or time.monotonic() > asked[-1][0] + ASK_AGAIN):
                asked.append((time.monotonic(), client.call_async(request)))
            return next((future for _, future in asked if future.done()), None)

        return self.machine.wait(answer, f'{name} answers').result()

    def start(self):
        """Start what is not running."""
        for name in self.names:
            if name not in self._children:
                self._started[name] = time.monotonic()
                self._children[name] = self._start(name)

    def _start(self, name):
        nodes = NODES if name == 'pipeline' else (name,)
        executable = name if name == 'pipeline' else f'{name}_node'
        chosen = [
            word
            for node in nodes
            for key, value in self._parameters[node].items()
            for word in ('-p', f'{node}:{key}:={value}')
        ]
        clock = self.clocks[name].environment if self.clocks else {}
        log = self._directory / f'{name}.{time.monotonic_ns()}.log'
        command = ['edge_vision.nodes', executable, '--ros-args', *chosen]
        return Child(name, command, log, clock)

    def put_in_order(self):
        """Make it whole for the next fault; what the last one left broken is started again."""
        if not self._whole:
            self.close()
        self._whole = False
        # After much killing DDS does not always find its way to who is new; that is no fault of these rows.
        if not any(self.heal(COMES_UP) or self.close() for _ in range(ATTEMPTS)):
            self.heal()
        self._whole = False
        self.machine.forget()

    def heal(self, patience=None):
        """Undo every fault and wait until the machine moves; False if that takes longer than ``patience``, s."""
        for name in tuple(self._stopped):
            self.send(name, signal.SIGCONT)
        for clock in self.clocks.values():
            clock.set(0)
        self.show('moving')
        self.start()
        if patience is None:
            self.machine.wait(self._runs, lambda: f'the machine moves; not a word from {self._silent()}')
        deadline = time.monotonic() + (patience or 0.0)
        while not self._runs():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        self._whole = True
        return True

    def _runs(self):
        for child in self._children.values():
            child.check()
        return not self._silent() and self.machine.moving

    def _silent(self):
        """List the nodes that have not reported since they were started."""
        started = self._started
        return [node for node in NODES if not self.machine.reported(node, started[self.process_of(node)])]

    def close(self):
        """End every process, whatever state it is in, and wait until the machine has noticed."""
        for child in self._children.values():
            child.process.kill()
            child.wait()
        self._children.clear()
        self._stopped.clear()
        self.machine.wait(lambda: not self.machine.moving, 'the machine is held')


def make_scenes(directory):
    """Write what can be held to the camera, each scene a folder of pictures to be shown in turn."""
    noise = np.random.default_rng(1)
    blocks = noise.integers(0, 200, (6, 6), dtype=np.uint8)  # large enough to count as something to see
    texture = cv2.resize(blocks, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)[..., None]
    black = noise.integers(0, 3, (SIZE, SIZE, 3), dtype=np.uint8)
    (directory / 'nothing').mkdir()
    for i in range(PICTURES):
        moving = np.roll(texture, i * SIZE // PICTURES, axis=1)
        write(directory / 'moving', i, np.concatenate([moving, moving, moving // 3], axis=2))
        write(directory / 'red', i, np.concatenate([moving // 3, moving // 3, 180 + moving // 4], axis=2))
        write(directory / 'frozen', i, np.repeat(texture, 3, axis=2))
        write(directory / 'black', i, np.roll(black, i, axis=0))


def write(folder, i, image):
    """Write picture ``i`` of a scene."""
    folder.mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / f'{i:02}.bmp'), image)
