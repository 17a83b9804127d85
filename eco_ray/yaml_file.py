"""YAML files that people write: small, plain, and with a line number in every error.

The rules are YAML 1.2's: only `true` and `false` are booleans (NO is a grid zone), times and version numbers stay text.
Duplicate keys, tags, merge keys and anything that is large once its aliases are followed are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eco_ray.errors import UsageError

#: largest file that is read
MAX_BYTES = 1 << 20
#: deepest nesting
MAX_DEPTH = 32
#: most values, each counted as often as aliases repeat it
MAX_VALUES = 20_000
#: most characters of text, counted the same way
MAX_CHARACTERS = 4 << 20

# libyaml's parser is some twenty times faster; the pure Python one does the same where PyYAML was built without it
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]  # the base is chosen at import
    """SafeLoader with the types of JSON and nothing else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's protocol
    yaml_constructors: dict[str | None, Any] = {}  # noqa: RUF012 - PyYAML's protocol

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        lines: dict[str, int] = {}
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                shown = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise _At(key_node.start_mark, f"the key {shown} is not text; put it in quotes")
            key = key_node.value
            if key in lines:
                raise _At(key_node.start_mark, f"the key {key!r} is already in line {lines[key]}; keep one of the two")
            lines[key] = line
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def sequence(self, node: yaml.SequenceNode) -> list[Any]:
        return [self.construct_object(item, deep=True) for item in node.value]

    def number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > 40:
            raise _At(node.start_mark, f"a number of {len(node.value)} digits; give at most 40")
        return int(node.value) if node.tag.endswith(":int") else float(node.value)

    def text(self, node: yaml.ScalarNode) -> str:
        return str(node.value)

    def boolean(self, node: yaml.ScalarNode) -> bool:
        return str(node.value).lower() == "true"

    def null(self, _node: yaml.ScalarNode) -> None:
        return None

    def refuse(self, node: yaml.Node) -> Any:
        raise _At(
            node.start_mark, f"the tag {node.tag!r} is not allowed; write plain text, numbers, lists and mappings"
        )


class _At(Exception):
    """A problem at a place in the file."""

    def __init__(self, mark: Any, problem: str) -> None:
        super().__init__(problem)
        self.mark = mark


for _tag, _method in {
    "map": _Loader.mapping,
    "seq": _Loader.sequence,
    "str": _Loader.text,
    "int": _Loader.number,
    "float": _Loader.number,
    "bool": _Loader.boolean,
    "null": _Loader.null,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _method)
_Loader.add_constructor(None, _Loader.refuse)
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


@dataclass(frozen=True)
class Document:
    """A parsed file that still knows its lines."""

    #: the path as the user gave it
    where: str
    value: dict[str, Any]
    root: yaml.MappingNode

    def line_of(self, path: tuple[str | int, ...]) -> int | None:
        """Line of the deepest part of a path of keys and indices that the file has; None where it has none of it."""
        node: yaml.Node = self.root
        line: int | None = None
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pair = next(((k, v) for k, v in node.value if k.value == part), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


def read_limited(path: Path, what: str) -> str:
    """Text of a file of at most 1 MiB in UTF-8. `what` is its name in errors, e.g. "job file"."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror or error}; check the path") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MiB, the limit of a {what}; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from None


def load_yaml(path: Path, what: str) -> Document:
    """Read one mapping from a YAML file. Raises UsageError with file, line, column and cure."""
    text = read_limited(path, what)
    try:
        # events first: they are read without recursion, so that a million brackets cannot exhaust the stack
        _check_depth(text)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise UsageError(f"{path} is empty; a {what} needs at least one key")
            if not isinstance(root, yaml.MappingNode):
                raise UsageError(
                    f"{path}, line {root.start_mark.line + 1}: expected `key: value` lines at the top of a {what}"
                )
            _check_size(root)
            value: dict[str, Any] = loader.construct_document(root)
        finally:
            loader.dispose()
    except _At as error:
        raise UsageError(f"{_place(path, error.mark)}: {error}") from None
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise UsageError(
            f"{_place(path, error.problem_mark or error.context_mark)}: {problem}; "
            "check indentation, colons and quotes there"
        ) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: {' '.join(str(error).split())}; remove characters that are not text") from None
    return Document(str(path), value, root)


def _place(path: Path, mark: Any) -> str:
    return f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else str(path)


def _check_depth(text: str) -> None:
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _At(event.start_mark, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        if count > 4 * MAX_VALUES:
            raise _At(event.start_mark, f"more than {MAX_VALUES:,} values; make it smaller")


def _check_size(root: yaml.Node) -> None:
    """Walk the tree as it would be written out without aliases; stop at the limits."""
    values = characters = 0
    todo = [(root, 0)]
    while todo:
        node, depth = todo.pop()
        values += 1
        if depth > MAX_DEPTH:
            raise _At(node.start_mark, f"nested deeper than {MAX_DEPTH} levels with its aliases; write it out")
        if isinstance(node, yaml.MappingNode):
            todo.extend((part, depth + 1) for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            todo.extend((part, depth + 1) for part in node.value)
        else:
            characters += len(node.value)
        if values + len(todo) > 2 * MAX_VALUES or characters > MAX_CHARACTERS:
            raise _At(
                node.start_mark,
                f"more than {MAX_VALUES:,} values or {MAX_CHARACTERS >> 20} Mi characters, "
                "with its aliases written out; make it smaller",
            )
