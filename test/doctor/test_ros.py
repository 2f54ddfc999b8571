import fcntl
import shutil
import subprocess
import sys

import pytest

from edge_vision.doctor import ros
from edge_vision.doctor.machine import text_of


@pytest.mark.parametrize(
    ('environment', 'status', 'word'),
    [
        ({}, 'ok', 'domain 0 (default), all machines'),
        ({'ROS_DOMAIN_ID': '7', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, 'ok', 'domain 7, this machine only'),
        ({'ROS_LOCALHOST_ONLY': '1'}, 'ok', 'this machine only'),
        ({'ROS_DOMAIN_ID': 'seven'}, 'fail', "'seven'"),
        ({'ROS_DOMAIN_ID': '150'}, 'warn', 'ports'),
        ({'ROS_DOMAIN_ID': '233'}, 'fail', 'ports'),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'HOUSE'}, 'fail', "'HOUSE'"),
        ({'ROS_AUTOMATIC_DISCOVERY_RANGE': 'OFF'}, 'warn', 'no process hears another'),
    ],
)
def test_who_hears_whom_is_told(environment, status, word):
    finding = ros.discovery(environment)
    assert finding.status == status
    assert word in finding.found


@pytest.mark.parametrize(
    ('largest', 'rmw', 'status'),
    [
        ('212992', 'rmw_fastrtps_cpp', 'warn'),
        ('4194304', 'rmw_fastrtps_cpp', 'ok'),
        ('4194304', 'rmw_cyclonedds_cpp', 'warn'),
        ('', 'rmw_fastrtps_cpp', 'absent'),
    ],
)
def test_socket_buffers_must_have_room_for_a_picture(largest, rmw, status):
    assert ros.socket_buffers(largest, rmw).status == status


def segment(folder, name, size):
    (folder / name).write_bytes(bytes(size))
    lock = folder / f'{name}_el'
    lock.touch()
    return lock


def test_a_segment_is_left_behind_when_nobody_locks_it(tmp_path):
    segment(tmp_path, 'fastdds_dead', 1000)
    segment(tmp_path, 'fastdds_port7000', 5000)  # no picture in it, and used again
    held = segment(tmp_path, 'fastdds_alive', 3000)
    (tmp_path / 'sem.fastdds_port7000_mutex').touch()
    with held.open('rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert ros.stale_segments(tmp_path, text_of('/proc/locks')) == (1, 1000)
    assert ros.stale_segments(tmp_path, text_of('/proc/locks')) == (2, 4000)


def test_a_live_process_has_no_stale_segment_and_a_killed_one_has(ros_environment, tmp_path):  # noqa: ARG001
    """Fast DDS itself is the judge of which file it locks."""
    pytest.importorskip('rclpy')
    code = 'import rclpy, sys; rclpy.init(); n = rclpy.create_node("n"); print(flush=True); sys.stdin.read()'
    before = names()
    with subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        mine = {name for name in names() - before if f'{process.pid}' in holders(name)}
        if not mine:
            process.kill()
            pytest.skip('the middleware here keeps no segment of Fast DDS in /dev/shm')
        assert stale(mine, tmp_path) == 0
        process.kill()
        process.wait()
        assert stale(mine, tmp_path) == len(mine)
    for name in mine:  # as fastdds shm clean would
        (ros.SHARED_MEMORY / name).unlink()
        (ros.SHARED_MEMORY / name.removesuffix('_el')).unlink()


def names():
    return {p.name for p in ros.SHARED_MEMORY.glob('fastdds_*_el') if not p.name.startswith('fastdds_port')}


def holders(name):
    inode = (ros.SHARED_MEMORY / name).stat().st_ino
    return [line.split()[4] for line in text_of('/proc/locks').splitlines() if f':{inode} ' in line]


def stale(chosen, tmp_path):
    """Count the stale ones among some, seen through a folder of links to them alone."""
    folder = tmp_path / 'some'
    folder.mkdir(exist_ok=True)
    for name in chosen:
        for file in (name, name.removesuffix('_el')):
            if not (folder / file).exists():
                (folder / file).symlink_to(ros.SHARED_MEMORY / file)
    return ros.stale_segments(folder, text_of('/proc/locks'))[0]


def test_the_cleaning_command_removes_what_is_dead_only(tmp_path, monkeypatch):
    if shutil.which('flock') is None or ros.programs.find('fastdds'):
        pytest.skip('here another command is named')
    monkeypatch.setattr(ros, 'SHARED_MEMORY', tmp_path)
    segment(tmp_path, 'fastdds_dead', 10)
    with segment(tmp_path, 'fastdds_alive', 10).open('rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        subprocess.run(['bash', '-c', ros.cleaning()], check=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['fastdds_alive', 'fastdds_alive_el']


@pytest.mark.parametrize(
    ('found', 'status', 'word'),
    [
        ({'version': '9.1.2', 'rmw': 'rmw_fastrtps_cpp', 'missing': ['cv_bridge']}, ['ok', 'ok', 'absent'], ''),
        ({'version': '', 'rmw': 'rmw_fastrtps_cpp', 'missing': ['vision_msgs']}, ['ok', 'fail', 'ok'], 'vision_msgs'),
        ({'trouble': "No module named 'rclpy'", 'missing_module': 'rclpy'}, ['fail'], 'rclpy'),
    ],
)
def test_what_the_nodes_need_of_ros_is_judged(found, status, word):
    findings = list(ros.packages(found))
    assert [finding.status for finding in findings] == status
    assert any(word in finding.found for finding in findings)
    assert all(finding.command for finding in findings if finding.status == 'fail')
