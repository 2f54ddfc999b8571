"""Declares the parameters classes to ROS and follows later sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from .. import params
from ..errors import ConfigurationError
from ..params import ROS_OWN

P = TypeVar('P')
USE_SIM_TIME = 'use_sim_time'


def descriptor(spec: params.Spec) -> ParameterDescriptor:
    """Describe a parameter to rqt_reconfigure and ``ros2 param describe``."""
    # Dynamic typing lets [] stand for an empty list of any type and 1 for 1.0; Spec.check holds the types.
    described = ParameterDescriptor(description=spec.description, read_only=spec.read_only, dynamic_typing=True)
    if spec.one_of:
        described.additional_constraints = f'one of {list(spec.one_of)}'
    if spec.bounds and type(spec.default) is float:
        described.floating_point_range = [FloatingPointRange(from_value=spec.bounds[0], to_value=spec.bounds[1])]
    elif spec.bounds:
        described.integer_range = [IntegerRange(from_value=int(spec.bounds[0]), to_value=int(spec.bounds[1]))]
    return described


def declare(node: Node, cls: type[P], prefix: str = '') -> P:
    """Declare all parameters of a class and return their values.

    Raises:
        ConfigurationError: A value given at start is not usable.

    """
    specs = params.specs(cls, prefix)
    overrides = _overrides(node)
    for spec in specs:
        # An empty list has no type, and reaches us as no value: it then stands for the default.
        given = spec.name in overrides and overrides[spec.name].value is not None
        if given:
            spec.check(overrides[spec.name].value)
        if not node.has_parameter(spec.name):
            default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
            node.declare_parameter(spec.name, default, descriptor(spec), ignore_override=not given)
    values = {spec.name: node.get_parameter(spec.name).value for spec in specs}
    return params.from_values(cls, values, prefix)


def given_names(node: Node, cls: type) -> list[str]:
    """List the parameter names given at start that are meant for a node."""
    return params.meant_for(cls, _overrides(node))


def refuse_unknown(node: Node, cls: type) -> None:
    """Refuse parameters given at start that nobody would read.

    Raises:
        ConfigurationError: With the nearest known name.

    """
    known = {spec.name for spec in params.specs(cls)}
    for name in given_names(node, cls):
        if name not in known:
            raise params.unknown_name(name, known)


def follow(
    node: Node, apply: Callable[[Mapping[str, Any]], None], *, declaring: Callable[[], bool] = lambda: False
) -> None:
    """Call ``apply`` with the values that a set would leave; when it raises, the set is rejected whole.

    Nor is ``use_sim_time`` followed: stamps and ages of before and after a change would be on different clocks.

    Args:
        node: Its declared parameters are the present values.
        apply: Takes parameter names and values; raises `ConfigurationError` before it changes anything.
        declaring: Whether what is set now is a default that stands for the present value.

    """
    sim_time = node.get_parameter(USE_SIM_TIME).value

    def on_set(changes: list[Parameter]) -> SetParametersResult:
        if declaring():
            return SetParametersResult(successful=True)
        changed = {change.name: change.value for change in changes}
        if changed.get(USE_SIM_TIME, sim_time) != sim_time:
            return SetParametersResult(successful=False, reason=f'{USE_SIM_TIME} can only be set at start')
        # A value of None removes a parameter: what it stood for falls back to its default.
        values = {name: p.value for name, p in node.get_parameters_by_prefix('').items()} | changed
        own = {name: value for name, value in values.items() if value is not None and not name.startswith(ROS_OWN)}
        try:
            apply(own)
        except ConfigurationError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(on_set)


def declare_and_follow(node: Node, cls: type[P], apply: Callable[[P], None] | None = None) -> P:
    """Declare a class that is all of a node's parameters, refuse others, and apply later sets.

    Args:
        node: The node.
        cls: Parameters class.
        apply: Called with the new values after they were checked; None when all are read-only.

    Raises:
        ConfigurationError: A value given at start is not usable.

    """
    values = declare(node, cls)
    refuse_unknown(node, cls)

    def on_values(changed: Mapping[str, Any]) -> None:
        checked = params.from_values(cls, changed)
        if apply is not None:
            apply(checked)

    follow(node, on_values)
    return values


def _overrides(node: Node) -> dict[str, Parameter]:
    # rclpy has no public way to list what was given for names that are not declared.
    overrides: dict[str, Parameter] = node._parameter_overrides  # noqa: SLF001
    return overrides
