"""SLURM's own notations: tasks per node, node lists, and a port made from a job id. Pure text in, numbers
out.

Source: the environment variables section of `man srun`, and `man scontrol` (show hostnames).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FIRST_PORT = 20_000
NUM_PORTS = 12_000
STEPS_PER_JOB = 8

_TASKS = re.compile(r"(?P<tasks>[1-9]\d*)(?:\(x(?P<nodes>[1-9]\d*)\))?")
_RANGE = re.compile(r"(?P<low>\d+)(?:-(?P<high>\d+))?")


def tasks_per_node(text: str) -> tuple[int, ...]:
    """Tasks on each node, in node order: `2(x2),1` is (2, 2, 1). ValueError for anything else."""
    counts: list[int] = []
    for piece in text.split(","):
        found = _TASKS.fullmatch(piece.strip())
        if found is None:
            raise ValueError(f"{text!r} is not a list like 2(x2),1")
        counts += [int(found["tasks"])] * int(found["nodes"] or 1)
    return tuple(counts)


def first_host(node_list: str) -> str:
    """The first host of a node list: `node[1-2,5]` is node1, `a1,b[01-03]` is a1. ValueError when it has
    none."""
    host = next(hosts(node_list), None)
    if host is None:
        raise ValueError("the node list is empty")
    return host


def hosts(node_list: str) -> Iterator[str]:
    """Every host of a node list, in the order `scontrol show hostnames` prints them; zeros in front are kept.

    Several brackets in one name are allowed (`rack[1-2]node[1-2]`). ValueError for brackets that do not
    close, empty ranges and names that are not host names.
    """
    for pattern in _split_outside_brackets(node_list):
        for host in _expand(pattern):
            if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?", host) is None:
                raise ValueError(f"{host!r} is not a host name")
            yield host


def port_of_job(job_id: int, step_id: int = 0) -> int:
    """A port that every task of a step computes alike and that neighbouring jobs and steps do not share.

    20000 to 31999: below the range that Linux hands out for outgoing connections (from 32768).
    """
    return FIRST_PORT + (job_id * STEPS_PER_JOB + step_id) % NUM_PORTS


def _split_outside_brackets(node_list: str) -> list[str]:
    pieces, depth, piece = [], 0, ""
    for character in node_list.strip():
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth not in (0, 1):
            raise ValueError(f"brackets of {node_list!r} do not match")
        if character == "," and depth == 0:
            pieces.append(piece)
            piece = ""
        else:
            piece += character
    if depth:
        raise ValueError(f"brackets of {node_list!r} do not match")
    return [piece.strip() for piece in [*pieces, piece] if piece.strip()]


def _expand(pattern: str) -> Iterator[str]:
    head, bracket, rest = pattern.partition("[")
    if not bracket:
        yield pattern
        return
    inside, _, tail = rest.partition("]")
    tails = list(_expand(tail)) if tail else [""]
    for piece in inside.split(","):
        found = _RANGE.fullmatch(piece.strip())
        if found is None or int(found["high"] or found["low"]) < int(found["low"]):
            raise ValueError(f"{piece!r} in {pattern!r} is not a range like 01-03")
        for number in range(int(found["low"]), int(found["high"] or found["low"]) + 1):
            for end in tails:
                yield f"{head}{number:0{len(found['low'])}d}{end}"
