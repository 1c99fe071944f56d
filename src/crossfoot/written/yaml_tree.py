"""YAML 1.2 text as plain values, with the place of every key and value. ruamel.yaml parses; this walks its
nodes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from crossfoot.findings.finding import Place
from crossfoot.written.source import BrokenText, Source

Keys = tuple[str | int, ...]
DEEPEST = 40
MOST_NODES = 20_000
_TAG = "tag:yaml.org,2002:"


class BrokenYaml(BrokenText):
    """Text that is no YAML, or YAML that a config may not use."""


@dataclass(frozen=True)
class Spot:
    """Where one entry is written: its key (None in a list and at the top) and its value.

    `is_empty`: nothing at all stands after the key (which reads as null, like a written `null`).
    """

    key: Place | None
    value: Place
    is_empty: bool = False


@dataclass
class Tree:
    """Plain values of a document; `spots` by path of keys; every duplicate key as (path, first place, second
    place).
    """

    value: Any = None
    spots: dict[Keys, Spot] = field(default_factory=dict)
    duplicates: list[tuple[Keys, Place, Place]] = field(default_factory=list)


def read_tree(source: Source) -> Tree:
    """The one document in `source`; an empty one has the value None. Raises BrokenYaml."""
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on stderr they would have no place; what matters raises
            node = yaml.compose(source.text)
    except ReaderError as error:
        start = error.position
        title = f"the character U+{ord(source.text[start]):04X} may not stand in YAML"
        raise BrokenYaml(title, source.place(start)) from error
    except MarkedYAMLError as error:
        raise _in_plain_words(source, error) from error
    except YAMLError as error:
        raise BrokenYaml(_one_line(str(error)), source.place(0)) from error
    except RecursionError as error:
        raise BrokenYaml("it is nested too deeply", source.place(0)) from error
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        # ruamel's own slips on malformed directives and tags
        raise BrokenYaml(_one_line(str(error)), source.place(0)) from error
    tree = Tree()
    if node is not None:
        tree.value = _Walk(source, yaml.constructor, tree).value((), node, None)
    return tree


def in_yaml(text: str) -> str:
    """The text of a value, also inside a list; in quotes where YAML could take it for something else."""
    with suppress(BrokenYaml):
        if read_tree(Source("", f"[{text}]")).value == [text] and read_tree(Source("", text)).value == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120]


_QUOTE_IT = ("put the value in quotes",)
_IN_PLAIN_WORDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("\\t", "a tab stands where YAML wants spaces", ("indent with spaces",)),
    (
        "mapping values are not allowed",
        "a second key stands where a value is expected",
        (
            'put quotes around a value that contains ": "',
            "or check the indentation of this line and the one above",
        ),
    ),
    ("another document", "a second document begins here, and a config is one", ("remove the line ---",)),
    (
        "expected <block end>",
        "this line is not indented like those above it",
        ("indent the keys of one section alike",),
    ),
    ("cannot start any token", "{start} cannot begin a value", _QUOTE_IT),
    ("undefined alias", "* begins an alias, and there is none of this name", _QUOTE_IT),
    ("unknown escape", "a backslash in double quotes begins an escape", ("put the value in single quotes",)),
    ("'<document start>'", "this is no key with a value", ("write KEY: VALUE",)),
)
"""Part of ruamel's words, ours, and the changes to make. {start}: the character at the place."""


def _word_above(source: Source, line: int) -> str:
    """The one word of the line above, when it has nothing else."""
    above = source.line(line - 1).strip() if line > 1 else ""
    return above if above.isidentifier() else ""


def _in_plain_words(source: Source, error: MarkedYAMLError) -> BrokenYaml:
    mark = error.problem_mark or error.context_mark
    start = min(getattr(mark, "index", 0), max(0, len(source.text) - 1))
    problem = _one_line(str(error.problem or error.context or "unreadable"))
    notes: tuple[str, ...] = ()
    said = next((row for row in _IN_PLAIN_WORDS if row[0] in problem), None)
    title, helps = said[1:] if said else (problem, ())
    title = title.replace("{start}", source.text[start : start + 1])
    if "end of stream" in problem or "stream end" in problem:
        title = f"it ends too early: {problem.partition(', but ')[0]}"
    elif "mapping values" in problem and (word := _word_above(source, source.place(start).line)):
        helps = (f"put a colon behind {word}, in the line above", *helps)
    for kind, closing in (("quoted scalar", "quotes"), ("flow", "bracket")):
        if kind in str(error.context) and not helps and error.context_mark is not None:
            line = f" of line {error.context_mark.line + 1}" if "\n" in source.text else ""
            helps = (f"close the {closing}{line}",)
    if error.context and error.context_mark is not None and error.problem:
        opened = source.place(min(error.context_mark.index, len(source.text)))
        notes = (
            f"{_one_line(str(error.context))} that begins at line {opened.line}, column {opened.column}",
        )
    return BrokenYaml(title, source.place(start), notes, helps)


class _Walk:
    """One pass over the nodes that fills a Tree."""

    def __init__(self, source: Source, constructor: Any, tree: Tree) -> None:
        self.source = source
        self.tree = tree
        self.seen = 0
        self.scalars: dict[str, Callable[[Node], Any]] = {
            "null": lambda node: None,
            "bool": constructor.construct_yaml_bool,
            "int": constructor.construct_yaml_int,
            "float": constructor.construct_yaml_float,
            "str": lambda node: node.value,
            "timestamp": lambda node: node.value,
        }

    def place(self, node: Node) -> Place:
        return self.source.place(node.start_mark.index, node.end_mark.index)

    def value(self, keys: Keys, node: Node, key: Place | None) -> Any:
        """The plain value of `node`; notes its spot."""
        self.seen += 1
        if len(keys) > DEEPEST or self.seen > MOST_NODES:
            raise BrokenYaml("it is nested too deeply, or repeats itself by aliases", self.place(node))
        is_empty = isinstance(node, ScalarNode) and node.start_mark.index == node.end_mark.index
        self.tree.spots[keys] = Spot(key, key if is_empty and key else self.place(node), is_empty)
        if isinstance(node, MappingNode):
            self._check_tag(node, "map")
            return self._mapping(keys, node)
        if isinstance(node, SequenceNode):
            self._check_tag(node, "seq")
            return [self.value((*keys, position), entry, None) for position, entry in enumerate(node.value)]
        return self._scalar(node)

    def _check_tag(self, node: Node, name: str) -> None:
        if str(node.tag) != _TAG + name:
            raise BrokenYaml(f"the tag {node.tag} has no meaning in a config", self.place(node))

    def _scalar(self, node: Node) -> Any:
        read = self.scalars.get(str(node.tag).removeprefix(_TAG))
        if read is None:
            raise BrokenYaml(f"the tag {node.tag} has no meaning in a config", self.place(node))
        try:
            return read(node)
        except (ValueError, KeyError, IndexError, OverflowError, YAMLError) as error:
            raise BrokenYaml("this value cannot be read as a number", self.place(node)) from error

    def _mapping(self, keys: Keys, node: MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = self.place(key_node)
            if not isinstance(key_node, ScalarNode):
                raise BrokenYaml("a list or a section stands where a key is expected", where)
            if str(key_node.tag) == _TAG + "merge":
                raise BrokenYaml(
                    "merge keys (<<) are not read in a config", where, helps=("write the keys out",)
                )
            name = str(key_node.value)
            path = (*keys, name)
            if name in values:
                self.tree.duplicates.append((path, self.tree.spots[path].key or where, where))
                continue
            values[name] = self.value(path, value_node, where)
        return values
