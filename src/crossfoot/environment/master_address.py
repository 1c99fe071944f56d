"""Where the ranks meet: is the address known, is the port free. Asked of the system, without torch."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping

from crossfoot.environment import findings
from crossfoot.environment.world import World, rendezvous
from crossfoot.findings.finding import Refused
from crossfoot.phrases import reason_of

_PAUSE_SECONDS = 0.2
_ONE_TRY_SECONDS = 5.0


def look_at_meeting_point(world: World, environ: Mapping[str, str]) -> dict[str, str]:
    """What to export for torch.distributed, once the address is known to resolve and rank 0's port is free.

    Raises Refused: CF417 (nothing says where), CF433 (the address is unknown), CF434 (the port is taken).
    """
    told = rendezvous(world, environ)
    address, port = told["MASTER_ADDR"], int(told["MASTER_PORT"])
    host = socket.gethostname()
    try:
        socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(findings.address_unknown(address, world.rank, host, reason_of(error))) from error
    if world.rank == 0 and not is_held_by_launcher(environ) and (why := why_not_free(port)):
        raise Refused(findings.port_taken(port, host, why))
    return told


def is_held_by_launcher(environ: Mapping[str, str]) -> bool:
    """Whether the port is held by torchrun's own agent, and not by rank 0."""
    return environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() == "true"


def why_not_free(port: int) -> str | None:
    """What the system says against listening on this port; None when it can be had. 0 is any port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return reason_of(error)
    return None


def is_own_address(address: str) -> bool:
    """Whether an address belongs to this machine: a socket can be bound to it. True when unsure."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.bind(place)
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def wait_for_listener(address: str, port: int, patience_seconds: float) -> str | None:
    """Wait until something listens there: None. Else what the system said last."""
    deadline = time.monotonic() + patience_seconds
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection((address, port), timeout=max(0.1, min(left, _ONE_TRY_SECONDS))).close()
        except OSError as error:
            if time.monotonic() >= deadline:
                return reason_of(error)
            time.sleep(_PAUSE_SECONDS)
        else:
            return None
