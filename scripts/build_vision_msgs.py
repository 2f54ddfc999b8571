"""Build the messages of interfaces/vision_msgs into the virtual environment whose Python runs this.

The ROS wheels bring the rosidl generators but no vision_msgs. What ament_cmake would do is done here directly:
translate, hash, generate, compile, install. That takes seconds, a C++ compiler and nothing else. The result is a
package like any other of the environment: importable, in the ament index, and with the type hashes of the distro's
vision_msgs, so that both understand each other.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rosidl_adapter.msg import convert_msg_to_idl
from rosidl_cli.command.hash.api import generate_type_hashes

PACKAGE = 'vision_msgs'
SOURCE = Path(__file__).resolve().parent.parent / 'interfaces' / PACKAGE
DEPENDENCIES = ('geometry_msgs', 'std_msgs', 'builtin_interfaces')
PREFIX = Path(sys.prefix)
SHARE = PREFIX / 'share'


class Library(NamedTuple):
    """One shared library of a message package; all its sources come from one generator.

    Attributes:
        generator: Package that generates the sources; also the ending of the library's name.
        command: Class of that package's command line interface.
        sources: Pattern of the sources to compile, within the generated package.
        own: Libraries of this package to link, by generator.
        runtime: Other libraries to link.
        implementations: Type supports that the generated code is to use.

    """

    generator: str
    command: str
    sources: str
    own: tuple[str, ...] = ('rosidl_generator_c',)
    runtime: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()


LIBRARIES = (  # each may link those above it
    Library('rosidl_generator_c', 'GenerateC', 'msg/detail/*.c', own=()),
    Library(
        'rosidl_typesupport_fastrtps_c',
        'GenerateFastRTPSCTypesupport',
        'msg/detail/*.cpp',
        runtime=('rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_fastrtps_cpp', 'fastcdr', 'rmw'),
    ),
    Library(
        'rosidl_typesupport_introspection_c',
        'GenerateIntrospectionCTypesupport',
        'msg/detail/*.c',
        runtime=('rosidl_typesupport_introspection_c',),
    ),
    Library(
        'rosidl_typesupport_c',
        'GenerateCTypesupport',
        'msg/*.cpp',
        runtime=('rosidl_typesupport_c',),
        implementations=('rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_introspection_c'),
    ),
    Library(
        'rosidl_generator_py',
        'GeneratePython',
        'msg/*.c',
        own=('rosidl_generator_c', 'rosidl_typesupport_c'),
        implementations=('rosidl_typesupport_c',),
    ),
)
EXTENSION = f'{PACKAGE}_s__rosidl_typesupport_c'


class Interfaces(NamedTuple):
    """The messages, in the form that the generators take.

    Attributes:
        idl_files: The translated messages, each as 'folder:file'.
        include_paths: Folders with the messages of the dependencies.
        descriptions: JSON files with the type hashes.

    """

    idl_files: list[str]
    include_paths: list[str]
    descriptions: list[Path]


def translate(source: Path, work: Path) -> Interfaces:
    """Write the messages of source/msg as IDL, and their type hashes as JSON, to work/msg."""
    messages = sorted(path.relative_to(source) for path in source.glob('msg/*.msg'))
    idl_files = [f'{work}:msg/{convert_msg_to_idl(source, PACKAGE, path, work / "msg").name}' for path in messages]
    include_paths = [str(SHARE / name) for name in DEPENDENCIES]
    descriptions = generate_type_hashes(
        package_name=PACKAGE, interface_files=idl_files, include_paths=include_paths, output_path=work
    )
    return Interfaces(idl_files, include_paths, descriptions)


def generate(library: Library, interfaces: Interfaces, work: Path) -> None:
    """Generate the sources of a library into its own folder of work."""
    command = getattr(importlib.import_module(f'{library.generator}.cli'), library.command)
    options = {'typesupport_implementations': list(library.implementations)} if library.implementations else {}
    extra = {'type_description_files': interfaces.descriptions} if library == LIBRARIES[0] else {}
    command(library.generator, **options).generate(
        PACKAGE, interfaces.idl_files, interfaces.include_paths, work / library.generator / PACKAGE, **extra
    )


def include_flags(work: Path) -> list[str]:
    """Return the flags for the headers of the generated code, the ROS packages, Python and numpy."""
    include = PREFIX / 'include'
    packages = [path for path in include.iterdir() if (path / path.name).is_dir()]
    generated = [work / library.generator for library in LIBRARIES]
    return [f'-I{path}' for path in (*generated, include, *packages, sysconfig.get_path('include'), np.get_include())]


def compile_shared(sources: list[Path], target: Path, *, includes: list[str], links: list[str]) -> None:
    """Compile and link sources of one language into a shared library; exit with the compiler's words if it fails."""
    compiler = os.environ.get('CC', 'cc')
    if sources[0].suffix == '.cpp':  # as one unit: nearly all of the time goes into the headers
        compiler = os.environ.get('CXX', 'c++')
        unit = target.with_suffix('.cpp')
        unit.write_text(''.join(f'#include "{path}"\n' for path in sources))
        sources = [unit]
    paths = [f'-L{target.parent}', f'-L{PREFIX / "lib"}', f'-Wl,-rpath,{PREFIX / "lib"}']
    command = [compiler, '-shared', '-fPIC', '-O1', '-w', *includes, *map(str, sources), '-o', str(target), *paths]
    command += [f'-l{name}' for name in links]
    result = subprocess.run(command, check=False, text=True, capture_output=True)  # noqa: S603
    if result.returncode:
        sys.exit(f'{result.stderr}\n{compiler} could not build {target.name} of {PACKAGE}; its own words are above')


