import pytest

from edge_vision import configuration
from edge_vision.errors import ConfigurationError
from edge_vision.params import BridgeParams, CameraParams, DetectorParams
from edge_vision.share import share_file


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        path = tmp_path / 'params.yaml'
        path.write_text(text)
        return configuration.read(path)

    return write_and_read


@pytest.mark.parametrize(
    ('key', 'node', 'holds'),
    [
        ('camera', '/camera', True),
        ('/camera', '/camera', True),
        ('camera', '/line1/camera', False),
        ('/**/camera', '/camera', True),
        ('/**/camera', '/a/b/camera', True),
        ('/**', '/a/b/camera', True),
        ('/*/camera', '/a/camera', True),
        ('/*/camera', '/a/b/camera', False),
        ('/line1/camera', '/line2/camera', False),
        ('/**/cam', '/camera', False),
    ],
)
def test_keys_hold_for_the_nodes_that_ros_gives_them_to(key, node, holds):
    assert configuration.matches(key, node) is holds


@pytest.mark.parametrize('name', ['config/edge_vision.yaml', 'config/demo.yaml', 'config/person_stop.yaml'])
def test_shipped_files_are_fine(name):
    (pipe,) = configuration.read(share_file(name))
    assert configuration.check(pipe) == ()


def test_a_pipeline_for_each_namespace_that_is_named(read):
    first, second = read(
        '/**: {ros__parameters: {framerate: 15.0}}\n'
        '/line1/camera: {ros__parameters: {video_device: /dev/video1}}\n'
        'line2: {camera: {ros__parameters: {video_device: /dev/video2, framerate: 5.0}}}\n'
    )
    assert (first.namespace, second.namespace) == ('/line1', '/line2')
    assert [p.params(CameraParams).video_device for p in (first, second)] == ['/dev/video1', '/dev/video2']
    assert [p.params(CameraParams).framerate for p in (first, second)] == [15.0, 5.0]


def test_what_is_not_written_takes_its_default_and_counts_as_not_configured(read):
    (pipe,) = read('bridge: {ros__parameters: {broker: {host: broker.example, port: 8883}, image_topics: []}}')
    assert pipe.configured == {'bridge'}
    assert pipe.params(BridgeParams).broker_host == 'broker.example'
    assert pipe.params(BridgeParams).broker_port == 8883
    assert pipe.params(BridgeParams).image_topics == BridgeParams().image_topics
    assert pipe.params(DetectorParams) == DetectorParams()


def test_a_parameter_for_all_nodes_configures_those_that_have_it(read):
    (pipe,) = read('/**: {ros__parameters: {broker.host: broker.example, use_sim_time: true}}')
    assert pipe.configured == {'bridge'}
    assert configuration.check(pipe) == ()


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('detector: {ros__parameters: {confidence_treshold: 0.5}}', "did you mean 'confidence_threshold'?"),
        ('detector: {ros__parameters: {confidence_threshold: 5}}', 'confidence_threshold is 5, expected a number'),
        ('camera: {ros__parameters: {framerate: fast}}', "camera: framerate is 'fast', expected a number"),
        ('decision: {ros__parameters: {rules: [a], a.action_type: halt}}', "a.action_type is 'halt', expected one of"),
        ('decision: {ros__parameters: {a.clases: [dent]}}', 'a.clases is not a parameter of this node'),
    ],
)
def test_what_a_node_would_refuse_is_told(read, text, sentence):
    (pipe,) = read(text)
    (wrong,) = configuration.check(pipe)
    assert sentence in wrong


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('a: [', 'is not YAML'),
        ('', 'has no ros__parameters'),
        ('camera: {framerate: 3}', 'has no ros__parameters'),
        ('- 1', 'has no ros__parameters'),
    ],
)
def test_what_is_no_parameters_file_is_refused(read, text, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        read(text)
