"""Starts camera, detector, decision and bridge, in one process or each in its own."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from edge_vision.share import fast_dds_environment

CONFIG = Path(get_package_share_directory('edge_vision'), 'config')
NODES = ('camera_node', 'detector_node', 'decision_node', 'bridge_node')
PUBLISH_IMAGES = ('pipeline', 'camera_node', 'detector_node')  # need room for them in shared memory
BOOLEANS = ('true', 'false', 'True', 'False')
LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
# Arguments that stand above the parameters file, by the name of their parameter, which only one node has.
OVERRIDES: dict[str, tuple[str, type, str]] = {
    'video_device': ('video_device', str, 'device, URL, file, folder or sim://conveyor'),
    'model_file_path': ('model_file_path', str, 'model file (.onnx, .xml)'),
    'broker_host': ('broker.host', str, 'MQTT broker'),
    'broker_port': ('broker.port', int, 'port of the broker'),
    'spool_directory': ('spool.directory', str, 'directory of the event store'),
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start what they ask for."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'composed', default_value='true', choices=BOOLEANS, description='All nodes in one process'
            ),
            DeclareLaunchArgument(
                'params_file', default_value=str(CONFIG / 'edge_vision.yaml'), description='Parameters of the nodes'
            ),
            DeclareLaunchArgument('namespace', default_value='', description='Namespace of nodes and topics'),
            DeclareLaunchArgument('log_level', default_value='info', choices=LEVELS, description='Least level logged'),
            DeclareLaunchArgument(
                'respawn', default_value='true', choices=BOOLEANS, description='Start a process again when it ends'
            ),
            *(
                DeclareLaunchArgument(name, default_value='', description=f'{text}; empty: as in params_file')
                for name, (_, _, text) in OVERRIDES.items()
            ),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Node]:
    """Make the processes; every one gets all parameters and takes what is its own.

    Raises:
        FileNotFoundError: There is no such parameters file; without its rules nothing would be stopped.

    """

    def given(name: str) -> str:
        return str(LaunchConfiguration(name).perform(context))

    params_file = Path(given('params_file')).expanduser()
    if not params_file.is_file():
        raise FileNotFoundError(f'params_file is {str(params_file)!r}, expected a file with parameters of the nodes')
    overrides = {
        parameter: ParameterValue(LaunchConfiguration(argument), value_type=kind)
        for argument, (parameter, kind, _) in OVERRIDES.items()
        if given(argument)
    }
    executables = ('pipeline',) if given('composed').lower() == 'true' else NODES
    return [
        Node(
            package='edge_vision',
            executable=executable,  # has no name= here: that would rename all the nodes in a process
            namespace=given('namespace'),
            parameters=[str(params_file), *([overrides] if overrides else [])],
            ros_arguments=['--log-level', given('log_level')],
            additional_env=fast_dds_environment() if executable in PUBLISH_IMAGES else {},
            output='screen',
            respawn=given('respawn').lower() == 'true',
            respawn_delay=1.0,
        )
        for executable in executables
    ]
