"""What was probably meant by a path at which nothing is: another case, ending, letter or folder."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Callable, Iterator

from crossfoot.phrases import listed
from crossfoot.written.look_alikes import to_ascii

NEAR = 0.75
MOST_NAMES = 2_000
"""A folder of more is not searched."""
MOST_FOLDERS = 50
MOST_SHOWN = 3


def nearest_path(path: str, accepts: Callable[[str], bool] = os.path.isfile) -> str | None:
    """A path near this one at which there is what is wanted (os.path.isdir: a folder); None without one."""
    tried = (found for candidate in _candidates(path) if (found := os.path.normpath(candidate)) != path)
    return next((found for found in tried if accepts(found)), None)


def near_help(path: str, accepts: Callable[[str], bool] = os.path.isfile) -> tuple[str, ...]:
    """The help that names it, or those of the same name with another number."""
    found = nearest_path(path, accepts)
    if found:
        return (f"the nearest name there is {found}",)
    folder, name = os.path.split(path)
    others = [os.path.join(folder, each) for each in _names(folder) if _letters(each) == _letters(name)]
    others = [each for each in others if each != path and accepts(each)]
    return (f"beside it is {listed(others[:MOST_SHOWN])}",) if others else ()


def _candidates(path: str) -> Iterator[str]:
    bare = to_ascii(path).strip().strip("\"'").rstrip(",;")
    yield bare
    yield os.path.expanduser(bare)
    for form in ("NFC", "NFD", "NFKC"):
        yield unicodedata.normalize(form, path)
    yield from _corrected(bare)
    yield bare.lstrip("/")
    folder, name = os.path.split(bare)
    while folder and not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    for place in (os.path.dirname(folder), folder, ""):
        yield os.path.join(place, name)
        for inner in _folders(place):
            inside = os.path.join(place, inner)
            yield os.path.join(inside, name)
            if same := _same_name(name, _names(inside)):
                yield os.path.join(inside, same)
            yield os.path.join(place, inner, os.path.basename(os.path.dirname(bare)), name)


def _corrected(path: str) -> Iterator[str]:
    """Each part that is not there becomes the likest name that is."""
    made = "/" if path.startswith("/") else ""
    for part in path.strip("/").split("/"):
        step = os.path.join(made, part)
        if not os.path.lexists(step):
            near = _near_name(part, _names(made))
            if near is None:
                return
            step = os.path.join(made, near)
        made = step
    yield made


def _near_name(name: str, names: list[str]) -> str | None:
    """The same name, or one with another letter or two. Digits are no slips: part-1 is not part-2."""
    if same := _same_name(name, names):
        return same
    folded = {to_ascii(each).casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=NEAR)
    return next((folded[key] for key in close if _digits(key) == _digits(name)), None)


def _same_name(name: str, names: list[str]) -> str | None:
    """The same name in another case, or with another ending."""
    folded = {to_ascii(each).casefold(): each for each in names}
    stem = os.path.splitext(name)[0].casefold()
    same = [each for key, each in folded.items() if stem in (key, os.path.splitext(key)[0])]
    return folded.get(name.casefold()) or next(iter(same), None)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if not letter.isdigit())


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _names(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder or "."))
    except (OSError, ValueError):
        return []
    return names if len(names) <= MOST_NAMES else []


def _folders(folder: str) -> list[str]:
    seen = [name for name in _names(folder) if not name.startswith(".")]
    return [name for name in seen if os.path.isdir(os.path.join(folder, name))][:MOST_FOLDERS]
