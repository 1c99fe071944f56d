"""JSON that anybody may have written, read as what it should be: a value of the type that is wanted, or what
is wrong and under which key.

Every paper of a run is read here. Types come from the annotations of a dataclass; what must hold besides (a
step is not negative) its `__post_init__` says by a ValueError. A field with a default may be absent; keys
that nobody knows are left alone: an older version reads a newer paper of the same format.
"""

from __future__ import annotations

import errno
import json
import math
import os
import reprlib
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Read = TypeVar("Read")
Reader = Callable[[object], Any]

MOST_BYTES = 64 << 20
"""Of a document that is read whole; the manifest of a model with 100,000 tensors has a quarter of it."""
MOST_LEVELS = 40
"""One list or object in another. What reads a document level by level must not run out of stack."""
LARGEST_INTEGER = (1 << 63) - 1
"""Whatever is counted fits into 64 bits."""
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


class Malformed(ValueError):
    """What a document has that it should not. line, column: where its JSON breaks, 1-based; 0 where it is
    JSON.
    """

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.line, self.column = line, column

    def said_of(self, what: str) -> str:
        """With the document's name: `the lock is not JSON`, `the lock: seed is 'x', not a number`."""
        own = str(self)
        return f"{what} {own.removeprefix('it ')}" if own.startswith("it ") else f"{what}: {own}"


class _Wrong(Exception):
    """A value is not what it should be. keys: the way to it, outermost first."""

    def __init__(self, reason: str, *keys: str) -> None:
        super().__init__(reason)
        self.keys = list(keys)


def open_file(path: str | os.PathLike[str]) -> int:
    """A descriptor for reading. Raises OSError, also for what is no file of bytes: a pipe would be waited for
    without end.
    """
    # O_NONBLOCK: to open a pipe waits for whoever writes there
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_file(path: str | os.PathLike[str], most_bytes: int | None = MOST_BYTES) -> bytes:
    """A file's bytes. Raises OSError, also for one that is larger."""
    with open(open_file(path), "rb") as file:
        content = file.read() if most_bytes is None else file.read(most_bytes + 1)
    if most_bytes is not None and len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes:,} bytes", os.fspath(path))
    return content


def parse(text: str | bytes) -> Any:
    """The value that JSON text (bytes: UTF-8) stands for. Raises Malformed, for NaN and infinities too."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Malformed(f"it is not JSON: {error.msg}", error.lineno, error.colno) from error
    except UnicodeDecodeError as error:
        raise Malformed("it is not UTF-8 text") from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except ValueError as error:  # a constant, or a number of thousands of digits
        raise Malformed(str(error)) from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The same for a JSON object of at most MOST_LEVELS levels. Raises Malformed."""
    document = parse(text)
    if not isinstance(document, dict):
        raise Malformed("it is not a JSON object")
    if _is_deeper(document, MOST_LEVELS):
        raise Malformed("it is nested too deeply")
    return document


