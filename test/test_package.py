"""What the package installs is where ROS tools and users look for it, with pip as with colcon."""

import configparser
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edge_vision import cli

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {*cli.COMMANDS, *cli.NODES}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Unpack the wheel that pip makes of the checkout; return the folder."""
    source = tmp_path_factory.mktemp('source') / 'edge_vision'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.*', '*.egg-info', '__pycache__', 'build', 'test'))
    folder = source.parent / 'wheel'
    command = [sys.executable, 'setup.py', '-q', 'bdist_wheel', '--keep-temp', '--bdist-dir', folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return folder


@pytest.fixture(scope='module')
def entry_points(wheel):
    """Read the wheel's console scripts."""
    parser = configparser.ConfigParser()
    parser.read(next(wheel.glob('*.dist-info')) / 'entry_points.txt')
    return dict(parser['console_scripts'])


def test_name_and_version_are_those_of_package_xml(wheel):
    manifest = ET.parse(ROOT / 'package.xml').getroot()
    expected = f'{manifest.findtext("name")}-{manifest.findtext("version")}.dist-info'
    assert [path.name for path in wheel.glob('*.dist-info')] == [expected]


def test_every_command_is_an_executable_of_its_own(entry_points):
    assert set(entry_points) == {'edge_vision', *COMMANDS}


def test_every_executable_calls_something(entry_points):
    functions = [target.removeprefix('edge_vision.cli:') for target in entry_points.values()]
    assert all(callable(getattr(cli, name)) for name in functions)


def test_every_file_for_launch_and_configuration_is_installed(wheel):
    share = next(wheel.glob('*.data')) / 'data' / 'share'
    files = [path.relative_to(ROOT) for name in ('launch', 'config', 'models') for path in (ROOT / name).glob('*.*')]
    installed = [path for path in files if path.suffix != '.engine']
    assert installed
    assert [path for path in installed if not (share / 'edge_vision' / path).is_file()] == []


def test_package_is_in_the_ament_index(wheel):
    data = next(wheel.glob('*.data')) / 'data'
    assert (data / 'share/ament_index/resource_index/packages/edge_vision').is_file()
    assert (data / 'share/edge_vision/package.xml').is_file()


def test_every_module_and_kernel_is_installed(wheel):
    sources = (path for suffix in ('py', 'cu') for path in (ROOT / 'edge_vision').rglob(f'*.{suffix}'))
    modules = [path.relative_to(ROOT) for path in sources]
    assert {path.suffix for path in modules} == {'.py', '.cu'}
    assert [path for path in modules if not (wheel / path).is_file()] == []


def test_environment_made_by_setup_is_an_ament_prefix():
    ament_index = pytest.importorskip('ament_index_python')
    if not Path(sys.prefix, '.package.done').exists():
        pytest.skip('this Python is not in an environment made by scripts/setup')
    share = Path(ament_index.get_package_share_directory('edge_vision'))
    executables = Path(ament_index.get_package_prefix('edge_vision'), 'lib', 'edge_vision')
    assert (share / 'config').is_dir()
    assert {path.name for path in executables.iterdir()} == {'edge_vision', *COMMANDS}


def test_command_starts_without_any_environment_variable():
    script = Path(sys.prefix, 'bin', 'edge_vision')
    if not script.exists():
        pytest.skip('edge_vision is not installed in this environment')
    result = subprocess.run([script, '--help'], env={}, check=False, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)


def test_installed_version_is_that_of_package_xml():
    manifest = ET.parse(ROOT / 'package.xml').getroot()
    assert distribution('edge_vision').version == manifest.findtext('version')
