"""Starts the simulated line with the demo's rules, to be looked at with rqt, RViz or Foxglove.

Takes all the arguments of edge_vision.launch.py. No broker is needed: events wait on disk for one.
"""

import os
import tempfile
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

SHARE = Path(get_package_share_directory('edge_vision'))
DEFAULTS = {
    'params_file': (SHARE / 'config' / 'demo.yaml', 'Parameters of the nodes'),
    'video_device': ('sim://conveyor', 'sim://conveyor, with ?seed=2&speed=0.5 and the like, or another source'),
    # The robot's own events and those of a simulated line must not meet.
    'spool_directory': (
        Path(tempfile.gettempdir(), f'edge_vision_demo_{os.getuid()}', 'spool'),
        'Directory of the event store',
    ),
}


def generate_launch_description() -> LaunchDescription:
    """Give other defaults to arguments of edge_vision.launch.py and include it."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=str(value), description=text)
                for name, (value, text) in DEFAULTS.items()
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'edge_vision.launch.py'))),
        ]
    )
