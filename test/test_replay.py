import contextlib
import io
import itertools
import json
import math
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_vision import cli
from edge_vision.detector import Detector
from edge_vision.params import DecisionParams
from edge_vision.replay import Replay
from edge_vision.sight import Sight
from edge_vision.simulator.renderer import Renderer
from edge_vision.simulator.world import World
from edge_vision.yolov8 import candidates

RATE, SECONDS = 20.0, 6.0
PATIENCE = DecisionParams.release_consecutive_frames
RULES = """
/**/detector:
  ros__parameters:
    confidence_threshold: 0.25
/**/decision:
  ros__parameters:
    rules: ["defect", "anything"]
    defect.classes: ["scratch", "dent", "stain"]
    defect.min_score: 0.35
    defect.points: [0.45, 0.0, 0.75, 0.0, 0.75, 1.0, 0.45, 1.0]
    defect.anchor: "center"
    anything.action_type: "alarm"
"""


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """A line that runs on whatever comes, as a folder of pictures; and the frames with a flaw in the zone."""
    folder = tmp_path_factory.mktemp('recording')
    world, renderer = World(seed=3, defect_rate=0.5), Renderer(seed=3)
    world.set_run(True, 0.0)
    bad = []
    for i in range(round(RATE * SECONDS)):
        world.advance(i / RATE)
        cv2.imwrite(str(folder / f'{i:04}.jpg'), renderer.render(world.scene))
        boxes = [box for box in renderer.boxes(world.scene) if box.class_id != 'part']
        bad.append(any(0.45 * 640 <= (left + right) / 2 <= 0.75 * 640 for _, (left, _, right, _) in boxes))
    return folder, bad


@pytest.fixture(scope='module')
def rules(tmp_path_factory):
    path = tmp_path_factory.mktemp('rules') / 'rules.yaml'
    path.write_text(RULES)
    return path


@pytest.fixture(scope='module')
def seen(recording, rules, tmp_path_factory):
    """What the command said of the whole recording, and where it saved pictures."""
    saved = tmp_path_factory.mktemp('saved')
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.main([*words(recording[0], rules), '--framerate', str(RATE), '--json', '--save', str(saved)])
    assert code == 0
    return json.loads(out.getvalue()), saved


@pytest.fixture
def short(recording, tmp_path):
    """The part of the recording with the first entry."""
    folder = tmp_path / 'short'
    folder.mkdir()
    for path in sorted(recording[0].iterdir())[: entries(recording[1])[0] + 10]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def run(rules, capsys):
    def run(video, *more):
        code = cli.main([*words(video, rules), *map(str, more)])
        return code, capsys.readouterr()

    return run


def words(video, rules):
    return ['replay', str(video), '--params-file', str(rules)]


def entries(bad):
    """Frames in which a flaw comes into the zone, after long enough without one."""
    comes = [i for i, (before, now) in enumerate(pairwise(bad), 1) if now and not before]
    return [i for i in comes if not any(bad[max(0, i - PATIENCE - 1) : i])]


def test_every_flaw_that_enters_the_zone_stops_the_line_once(seen, recording):
    report, bad = seen[0], recording[1]
    stops = [held for held in report['causes'] if held['name'] == 'defect']
    assert report['frames'] == len(bad)
    assert len(entries(bad)) >= 2
    for i in entries(bad):
        assert sum(0 <= held['from_s'] * RATE - i <= 3 for held in stops) == 1
    for held in stops:
        assert any(bad[max(0, round(held['from_s'] * RATE) - 3) : round(held['from_s'] * RATE) + 1])
        assert held['class_id'] in {'scratch', 'dent', 'stain'}


def test_the_start_counts_as_unseen_until_enough_frames_were_looked_at(seen):
    start = seen[0]['causes'][0]
    assert (start['name'], start['from_s']) == ('starting', 0.0)
    assert start['to_s'] == pytest.approx(PATIENCE / RATE)  # the first picture has not changed from any other


def test_the_same_recording_gives_the_same_answer(run, short):
    first, second = (run(short, '--framerate', RATE)[1].out for _ in range(2))
    assert first == second
    assert 'stop      begins  defect: ' in first


def film(video, pictures):
    """Write pictures to a video, 10 a second."""
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 10.0, (640, 480))
    for path in pictures:
        writer.write(cv2.imread(str(path)))
    writer.release()
    return video


def test_a_video_keeps_its_own_time(run, recording, tmp_path):
    video = film(tmp_path / 'line.avi', sorted(recording[0].iterdir())[:15])
    report = json.loads(run(video, '--json')[1].out)
    assert (report['frames'], report['framerate'], report['duration_s']) == (15, 10.0, 1.5)


def test_the_picture_behind_a_cause_is_saved(seen):
    report, saved = seen
    names = {f'{c["from_s"]:09.3f}_{c["action"]}_{c["name"]}.jpg' for c in report['causes'] if 'class_id' in c}
    assert names
    assert {path.name for path in saved.iterdir()} == names


