"""ROS 2 and its middleware: what the nodes need, and what pictures between processes need."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..share import fast_dds_environment
from . import programs
from .findings import OK, Finding, absent, ok, problem
from .machine import amount, in_container, text_of

DISTROS = Path('/opt/ros')
SHARED_MEMORY = Path('/dev/shm')  # noqa: S108  where Fast DDS keeps its own
SEGMENT = 17 << 20  # bytes that a process with the shipped profile takes
PROCESSES = 4
HIGHEST_DOMAIN = 101  # whose ports are below those that Linux gives to outgoing connections
SOCKET_BUFFER = {'rmw_fastrtps_cpp': 4 << 20, 'rmw_cyclonedds_cpp': 16 << 20}  # bytes for a picture
RANGES = ('SUBNET', 'LOCALHOST', 'OFF', 'SYSTEM_DEFAULT')
NOT_OVER_UDP = ('rmw_zenoh_cpp',)


def probe() -> Iterator[Finding]:
    """Look at ROS."""
    found = programs.child('ros')
    yield from packages(found)
    rmw = str(found.get('rmw') or os.environ.get('RMW_IMPLEMENTATION') or '')
    yield from middleware(rmw)
    yield discovery(os.environ)
    if 'fastrtps' in rmw:
        yield shared_memory()
    if rmw and rmw not in NOT_OVER_UDP:
        yield socket_buffers(text_of('/proc/sys/net/core/rmem_max'), rmw)


def packages(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge rclpy and the packages of messages."""
    distro = os.environ.get('ROS_DISTRO', '')
    if 'trouble' in found:
        yield problem('ROS 2', f'rclpy cannot be used: {found["trouble"]}', *way_to_ros(distro), needed=True)
        return
    origin = (
        f'{distro.capitalize()}, {os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)[-1]}'
        if distro
        else 'wheels'
    )
    yield ok('ROS 2', f'rclpy {found["version"]}'.strip() + f' ({origin})')
    missing = [name for name in found['missing'] if name != 'cv_bridge']
    if missing:
        yield problem('messages', f'{", ".join(missing)} not installed', *way_to(missing, distro), needed=True)
    else:
        yield ok('messages', 'vision_msgs and all others')
    if 'cv_bridge' in found['missing']:
        yield absent('cv_bridge', 'not installed; only images of other drivers in rare encodings need it')
    else:
        yield ok('cv_bridge', 'there')


def way_to_ros(distro: str) -> tuple[str, str]:
    """Say how to get at ROS."""
    installed = sorted(path.parent.name for path in DISTROS.glob('*/setup.bash'))
    if distro:
        return f'ROS {distro} is sourced, but this Python cannot use it; make an environment for it', 'scripts/setup'
    if installed:
        return 'it is installed but not sourced', f'source {DISTROS}/{installed[-1]}/setup.bash'
    return 'install it, or let the set-up of this project bring it as wheels', 'scripts/setup'


def way_to(missing: list[str], distro: str) -> tuple[str, str]:
    """Say how to get packages."""
    if not distro:
        return 'build them', 'scripts/setup'
    return 'install them', 'sudo apt install ' + ' '.join(f'ros-{distro}-{name.replace("_", "-")}' for name in missing)


def middleware(rmw: str) -> Iterator[Finding]:
    """Judge the middleware and the profile that lets whole pictures through it."""
    if not rmw:
        return
    if 'fastrtps' not in rmw:
        yield ok('middleware', f'{rmw}; docs/dds.md says what it needs for pictures')
        return
    try:
        variable = fast_dds_environment()
    except ConfigurationError as error:
        yield problem('middleware', f'{rmw}; {error}', needed=False)
        return
    given = [
        os.environ[name]
        for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')
        if os.environ.get(name)
    ]
    if given and not Path(given[0]).is_file():
        yield problem(
            'middleware',
            f'{rmw}; its profile {given[0]} does not exist',
            'without one pictures get lost',
            'unset FASTDDS_DEFAULT_PROFILES_FILE FASTRTPS_DEFAULT_PROFILES_FILE',
            needed=False,
        )
        return
    if given:
        yield ok('middleware', f'{rmw} with the profile {given[0]}')
        return
    way_out = 'launch files give it room for whole pictures; nodes started by hand need'
    exports = '; '.join(f'export {name}={shlex.quote(value)}' for name, value in variable.items())
    yield Finding('middleware', OK, rmw, way_out, exports)


