"""The keys that a run config may have, and what a key that it may not have was meant to be."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal, get_args, get_origin

from crossfoot.phrases import listed
from crossfoot.written.config import Config
from crossfoot.written.config_values import Column
from crossfoot.written.data_sources import SourceSection
from crossfoot.written.foreign_keys import NEW_ADAPTERS, OTHER_VALUES, foreign, synonym
from crossfoot.written.section import Section
from crossfoot.written.slips import Kind

ACCEPT = ("checks", "accept")
TRAIN = ("data", "train")
COLUMNS, GROUPS = ("data", "columns"), ("lr", "groups")
"""Keys that have keys of their own. Those of ACCEPT and GROUPS are free: codes and names of findings, and
kinds of parameters."""

SURELY_MEANT = 0.88
"""Likeness (difflib's ratio) from which a misspelt key may be renamed without asking."""

Meaning = Literal["foreign", "moved", "near"]


@dataclass(frozen=True)
class Suggestion:
    """What an unknown key was probably meant to be. path: that key, dotted, "" when there is none. meaning:
    another trainer's word, one of ours in the wrong place, or something like it. help: the change to make.
    note: why there is none. value: ours for the value that was given, None when that is not sure. is_sure:
    the key may be renamed without asking.
    """

    path: str
    help: str
    meaning: Meaning = "near"
    note: str = ""
    value: str | None = None
    is_sure: bool = False

    @property
    def word(self) -> str | None:
        """The override that says it."""
        return None if self.value is None or not self.path else f"{self.path}={self.value}"


def section_type(annotation: object) -> type[Section] | None:
    """The section class inside `X` or `X | None`; None for a plain value."""
    for choice in (annotation, *get_args(annotation)):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


@cache
def sections() -> Mapping[str, tuple[str, ...]]:
    """Every top-level key with the keys inside it; a plain value (`deepspeed`) has none."""
    found = {}
    for name, info in Config.model_fields.items():
        inside = section_type(info.annotation)
        found[name] = tuple(inside.model_fields) if inside else ()
    return MappingProxyType(found)


def _annotation(key: str) -> object:
    """The type of a key (dotted); None of one that is not known."""
    section, _, name = key.partition(".")
    if not is_known((section, name) if name else (section,)):
        return None
    annotation = Config.model_fields[section].annotation
    inside = section_type(annotation) if name else None
    return inside.model_fields[name].annotation if inside else annotation


@cache
def choices(key: str) -> tuple[str, ...]:
    """The words that the value of a key (dotted) is one of; none when it is another kind of value."""
    annotation = _annotation(key)
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


@cache
def is_optional(key: str) -> bool:
    """Whether null is a value of a key (dotted)."""
    return type(None) in get_args(_annotation(key))


def is_known(path: tuple[str, ...]) -> bool:
    """Whether `path` names a section, or a key in it (or what one of the free ones may hold)."""
    if len(path) == 1:
        return path[0] in sections()
    if len(path) == 3:
        return path[:2] in (ACCEPT, GROUPS) or (path[:2] == COLUMNS and path[2] in get_args(Column))
    return len(path) == 2 and path[1] in sections().get(path[0], ())


@cache
def kind_of(name: str) -> Kind | None:
    """What a key of this name holds, in whatever section: of ours, or of another trainer. None of other
    words.
    """
    path = tuple(name.split("."))
    if len(path) > 1 and is_known(path):
        name = path[-1]
    if name in sections() and sections()[name]:
        return "section"
    paths = homes(name) or ((name,) if name in sections() else ())
    if any(_is_list(_annotation(path)) for path in paths):
        return "list"
    return "text" if paths or foreign(name) else None


def _is_list(annotation: object) -> bool:
    inner = get_args(annotation)
    return get_origin(annotation) in (list, tuple) or any(map(_is_list, inner))


def homes(name: str) -> tuple[str, ...]:
    """Where a key of this name stands, dotted: `every_steps` stands in two sections."""
    return tuple(f"{section}.{name}" for section, keys in sections().items() if name in keys)


def suggest(
    path: tuple[str, ...], taken: Iterable[str] = (), value: object = None, text: str | None = None
) -> Suggestion | None:
    """What was most likely meant by an unknown `path`: the same key elsewhere, another trainer's word, then
    what looks like it. taken: keys already written in that place. value: of the key; text: as it is written.
    """
    section, name = path[0], path[-1]
    if len(path) > 1 and section not in sections():
        return _in_another_section(path, text) or counterpart(name, text)
    if isinstance(value, dict) and name in sections():
        return Suggestion(name, f"{name} is a section of its own: move it to the top level", "moved")
    if (key := name.replace(":", ".")) != name.replace(".", "") and is_known(tuple(key.split("."))):
        return Suggestion(key, f"write it in its section: {_below(key, text)}", "moved", value=text)
    if (meant := counterpart(name, text)) is not None:
        return meant
    if len(path) == 1 and isinstance(value, dict):
        return _nearest("section", name, tuple(sections()), "", taken, text)
    inside = sections()[section] if len(path) > 1 else ("deepspeed",)
    what, prefix = (f"key of {section}", f"{section}.") if len(path) > 1 else ("key", "")
    return _nearest(what, name, inside, prefix, taken, text) or _near_elsewhere(name, text)


def suggest_of_source(name: str, taken: Iterable[str]) -> Suggestion | None:
    """What was most likely meant by an unknown key in an entry of data.train."""
    return _nearest("key of a source", name, tuple(SourceSection.model_fields), "", taken, None)


def option_as_override(option: str, text: str) -> str:
    """What to write in place of `--learning_rate 1e-4`, which crossfoot has not. text: the value, "" without
    one.
    """
    name = option.lstrip("-").replace("-", "_")
    path = tuple(name.split("."))
    if is_known(path) and not sections().get(name):
        return f"write {shlex.quote(f'{name}={text}')}" if text else f"write {name}=VALUE"
    meant = suggest(path, text=text)
    if meant is None:
        return f"remove {option}, or set what it means in the config"
    if meant.word:
        return f"write {shlex.quote(meant.word)}"
    if not meant.path:
        why = f": {meant.note}" if meant.note else ""
        return f"remove {option}{why}" if meant.note else f"{option}: {meant.help}"
    return f"write {meant.path}=VALUE{meant.help.removeprefix(_called(meant.path))}"


def counterpart(name: str, text: str | None) -> Suggestion | None:
    """Where a key of this name stands here: one of ours, or another trainer's word for one."""
    if name == "adapter" and (who_asks := NEW_ADAPTERS.get((text or "").lower())) is not None:
        help_ = f"remove it: {who_asks} for a new adapter; model.adapter names one that is there"
        return Suggestion("lora", help_, "foreign")
    return _moved(name, text) or translated(name, text)


def translated(name: str, text: str | None) -> Suggestion | None:
    """Another trainer's word in ours. text: its value, as written; "" or None when there is none."""
    word = foreign(name)
    if word is None:
        return None
    if not word.key:
        return Suggestion("", f"remove {name}" if word.why else word.how, "foreign", word.why)
    called = _called(word.key)
    if word.how:
        return Suggestion(word.key, f"{called}: {word.how}", "foreign")
    given = "true" if text == "" and "true" in word.values else text
    if not given:
        return Suggestion(word.key, called, "foreign", is_sure=not word.values)
    value = word.values.get(given.lower()) if word.values else ours(word.key, given)
    if value is not None and (words := choices(word.key)) and value.strip("\"'") not in words:
        return Suggestion(word.key, f"{called}, which is {listed(words, 'or')}", "foreign")
    if value is not None:
        same = value == given
        return Suggestion(
            word.key, f"{called}: {_below(word.key, value)}", "foreign", value=value, is_sure=same
        )
    if word.values and given.lower() == "false":
        return Suggestion(word.key, f"remove {name}", "foreign", f"{called}, and false says nothing of it")
    note = OTHER_VALUES.get(word.key, {}).get(given.lower(), "")
    return Suggestion(word.key, f"{called}, which is {listed(choices(word.key), 'or')}", "foreign", note)


def _called(key: str) -> str:
    return f"here it is called {key}"


def ours(key: str, text: str) -> str | None:
    """Our value for one of another trainer, as written; None where it is none of our choices."""
    if key == "train.epochs":
        return text.removesuffix(".0")  # Hugging Face's may be a fraction
    words = choices(key)
    bare = text.strip("\"'")
    if not words or bare in words:
        return text
    return synonym(key, bare) or (bare.lower() if bare.lower() in words else None)


def _below(key: str, value: str | None) -> str:
    """`write reference: 1e-4 below lr:`, in words that follow a colon."""
    section, _, name = key.rpartition(".")
    written = f"{name}: {value}" if value else f"{name}:"
    return f"write {written} below {section}:" if section else f"write {written} at the top level"


def _moved(name: str, text: str | None) -> Suggestion | None:
    """The same key in another place."""
    found = homes(name)
    if len(found) > 1:
        return Suggestion(found[0], f"{name} belongs to another section: write {' or '.join(found)}", "moved")
    if found:
        help_ = f"{name} belongs to another section: {_below(found[0], text)}"
        return Suggestion(found[0], help_, "moved", value=text)
    if sections().get(name) == ():
        return Suggestion(name, f"{name} belongs to the top level", "moved", value=text)
    return None


def _in_another_section(path: tuple[str, ...], text: str | None) -> Suggestion | None:
    nearest = _nearest("section", path[0], tuple(sections()), "", (), text)
    if nearest is None or not is_known((nearest.path, *path[1:])):
        return None
    dotted = ".".join((nearest.path, *path[1:]))
    return Suggestion(dotted, f"write {dotted}", value=text)


def _nearest(
    what: str, name: str, known: tuple[str, ...], prefix: str, taken: Iterable[str], text: str | None
) -> Suggestion | None:
    """The most similar of `known`, one that is not written yet before one that is."""
    same = [key for key in known if plainly(key) == plainly(name)]
    similar = same or difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.7)
    if not same:
        part = [key for key in known if len(name) > 2 and (name in key or (len(key) > 3 and key in name))]
        similar = part if len(part) == 1 or not similar else similar
    if not similar:
        return None
    written = set(taken)
    free = [key for key in similar if key not in written]
    if not free:
        return Suggestion(prefix + similar[0], f"the nearest {what} is {similar[0]}, which is written too")
    if len(free) > 1 and max(likeness(name, key) for key in free) < SURELY_MEANT:
        return Suggestion(prefix + free[0], f"near it are {listed(free, 'and')}")
    is_sure = bool(same) or likeness(name, free[0]) >= SURELY_MEANT
    return Suggestion(prefix + free[0], f"the nearest {what} is {free[0]}", value=text, is_sure=is_sure)


def _near_elsewhere(name: str, text: str | None) -> Suggestion | None:
    """A similar key of any section."""
    everywhere = {key: section for section, keys in sections().items() for key in keys if len(key) > 5}
    close = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.8)
    if not close:
        return None
    dotted = f"{everywhere[close[0]]}.{close[0]}"
    return Suggestion(dotted, f"the nearest key is {dotted}", value=text)


def likeness(one: str, other: str) -> float:
    """How like two words are, from 0 to 1."""
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def plainly(name: str) -> str:
    """`microBatchSize`, `micro-batch-size` and `micro_batch_size` are one word; so are two spellings."""
    return re.sub(r"[\W_]", "", name.lower()).replace("optimis", "optimiz")