def test_a_frozen_recording_is_told(run, recording, tmp_path):
    frozen = tmp_path / 'frozen'
    frozen.mkdir()
    first = min(recording[0].iterdir()).read_bytes()
    for i in range(30):
        (frozen / f'{i:04}.jpg').write_bytes(first)
    report = json.loads(run(frozen, '--framerate', RATE, '--json')[1].out)
    held = report['held']['frozen']
    assert held['times'] == 1
    assert report['causes'][-1]['to_s'] is None


@pytest.mark.parametrize(
    ('given', 'reason'),
    [
        (['missing.mp4'], "VIDEO is 'missing.mp4', expected an existing video file or folder of pictures"),
        (['/dev/null'], "VIDEO is '/dev/null'"),
        (['.', '--framerate', '-1'], '--framerate is -1.0, expected a number above 0'),
        (['.', '--topic', 'other'], "--topic is 'other', expected one of ['detections']"),
        (['.', '--model', 'missing.onnx'], "model file 'missing.onnx' does not exist"),
        (['.', '--params-file', 'missing.yaml'], "--params-file is 'missing.yaml'"),
        ([''], 'VIDEO is empty'),
        (['.', '--namespace', 'line2'], "--namespace is 'line2', expected one of ['/']"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(run, recording, monkeypatch, given, reason):
    monkeypatch.chdir(Path(recording[0]))
    code, said = run(*given)
    assert code == 1
    assert reason in said.err
    assert said.err.count('\n') == 1


def test_a_file_that_the_nodes_would_refuse_is_refused(run, rules, short, tmp_path):
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text(rules.read_text().replace('defect.classes', 'defect.clases'))
    code, said = run(short, '--params-file', wrong)
    assert code == 1
    assert "did you mean 'defect.classes'" in said.err


def test_a_rule_that_would_never_act_is_warned_of(run, rules, short, tmp_path):
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text(rules.read_text().replace('"scratch"', '"scrach"'))
    code, said = run(short, '--params-file', wrong, '--json')
    assert code == 0
    assert "defect.classes holds 'scrach', which the detector does not report, did you mean 'scratch'?" in said.err
    assert json.loads(said.out)['frames']


def test_a_rule_for_what_the_detector_leaves_out_is_warned_of(run, rules, short, tmp_path):
    wrong = tmp_path / 'wrong.yaml'
    narrowed = 'classes: ["scratch", "dent"]\n    confidence_threshold: 0.5'
    wrong.write_text(rules.read_text().replace('confidence_threshold: 0.25', narrowed))
    code, said = run(short, '--params-file', wrong, '--json')
    assert code == 0
    assert "defect.classes holds 'stain'" in said.err
    assert "holds 'dent'" not in said.err
    assert 'defect.min_score is 0.35, below the confidence_threshold of the detector, 0.5' in said.err


class Network:
    """Sees a part in every picture; in the one that is told with a number that is none beside it."""

    name, input_size, labels = 'told', (64, 96), ('part',)

    def __init__(self, broken):
        self._broken, self._seen = broken, itertools.count()

    def infer(self, _image, _geometry, min_score):
        part, elsewhere = [48, 32, 20, 20, 0.9], [80, 50, 20, 20, 0.9]
        anchors = [elsewhere, [math.nan, *part[1:]]] if next(self._seen) == self._broken else [part]
        return candidates(np.array(anchors, np.float32).T, min_score)


def test_a_frame_whose_boxes_are_not_trusted_is_no_look_at_the_scene(recording):
    params, looks = DecisionParams(release_consecutive_frames=5), {}
    for broken in (2, -1):
        sight = Sight(Detector(Network(broken)), tracking=True)
        replay = Replay(str(recording[0]), sight, params=params, rules=(), topic='detections', framerate=RATE)
        looks[broken] = list(itertools.islice(replay.looks(), 12))
    stopped = {broken: [look.outcome.command.stop for look in looks[broken]].index(False) for broken in looks}
    assert stopped[2] - stopped[-1] >= 2  # it begins to count again behind the broken one


def test_pipelines_of_a_file_are_told_apart_by_their_namespace(run, rules, short, tmp_path):
    two = tmp_path / 'two.yaml'
    two.write_text(rules.read_text().replace('/**/', '/line1/') + rules.read_text().replace('/**/', '/line2/'))
    code, said = run(short, '--params-file', two, '--json')
    assert (code, said.out) == (1, '')
    assert "expected one of ['/line1', '/line2']" in said.err
    assert run(short, '--params-file', two, '--namespace', 'line2', '--json')[0] == 0


def test_a_recording_that_is_cut_off_is_warned_of(run, recording, tmp_path):
    video = film(tmp_path / 'line.avi', sorted(recording[0].iterdir())[:30])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    code, said = run(video, '--json')
    assert code == 0
    assert 'is it cut off?' in said.err
