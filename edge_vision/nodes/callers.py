"""Names who may have called a service."""

from __future__ import annotations

from contextlib import suppress

from rclpy.node import Node, NodeNameNonExistentError


def callers(node: Node, service: str) -> tuple[str, ...]:
    """List the nodes that have a client of a service of this node; ROS does not say which of them called."""
    wanted = node.resolve_service_name(service)
    names = set()
    for name, namespace in node.get_node_names_and_namespaces():
        with suppress(NodeNameNonExistentError):
            clients = node.get_client_names_and_types_by_node(name, namespace)
            if any(client == wanted for client, _ in clients):
                names.add(f'{namespace.rstrip("/")}/{name}')
    return tuple(sorted(names))
