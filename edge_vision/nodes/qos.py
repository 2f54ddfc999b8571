"""The quality of service each topic is offered and asked for with.

Images are reliable with depth 1: the newest frame wins, and with the shipped Fast DDS profile
(docs/dds.md) none is lost on the way. A best-effort subscriber (rqt, RViz) matches a reliable publisher; to take
images from a best-effort camera driver, override the subscription with the parameter
``qos_overrides./image_raw.subscription.reliability: best_effort``.

Events are kept for subscribers that come later: a bridge that was not there yet gets them all the same, and its spool
knows those it has delivered already.

What a machine obeys is offered with a deadline and a liveliness that a consumer can ask for, to be told when the
decision has gone silent.
"""

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
EACH = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
EVENTS = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def heartbeat(rate: float) -> QoSProfile:
    """Offer a topic that is repeated at a rate, Hz: one message lost is not silence yet, two are."""
    silence = Duration(seconds=2 / rate)
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        deadline=silence,
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=silence,
    )


def overridable() -> QoSOverridingOptions:
    """Let a user override reliability, depth and durability by ``qos_overrides.`` parameters."""
    return QoSOverridingOptions([QoSPolicyKind.RELIABILITY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY])