def compile_library(library: Library, work: Path, includes: list[str]) -> None:
    """Compile a library into work/lib; the libraries of its own package that it links must be there."""
    links = [f'{PACKAGE}__{name}' for name in library.own]
    links += [f'{name}__{library.generator}' for name in DEPENDENCIES]
    links += [f'{name}__rosidl_generator_c' for name in DEPENDENCIES]
    links += [*library.runtime, 'rosidl_runtime_c', 'rcutils']
    sources = sorted((work / library.generator / PACKAGE).glob(library.sources))
    target = work / 'lib' / f'lib{PACKAGE}__{library.generator}.so'
    compile_shared(sources, target, includes=includes, links=links)


def compile_all(work: Path) -> None:
    """Compile the libraries and the Python extension into work/lib, side by side where they do not need each other."""
    (work / 'lib').mkdir()
    includes = include_flags(work)
    first, *others, last = LIBRARIES
    build = partial(compile_library, work=work, includes=includes)
    build(first)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, others))
    build(last)
    entry = [*(work / last.generator / PACKAGE).glob(f'*.ep.{last.implementations[0]}.c')]
    links = [f'{PACKAGE}__{name}' for name in (*last.own, last.generator)]
    compile_shared(entry, work / 'lib' / f'{EXTENSION}.so', includes=includes, links=links)


def install(source: Path, work: Path) -> None:
    """Put the libraries, the Python package, the definitions and the index entries into the environment."""
    module = Path(sysconfig.get_path('platlib')) / PACKAGE
    for folder in (module, SHARE / PACKAGE):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / LIBRARIES[-1].generator / PACKAGE, module, ignore=shutil.ignore_patterns('*.c'))
    (module / '__init__.py').touch()
    shutil.move(work / 'lib' / f'{EXTENSION}.so', module)
    for path in (work / 'lib').glob('*.so'):
        shutil.copy2(path, PREFIX / 'lib')
    shutil.copytree(work / 'msg', SHARE / PACKAGE / 'msg')
    shutil.copytree(source / 'msg', SHARE / PACKAGE / 'msg', dirs_exist_ok=True)
    shutil.copy2(source / 'package.xml', SHARE / PACKAGE)
    register(sorted(path.name for path in (SHARE / PACKAGE / 'msg').iterdir() if path.suffix != '.json'))


def register(interface_files: list[str]) -> None:
    """Enter the package and its interface files into the ament index."""
    index = SHARE / 'ament_index' / 'resource_index'
    (index / 'packages' / PACKAGE).touch()
    (index / 'package_run_dependencies' / PACKAGE).write_text(';'.join(DEPENDENCIES))
    (index / 'rosidl_interfaces' / PACKAGE).write_text(''.join(f'msg/{name}\n' for name in interface_files))


def main() -> None:
    """Build and install the messages."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        interfaces = translate(SOURCE, work)
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(generate, interfaces=interfaces, work=work), LIBRARIES))
        compile_all(work)
        install(SOURCE, work)


if __name__ == '__main__':
    main()
