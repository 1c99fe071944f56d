"""Names of machines, as they are handed to ssh, pdsh and launchers: nothing that could be an option."""

from __future__ import annotations

import re

_HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", re.ASCII)
LONGEST_HOST = 253
"""Of a DNS name."""


def is_host_name(text: str) -> bool:
    """Whether a text can be the name, or the IPv4 address, of a machine: letters, digits, `.`, `-` and `_`,
    and no `-` in front.
    """
    return len(text) <= LONGEST_HOST and bool(_HOST.fullmatch(text))


def is_login(text: str) -> bool:
    """The same with a user before it, `NAME` or `USER@NAME`, as ssh and pdsh take it."""
    user, at, host = text.rpartition("@")
    return is_host_name(host) and (not at or is_host_name(user))


def as_host_name(text: str) -> str:
    """A machine's own name as others will read it, whatever it is."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:LONGEST_HOST]
    return plain if is_host_name(plain) else f"_{plain}"[:LONGEST_HOST]
