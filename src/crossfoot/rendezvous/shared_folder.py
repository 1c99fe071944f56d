"""Rank 0 makes the run folder its own, and every rank proves that it sees the same one: a random word that
rank 0 writes there is read by all.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossfoot.documents import plain
from crossfoot.findings.finding import Finding, Refused
from crossfoot.rendezvous.findings import folder_not_shared
from crossfoot.rendezvous.rendezvous import Rendezvous
from crossfoot.runs.run_folder import system_refused
from crossfoot.written.run_file import RunFile

NONCE_WAIT_SECONDS = 10.0
"""A network file system may show a new file late."""


def acquire_folder(
    run: RunFile, rank: int, rendezvous: Rendezvous | None, take: Callable[[], str]
) -> tuple[tuple[str, ...], str]:
    """Make the run folder on rank 0, and see it on all. Returns every rank's host, and what rank 0 told all.

    take: called on rank 0 only: makes the folder and returns the text for all. rendezvous: where the ranks
    meet; None for a rank that is alone. Raises Refused, on all ranks together.
    """
    host = socket.gethostname()
    if rendezvous is None:
        return (host,), take()
    nonce, told = "", ""
    refused: tuple[Finding, ...] = ()
    if rank == 0:
        nonce = secrets.token_hex(8)
        try:
            told = take()
            _write(_witness(run, nonce), nonce)
        except Refused as refusal:
            refused = refusal.findings
    texts = rendezvous.exchange(json.dumps(plain(_Said(host, nonce, told))))
    said = [rendezvous.read(text, _Said) for text in texts]
    hosts, first = tuple(one.host for one in said), said[0]
    rendezvous.share_refusal(refused)
    witness = _witness(run, first.nonce)
    sees = rendezvous.exchange("yes" if _reads(witness, first.nonce) else "no")
    if rank == 0:
        witness.unlink(missing_ok=True)
    rendezvous.refuse_together(
        [
            folder_not_shared(f"rank {number} on {hosts[number]}", f"rank 0 on {hosts[0]}", run.run_dir)
            for number, answer in enumerate(sees)
            if answer == "no"
        ]
    )
    return hosts, first.told


@dataclass(frozen=True)
class _Said:
    """What a rank says. nonce, told: rank 0's word, and what it tells all; "" of others."""

    host: str
    nonce: str
    told: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]*", self.nonce):
            raise ValueError(f"{self.nonce!r} is no word of ours")


def _witness(run: RunFile, nonce: str) -> Path:
    return Path(run.run_dir) / f".nonce-{nonce}"


def _write(path: Path, text: str) -> None:
    """Write the word, or raise Refused with what the system says."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        error.filename = str(path.parent)  # a full disk names no file, and the nonce's name means nothing
        raise Refused(system_refused(error)) from error


def _reads(path: Path, expected: str) -> bool:
    deadline = time.monotonic() + NONCE_WAIT_SECONDS
    while True:
        try:
            if path.read_text(encoding="utf-8") == expected:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
