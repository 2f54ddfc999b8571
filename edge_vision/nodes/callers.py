"""Names who may have called a service."""

from __future__ import annotations

from contextlib import suppress

from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node


def callers(node: Node, service: str) -> tuple[str, ...]:
    """List the nodes that have a client of a service of this node; ROS does not say which of them called."""
    wanted = node.resolve_service_name(service)
    names = set()
    for name, namespace in node.get_node_names_and_namespaces():
        with suppress(_rclpy.RCLError):  # it may be gone by now
            clients = node.get_client_names_and_types_by_node(name, namespace)
            if any(client == wanted for client, _ in clients):
                names.add(f'{namespace.rstrip("/")}/{name}')
    return tuple(sorted(names))
