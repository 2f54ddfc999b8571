"""Installs edge_vision, with pip as well as with colcon; name and version come from package.xml."""

from pathlib import Path
from xml.etree import ElementTree as ET

from setuptools import find_packages, setup

COMMANDS = (
    'bench',
    'bridge_node',
    'build-engine',
    'camera_node',
    'cloud-sink',
    'decision_node',
    'demo',
    'detect',
    'detector_node',
    'doctor',
    'pipeline',
    'replay',
    'validate',
)

manifest = ET.parse('package.xml').getroot()  # noqa: S314
name = manifest.findtext('name')


def files(folder: str) -> list[str]:
    """Return the files directly in a folder of the package, without what is built on the spot."""
    return sorted(str(path) for path in Path(folder).iterdir() if path.is_file() and path.suffix != '.engine')


setup(
    name=name,
    version=manifest.findtext('version'),
    description=manifest.findtext('description'),
    maintainer=manifest.findtext('maintainer'),
    maintainer_email=manifest.find('maintainer').get('email'),
    license=manifest.findtext('license'),
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name: ['cuda/*.cu']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{name}']),
        (f'share/{name}', ['package.xml']),
        *((f'share/{name}/{folder}', files(folder)) for folder in ('config', 'launch', 'models')),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools'],
    zip_safe=False,
    entry_points={
        'console_scripts': [
            f'{name} = {name}.cli:main',
            *(f'{command} = {name}.cli:{command.replace("-", "_")}' for command in COMMANDS),
        ],
    },
)
