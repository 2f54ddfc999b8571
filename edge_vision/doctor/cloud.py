"""The way out: the broker, the disk that events wait on, and the one that engines are kept on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..params import BridgeParams
from ..places import ENGINE_CACHE_VARIABLE, spool_directory
from . import programs
from .findings import Finding, ok, problem
from .machine import amount

LOCAL = ('127.0.0.1', '::1', 'localhost')
LEAST_FREE = 100 << 20  # bytes; below it nothing is safe on a disk
NO_RIGHT = 'this user may not write to'
ENGINE_ROOM = 1 << 30  # bytes that a build and its engines take


def broker(found: Mapping[str, Any], params: BridgeParams, where: str, *, needed: bool) -> Finding:
    """Judge what came of connecting to the broker.

    Args:
        found: What the probe 'broker' has found.
        params: The bridge's parameters.
        where: Put before what is said, such as 'line1: '.
        needed: Whether the user has configured it.

    """
    address = f'{params.broker_host}:{params.broker_port}'
    if 'protocol' in found:
        secured = 'TLS' if found['tls'] else 'no TLS'
        return ok('broker', f'{where}{address} accepts this client, MQTT {found["protocol"]}, {secured}')
    reason = str(found['trouble']).removeprefix(f'broker {address}: ')
    if found.get('missing_module'):
        way_out, command = 'install what the bridge needs', 'scripts/setup'
    else:
        way_out, command = mend_broker(params, reason)
    return problem('broker', f'{where}{address}: {reason}', way_out, command, needed=needed)


def mend_broker(params: BridgeParams, reason: str) -> tuple[str, str]:
    """Say what to do about a broker; what the reason itself says is not said again."""
    waiting = 'events wait on disk meanwhile'
    if 'nothing listens there' in reason and params.broker_host in LOCAL:
        if programs.find('mosquitto'):
            command = 'sudo systemctl start mosquitto' if Path('/run/systemd/system').is_dir() else 'mosquitto -d'
            return f'start the one here, or set broker.host; {waiting}', command
        return f'install one, or set broker.host; {waiting}', 'sudo apt install mosquitto'
    if 'host name is not known' in reason:
        return f'set broker.host, or mend name resolution; {waiting}', f'getent hosts {shlex.quote(params.broker_host)}'
    if 'reach' in reason or 'hangs' in reason:
        return f'check network, firewall and broker.port; {waiting}', f'ping -c 3 {shlex.quote(params.broker_host)}'
    return waiting, ''


def spool(params: BridgeParams, namespace: str, where: str, *, needed: bool) -> Finding:
    """Judge the disk that events wait on."""
    directory = spool_directory(params, namespace)
    existing, free, trouble = room(directory)
    if trouble:
        return problem(
            'spool',
            f'{where}{directory}: {trouble}',
            *mend_directory('set spool.directory', existing, directory, trouble),
            needed=needed,
        )
    used = sum(size_of(path) for path in directory.glob('*')) if directory.is_dir() else 0
    said = f'{where}{directory}: {amount(free)} free'
    if free < LEAST_FREE:
        return problem(
            'spool',
            f'{said}: too little to keep events safe',
            'see what fills the disk',
            f'du -xh --max-depth=2 {shlex.quote(str(existing))} | sort -h | tail',
            needed=needed,
        )
    if free + used < params.spool_max_bytes:
        found = f'{said}, but spool.max_bytes is {amount(params.spool_max_bytes)}: the disk fills up first'
        return problem('spool', found, f'set spool.max_bytes: {(free + used) // 2}', needed=False)
    return ok('spool', f'{said}, at most {amount(params.spool_max_bytes)} kept')


def engine_cache(directory: Path, *, needed: bool) -> Finding:
    """Judge the disk that engines are kept on."""
    existing, free, trouble = room(directory)
    if trouble:
        mending = mend_directory(f'name a directory in {ENGINE_CACHE_VARIABLE}', existing, directory, trouble)
        return problem('engine cache', f'{directory}: {trouble}', *mending, needed=needed)
    engines = list(directory.glob('*.engine'))
    holds = f'{len(engines)} engine{"" if len(engines) == 1 else "s"}, {amount(sum(map(size_of, engines)))}'
    said = f'{directory}: {amount(free)} free; {holds if engines else "no engine yet"}'
    if free < ENGINE_ROOM and needed:
        return problem(
            'engine cache',
            f'{said}: little for a build',
            'remove engines that are not used',
            f'rm {shlex.quote(str(directory))}/*',
            needed=False,
        )
    return ok('engine cache', said)


def room(directory: Path) -> tuple[Path, int, str]:
    """Look at the disk of a directory that may not exist yet.

    Returns:
        Its nearest existing directory, the bytes free there, and why this user cannot write, '' where that works.

    """
    existing = next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path('/'))
    if not existing.is_dir():
        return existing, 0, f'{existing} is no directory'
    try:
        disk = os.statvfs(existing)
    except OSError as error:
        return existing, 0, str(error.strerror)
    if disk.f_flag & os.ST_RDONLY:
        return existing, 0, 'the disk is mounted read-only'
    if not os.access(existing, os.W_OK | os.X_OK):
        return existing, 0, f'{NO_RIGHT} {existing}'
    return existing, disk.f_bavail * disk.f_frsize, ''


def mend_directory(another: str, existing: Path, directory: Path, trouble: str) -> tuple[str, str]:
    """Say what to do about a directory: take another, or let this user write where that is all it lacks."""
    if not trouble.startswith(NO_RIGHT):
        return another, ''
    quoted = shlex.quote(str(directory))
    return (
        f'{another}, or',
        f'sudo chown $USER {quoted}' if existing == directory else f'sudo install -d -o $USER {quoted}',
    )


def size_of(path: Path) -> int:
    """Return the size of a file; 0 for one that has just gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