def discovery(environment: Mapping[str, str]) -> Finding:
    """Judge who hears whom."""
    domain, reach = environment.get('ROS_DOMAIN_ID', ''), environment.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '')
    if environment.get('ROS_LOCALHOST_ONLY') == '1':
        reach = 'LOCALHOST'
    if domain and not domain.isdecimal():
        return problem(
            'discovery',
            f'ROS_DOMAIN_ID is {domain!r}, expected 0 to {HIGHEST_DOMAIN}',
            '',
            'export ROS_DOMAIN_ID=0',
            needed=True,
        )
    if domain and int(domain) > HIGHEST_DOMAIN:
        found = f'ROS_DOMAIN_ID is {domain}: its ports may be taken by outgoing connections'
        return problem(
            'discovery', found, f'use 0 to {HIGHEST_DOMAIN}', 'export ROS_DOMAIN_ID=42', needed=int(domain) > 232
        )
    if reach and reach not in RANGES:
        found = f'ROS_AUTOMATIC_DISCOVERY_RANGE is {reach!r}, expected one of {", ".join(RANGES)}'
        return problem('discovery', found, '', 'unset ROS_AUTOMATIC_DISCOVERY_RANGE', needed=True)
    if reach == 'OFF':
        found = f'domain {domain or 0}, discovery OFF: no process hears another'
        return problem(
            'discovery',
            found,
            'unless the pipeline is all there is',
            'unset ROS_AUTOMATIC_DISCOVERY_RANGE',
            needed=False,
        )
    heard = 'this machine only' if reach == 'LOCALHOST' else 'all machines of this network in that domain'
    return ok('discovery', f'domain {domain or "0 (default)"}, {heard}')


def shared_memory() -> Finding:
    """Judge the memory through which Fast DDS hands pictures on."""
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError as error:
        return problem('shared memory', f'{SHARED_MEMORY}: {error.strerror}; pictures go over UDP', needed=False)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    dead, size = stale_segments(SHARED_MEMORY, text_of('/proc/locks'))
    found = f'{SHARED_MEMORY} has {amount(free)} of {amount(total)} free'
    left = f'{found}; {amount(size)} of it left behind by {dead} dead process{"" if dead == 1 else "es"}'
    if free >= PROCESSES * SEGMENT:
        return Finding('shared memory', OK, left, '', cleaning()) if dead else ok('shared memory', found)
    needs = f'; {PROCESSES} processes need {amount(PROCESSES * SEGMENT)}'
    if dead:
        return problem('shared memory', f'{left}{needs}', 'remove what nobody uses', cleaning(), needed=False)
    if in_container():
        return problem(
            'shared memory',
            f'{found}{needs}',
            'give the container more',
            'docker run --shm-size=256m ...',
            needed=False,
        )
    return problem(
        'shared memory',
        f'{found}{needs}',
        'make it larger',
        f'sudo mount -o remount,size=256m {SHARED_MEMORY}',
        needed=False,
    )


def stale_segments(folder: Path, locks: str) -> tuple[int, int]:
    """Find the segments of Fast DDS that nobody holds; each has a file beside it that its process keeps locked.

    Args:
        folder: Where they are.
        locks: Content of /proc/locks.

    Returns:
        How many there are, and their bytes.

    """
    held = {int(inode) for inode in re.findall(r'FLOCK\s.*?:(\d+)\s+\d+\s+\S+$', locks, re.MULTILINE)}
    count = size = 0
    for lock in folder.glob('fastdds_*_el'):
        segment = lock.with_name(lock.name.removesuffix('_el'))
        try:
            if not segment.name.startswith('fastdds_port') and lock.stat().st_ino not in held:
                size += segment.stat().st_size
                count += 1
        except OSError:  # it is going just now
            continue
    return count, size


def cleaning() -> str:
    """Name the command that removes what dead processes have left; what is in use it leaves alone."""
    if programs.find('fastdds'):
        return 'fastdds shm clean'
    return f'for f in {SHARED_MEMORY}/fastdds_*_el; do flock -n "$f" rm -f "${{f%_el}}" "$f"; done'


def socket_buffers(largest: str, rmw: str) -> Finding:
    """Judge the greatest socket buffer that the kernel gives, which is what a picture over UDP must fit into."""
    if not largest.isdecimal():
        return absent('socket buffers', 'not to be seen from this container')
    wanted = SOCKET_BUFFER.get(rmw, 4 << 20)
    if int(largest) >= wanted:
        return ok('socket buffers', f'up to {amount(int(largest))} (net.core.rmem_max)')
    way_out = 'until the next start (for good: the same lines in /etc/sysctl.d/60-edge_vision.conf)'
    command = f'sudo sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}'
    found = f'up to {amount(int(largest))}: pictures to other machines get lost'
    return problem('socket buffers', found, way_out, command, needed=False)
