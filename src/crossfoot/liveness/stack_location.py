"""Where a thread of this process is, for people: the function it hangs in."""

from __future__ import annotations

from pathlib import Path
from types import FrameType


def stack_location(frame: FrameType | None) -> str:
    """The function a thread is in, and the one of ours that called it: `f (package/file.py:12)`."""
    if frame is None:
        return ""
    inner, ours = _shown(frame), ""
    while frame is not None and not ours:
        if frame.f_globals.get("__name__", "").split(".")[0] in ("crossfoot", "__main__"):
            ours = _shown(frame)
        frame = frame.f_back
    return inner if ours in ("", inner) else f"{inner}, called by {ours}"


def is_waiting(frame: FrameType | None) -> bool:
    """Whether a thread is in a collective of torch's."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("torch.distributed", "deepspeed.comm")):
            return True
        frame = frame.f_back
    return False


def _shown(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_name} ({path.parent.name}/{path.name}:{frame.f_lineno})"
