import os
import socket
from pathlib import Path

import pytest
from hypothesis import settings
from mqtt_broker import mosquitto  # noqa: F401  a fixture for all tests

from edge_vision.share import fast_dds_environment

DOMAINS = range(1, 101)  # whose ports are below those that Linux gives to outgoing connections
DOMAIN_PORTS = 53100  # a domain is in use while somebody holds this port plus its number

settings.register_profile('edge_vision', deadline=None, max_examples=50)
settings.load_profile('edge_vision')


@pytest.fixture(scope='session')
def ros_environment(tmp_path_factory):
    """Give this process and those it starts a ROS domain that no other test run on this machine has."""
    with socket.socket() as taken, pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(_take_domain(taken)))
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_LOG_DIR', str(tmp_path_factory.mktemp('log')))
        yield


@pytest.fixture(scope='module')
def by_udp(ros_environment):  # noqa: ARG001  it is the environment that counts
    """Let processes talk by UDP: those that are killed leave Fast DDS' shared memory such that others may go deaf."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'SYSTEM_DEFAULT')  # the profile's, which are on this machine only
        for name in fast_dds_environment():
            patch.setenv(name, str(Path(__file__).with_name('loopback_udp.xml')))
        yield


def _take_domain(taken):
    start = os.getpid() % len(DOMAINS)
    for domain in (*DOMAINS[start:], *DOMAINS[:start]):
        try:
            taken.bind(('127.0.0.1', DOMAIN_PORTS + domain))
        except OSError:
            continue
        return domain
    return pytest.fail('all ROS domains are in use by other test runs')
