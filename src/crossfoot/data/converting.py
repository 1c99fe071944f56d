"""Commands that make a file that is read out of one that is not: they can be pasted as they stand, and write
over no file that is there.
"""

from __future__ import annotations

import os
import shlex
from itertools import count

from crossfoot.data.numbering import is_json_list, kind_of

_WRITE = (
    'open({new}, "x", encoding="utf-8").writelines(json.dumps({record}, ensure_ascii=False) + "\\n" {loop})'
)


def new_name(path: str, ending: str) -> str:
    """A name beside the file, with another ending, that nothing has: `a.json` -> `a.utf8.json`."""
    stem = path
    while kind_of(stem) in (".json", ".jsonl", ".parquet", ".txt", ".csv", ".tsv", ".gz", kind_of(path)):
        stem, dropped = os.path.splitext(stem)
        if not dropped:
            break
    names = (f"{stem}{f'-{n}' if n else ''}{ending}" for n in count())
    return next(name for name in names if not os.path.lexists(name))


def renamed(path: str, ending: str) -> str:
    """A help: the same bytes under a name with another ending."""
    name = new_name(path, ending)
    return f"give it a name that says what it is, and name that: mv -n {_words(path, name)}"


def recoded(path: str, encoding: str) -> str:
    """A help: the same text in UTF-8. encoding: as iconv calls it."""
    name = new_name(path, f".utf8{kind_of(path)}")
    return f"convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {shlex.quote(name)}"


def recoded_in_place(path: str, encoding: str) -> str:
    """A help: the file itself becomes UTF-8, and the old one stays beside it, under a name nobody reads."""
    new, old = (new_name_behind(path, ending) for ending in ("utf8", encoding.lower()))
    steps = (
        f"iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {shlex.quote(new)}",
        f"mv -n {_words(path, old)}",
        f"mv -n {_words(new, path)}",
    )
    return f"convert it, and keep the old one: {' && '.join(steps)}"


def new_name_behind(path: str, ending: str) -> str:
    """The first of `PATH.ending`, `PATH.ending-1`, ... that nothing has."""
    names = (f"{path}.{ending}{f'-{n}' if n else ''}" for n in count())
    return next(name for name in names if not os.path.lexists(name))


def converted(path: str, record: str) -> str:
    """A help: every record r of the file as the Python expression `record` says."""
    if kind_of(path) == ".parquet":
        rows = f"for r in pyarrow.parquet.read_table({_text(path)}).to_pylist()"
        return _python(path, "import json, pyarrow.parquet; ", record, rows)
    if is_json_list(path):
        return _python(path, "import json; ", record, f"for r in json.load({opened(path)})")
    loop = f"for line in {opened(path)} if line.strip() for r in [json.loads(line)]"
    return _python(path, "import json; ", record, loop)


def from_arrow(path: str, opens: str) -> str:
    """A help: the same table as Parquet. opens: the function of pyarrow.ipc."""
    name = new_name(path, ".parquet")
    table = f"ipc.{opens}({_text(path)}).read_all()"
    script = (
        f"import pyarrow.ipc as ipc, pyarrow.parquet as parquet; parquet.write_table({table}, {_text(name)})"
    )
    return f"write it anew, and name {name}: python3 -c {shlex.quote(script)}"


def from_python(path: str) -> str:
    """A help: lines that are Python's, not JSON's."""
    loop = f"for line in {opened(path)} if line.strip() for r in [ast.literal_eval(line)]"
    return _python(path, "import ast, json; ", "r", loop)


def taken_out(path: str, records: str) -> str:
    """A help: the records that the Python expression `records` finds in the file's only value d."""
    loop = f"for d in [json.load({opened(path)})] for r in {records}"
    return _python(path, "import json; ", "r", loop)


def one_a_line(path: str) -> str:
    """A help: objects over several lines each, one after the other."""
    name = new_name(path, ".records.jsonl")
    return f"write one a line, and name {name}: jq -c . {shlex.quote(path)} > {shlex.quote(name)}"


def bracketed(path: str) -> str:
    """A help: objects with commas between them."""
    records = f'json.loads("[" + {opened(path)}.read().strip().rstrip(",") + "]")'
    return _python(path, "import json; ", "r", f"for r in {records}")


def opened(path: str) -> str:
    """Python that opens a file of text."""
    return f'open({_text(path)}, encoding="utf-8-sig")'


def _python(path: str, imports: str, record: str, loop: str) -> str:
    name = new_name(path, ".records.jsonl")
    script = imports + _WRITE.format(new=_text(name), record=record, loop=loop)
    return f"write them anew, and name {name}: python3 -c {shlex.quote(script)}"


def _text(text: str) -> str:
    """As Python reads it, in double quotes where that is possible: the script stands in single ones."""
    quoted = repr(text)
    return f'"{text}"' if quoted == f"'{text}'" and '"' not in text else quoted


def _words(*paths: str) -> str:
    return " ".join(map(shlex.quote, paths))
