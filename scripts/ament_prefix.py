"""Makes a virtual environment an ament prefix; scripts/setup installs this to run whenever its Python starts.

With it, launch files, configuration and models are found with no set-up script sourced. The environment goes last, so
that an overlay or a distro that is sourced comes first.
"""

import os
import sys

_prefixes = [path for path in os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if path]
if sys.prefix not in _prefixes:
    os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join([*_prefixes, sys.prefix])

# The ROS wheels restart Python once to find their libraries, and skip that where a parent process did it already.
# That parent may have been the Python of another environment.
if f'{sys.prefix}/lib' not in os.environ.get('LD_LIBRARY_PATH', '').split(os.pathsep):
    os.environ.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None)
