"""Reading a launch file of any kind."""

from __future__ import annotations

from crossfoot.finding import Finding
from crossfoot.written.launch.statement import LaunchFile


def read_launch_file(path: str) -> tuple[LaunchFile | None, tuple[Finding, ...]]:
    """A launch file, and what is wrong with it."""
    return None, ()