def read_object(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises OSError and Malformed."""
    return parse_object(read_file(path, most_bytes))


def value_of(kind: type[Read], value: object) -> Read:
    """A value of the type that is wanted, from what JSON holds. Raises Malformed, naming the key.

    kind: a dataclass, or anything that its fields are annotated with. A list becomes a tuple. A float may be
    one of the words "nan", "inf" and "-inf", as we write it.
    """
    try:
        return cast(Read, _reader(cast(Any, kind))(value))
    except _Wrong as wrong:
        key = ".".join(wrong.keys)
        raise Malformed(f"{key} {wrong}" if key else f"it {wrong}") from wrong


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, tuples as lists, paths as text, and for the floats that
    JSON has no word for "nan", "inf" and "-inf". `value_of` is the reverse.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in value)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _not(value: object, kind: Any) -> _Wrong:
    return _Wrong(f"is {_SHOWN.repr(value)}, not {_words(kind)}")


def _words(kind: Any) -> str:
    """What is wanted, for people."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_words(one) for one in inside))
    if origin is Literal:
        return " or ".join(repr(one) for one in inside)
    if origin is tuple:
        return "a list"
    return _WORDS.get(kind, "an object")


def _read_int(value: object) -> int:
    if type(value) is not int or not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise _not(value, int)
    return value


def _read_float(value: object) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return float(_read_int(value)) if type(value) is int else _fail(value, float)


def _read_text(value: object) -> str:
    if type(value) is not str or "\0" in value:
        raise _not(value, str)
    return value


def _read_exactly(kind: type) -> Reader:
    def read(value: object) -> object:
        return value if type(value) is kind else _fail(value, kind)

    return read


def _fail(value: object, kind: Any) -> NoReturn:
    raise _not(value, kind)


@cache
def _reader(kind: Any) -> Reader:
    """What reads values of a type."""
    scalars: dict[Any, Reader] = {int: _read_int, float: _read_float, str: _read_text}
    scalars |= {bool: _read_exactly(bool), NoneType: _read_exactly(NoneType), Any: lambda value: value}
    scalars[Path] = lambda value: Path(_read_text(value))
    if kind in scalars:
        return scalars[kind]
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _reader_of_union(kind, inside)
    if origin is Literal:
        # 1 is True, and neither is the other here
        return lambda value: (
            value if any(value is one or value == one for one in inside) else _fail(value, kind)
        )
    if origin is tuple and inside[1:] == (...,):
        return _reader_of_list(kind, _reader(inside[0]))
    if origin is tuple:
        return _reader_of_row(kind, [_reader(one) for one in inside])
    if is_dataclass(kind):
        return _reader_of_dataclass(cast(type, kind))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _reader_of_mapping(kind, _reader(inside[1]))
    raise TypeError(f"no document has a {kind!r}")


def _reader_of_union(kind: Any, inside: tuple[Any, ...]) -> Reader:
    readers = [_reader(one) for one in inside if one is not NoneType]
    may_be_null = NoneType in inside

    def read(value: object) -> object:
        if value is None and may_be_null:
            return None
        if len(readers) == 1:
            return readers[0](value)
        for reader in readers:
            try:
                return reader(value)
            except _Wrong:
                continue
        raise _not(value, kind)

    return read


def _reader_of_list(kind: Any, reader: Reader) -> Reader:
    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _not(value, kind)
        found = []
        for number, one in enumerate(value):
            try:
                found.append(reader(one))
            except _Wrong as wrong:
                wrong.keys.insert(0, str(number))
                raise
        return tuple(found)

    return read


def _reader_of_row(kind: Any, readers: Sequence[Reader]) -> Reader:
    def read(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(readers):
            raise _not(value, kind)
        found = []
        for number, (reader, one) in enumerate(zip(readers, value, strict=True)):
            try:
                found.append(reader(one))
            except _Wrong as wrong:
                wrong.keys.insert(0, str(number))
                raise
        return tuple(found)

    return read


def _reader_of_mapping(kind: Any, reader: Reader) -> Reader:
    def read(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _not(value, kind)
        found = {}
        for key, one in value.items():
            try:
                found[_read_text(key)] = reader(one)
            except _Wrong as wrong:
                wrong.keys.insert(0, key)
                raise
        return found

    return read


def _reader_of_dataclass(kind: type) -> Reader:
    hints = get_type_hints(kind)
    read_fields = [(one.name, _reader(hints[one.name]), _is_needed(one)) for one in fields(kind) if one.init]
    names = tuple(name for name, _, _ in read_fields)
    counts_only = all(reader is _read_int and needed for _, reader, needed in read_fields)

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise _not(value, kind)
        if counts_only:  # most of a long ledger is these
            numbers = [value.get(name) for name in names]
            if all(type(one) is int and -LARGEST_INTEGER <= one <= LARGEST_INTEGER for one in numbers):
                return _made(kind, dict(zip(names, numbers, strict=True)))
        found = {}
        for name, reader, is_needed in read_fields:
            if name not in value:
                if is_needed:
                    raise _Wrong("is missing", name)
                continue
            try:
                found[name] = reader(value[name])
            except _Wrong as wrong:
                wrong.keys.insert(0, name)
                raise
        return _made(kind, found)

    return read


def _is_needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _made(kind: type, values: Mapping[str, Any]) -> object:
    try:
        return kind(**values)
    except ValueError as error:
        raise _Wrong(f"cannot be: {error}") from error
