"""What the user wants to run: a ROS parameters file, read without ROS."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from . import params
from .errors import ConfigurationError
from .params import CLASSES

P = TypeVar('P')


@dataclass(frozen=True)
class Pipeline:
    """The nodes of one namespace and what they are given.

    Attributes:
        namespace: Such as '/line1'; '/' is the root.
        given: Parameter names and values by node.
        configured: The nodes that the user has written something for.

    """

    namespace: str = '/'
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configured: frozenset[str] = frozenset()

    def params(self, cls: type[P]) -> P:
        """Return the parameters of a node.

        Raises:
            ConfigurationError: A value is not usable.

        """
        return params.from_values(cls, self.values(cls))

    def values(self, cls: type) -> dict[str, Any]:
        """Return what a node is given; an empty list has no type in ROS and stands for the default."""
        given = self.given.get(cls.NODE, {})  # type: ignore[attr-defined]
        return {name: value for name, value in given.items() if value not in (None, [])}


def read(path: Path) -> tuple[Pipeline, ...]:
    """Read a parameters file: one pipeline for each namespace that it names.

    Raises:
        ConfigurationError: It cannot be read, or is not a ROS parameters file.

    """
    sections = read_sections(path)
    nodes = [pattern.rpartition('/') for pattern in sections]
    namespaces = [space or '/' for space, _, node in nodes if node in CLASSES and '*' not in space]
    return tuple(pipeline(sections, namespace) for namespace in dict.fromkeys(namespaces or ['/']))


def pipeline(sections: Mapping[str, Mapping[str, Any]], namespace: str) -> Pipeline:
    """Pick from a file what the nodes of a namespace are given; what stands further down wins."""
    given: dict[str, dict[str, Any]] = {}
    configured = set()
    for node, cls in CLASSES.items():
        name = f'{namespace.rstrip("/")}/{node}'
        known = {spec.name for spec in params.specs(cls)}
        matching = [(pattern, values) for pattern, values in sections.items() if matches(pattern, name)]
        given[node] = {key: value for _, values in matching for key, value in values.items()}
        if any(pattern.rpartition('/')[2] == node or known & values.keys() for pattern, values in matching):
            configured.add(node)
    return Pipeline(namespace, given, frozenset(configured))


def matches(pattern: str, name: str) -> bool:
    """Tell whether a key of a parameters file is about a node, as ROS does: ``*`` is one level, ``**`` any number."""
    levels = (
        r'(/\w+)*' if level == '**' else r'/\w+' if level == '*' else '/' + re.escape(level)
        for level in pattern.strip('/').split('/')
    )
    return re.fullmatch(''.join(levels), name) is not None


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """Read the parameters of every key of a file, the names of nested ones joined by dots."""
    import yaml  # noqa: PLC0415  the rest of the page does not need it

    shown = repr(str(path))
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding='utf-8'))
    except OSError as error:
        raise ConfigurationError(f'--params-file is {shown}, which cannot be read: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = ' '.join(str(error).split())
        raise ConfigurationError(f'--params-file {shown} is not YAML: {where}') from error
    sections: dict[str, dict[str, Any]] = {}
    for key, values in ros_parameters(content):
        sections.setdefault(key, {}).update(flat(values))
    if not sections:
        raise ConfigurationError(f'--params-file {shown} has no ros__parameters, expected a ROS parameters file')
    return sections


def ros_parameters(content: Any, key: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Find the ``ros__parameters`` in a file and the key of each, such as '/line1/camera'."""
    for name, value in content.items() if isinstance(content, dict) else ():
        if name == 'ros__parameters' and isinstance(value, dict):
            yield key or '/**', value
        else:
            yield from ros_parameters(value, f'{key}/{str(name).strip("/")}')


def flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Join the keys of nested mappings by dots, as ROS does."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        joined |= flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value}
    return joined


def summary(pipe: Pipeline) -> str:
    """Say what is configured."""
    nodes = ', '.join(node for node in CLASSES if node in pipe.configured) or 'no node'
    rules = pipe.given.get(params.DecisionParams.NODE, {}).get('rules') or ()
    return f'{nodes}; {"rules " + ", ".join(rules) if rules else "no rules"}'


def check(pipe: Pipeline) -> tuple[str, ...]:
    """Check all that a pipeline is given, as its nodes would at their start.

    Returns:
        What is wrong, one sentence each.

    """
    wrong = []
    for node in CLASSES:
        try:
            check_node(pipe, node)
        except ConfigurationError as error:
            wrong.append(f'{node}: {error}')
    return tuple(wrong)


def check_node(pipe: Pipeline, node: str) -> None:
    """Check what one node is given.

    Raises:
        ConfigurationError: A name or a value is not usable.

    """
    cls = CLASSES[node]
    pipe.params(cls)
    names = params.meant_for(cls, pipe.given.get(node, {}))
    if node == params.DecisionParams.NODE:
        check_rules(names, pipe.values(cls))
        return
    known = {spec.name for spec in params.specs(cls)}
    for name in names:
        if name not in known:
            raise params.unknown_name(name, known)


def check_rules(names: Sequence[str], given: Mapping[str, Any]) -> None:
    """Check the rules of the decision; without numpy they cannot be, and that is said elsewhere."""
    try:
        from .rules import check_names, rules_from_values  # noqa: PLC0415  needs numpy and OpenCV
    except ImportError:
        return
    rules = rules_from_values(given)
    check_names(names, [rule.name for rule in rules])
