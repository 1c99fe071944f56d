"""`crossfoot chat`: a conversation with a trained model, on the terminal or line by line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from crossfoot.data.conversation import Turn
from crossfoot.findings.finding import Refused
from crossfoot.generating.findings import no_template
from crossfoot.generating.generate import prepare
from crossfoot.generating.speaker import Speaker
from crossfoot.generating.streaming import Streamer
from crossfoot.output import say, tell
from crossfoot.phrases import counted

HELP = "/reset begins anew, /system TEXT sets the system prompt and begins anew, /exit or Ctrl-D ends"


@dataclass
class Conversation:
    """What was said so far. window: tokens the model was made for. first: the system turn, if one is set."""

    speaker: Speaker
    window: int | None
    first: tuple[Turn, ...] = ()
    turns: list[Turn] = field(default_factory=list)
    asked: int = 0

    def order(self, line: str) -> bool:
        """Do what a line with a slash says; False: it is no order."""
        word, _, rest = line.partition(" ")
        if word == "/system":
            self.first = (Turn("system", rest.strip()),) if rest.strip() else ()
        elif word not in ("/reset", "/help"):
            return False
        if word == "/help":
            tell(HELP)
            return True
        self.turns.clear()
        tell("the conversation begins anew")
        return True

    def answer(self, text: str) -> None:
        """Say the answer, and keep both. Ctrl-C ends the answer, and what was said of it is kept."""
        self.turns.append(Turn("user", text))
        ids = self._fitting()
        if ids is None:
            self.turns.pop()
            tell(f"that alone is longer than the {self.window:,} tokens of the model's window")
            return
        streamer = Streamer(self.speaker.asking)
        limit = self._limit(len(ids))
        try:
            (answer,) = self.speaker.answers([ids], limit, self.speaker.settings.seed + self.asked, streamer)
        except KeyboardInterrupt:
            say()
            tell("stopped")
        else:
            if answer.stopped_by == "length":
                tell(f"stopped after {counted(limit, 'token')}: --max-new-tokens gives it more")
        self.asked += 1
        self.turns.append(Turn("assistant", streamer.text))

    def _limit(self, length: int) -> int:
        most = self.speaker.settings.max_new_tokens
        return most if self.window is None else min(most, self.window - length)

    def _fitting(self) -> list[int] | None:
        """The ids of all that is told; the oldest rounds are left out as long as no whole answer fits. None:
        the last question alone leaves no room.
        """
        left_out = 0
        while True:
            (ids,) = self.speaker.asking.ids([(*self.first, *self.turns)])
            most = self.speaker.settings.max_new_tokens
            is_tight = self.window is not None and len(ids) + most > self.window
            if not is_tight or len(self.turns) == 1:
                break
            del self.turns[:2]
            left_out += 1
        if left_out:
            rounds = counted(left_out, "oldest round is", "oldest rounds are")
            tell(f"the window of {self.window:,} tokens is full: its {rounds} left out from here on")
        return None if self.window is not None and len(ids) >= self.window else ids


def chat(path: str, values: Mapping[str, Any]) -> int:
    """The verb; returns the exit code. Raises Refused."""
    asked = prepare(path, values)
    if asked.asking.template is None:
        raise Refused(no_template(f"{path} cannot be chatted with", "it has no template for a conversation"))
    conversation = Conversation(asked.load(), asked.window)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401  # input() then has a history and arrow keys
        tell(HELP)
    while (line := _read(is_terminal)) is not None:
        if line.strip() == "/exit":
            break
        if line.strip() and not conversation.order(line.strip()):
            conversation.answer(line.rstrip("\n"))
    return 0


def _read(is_terminal: bool) -> str | None:
    """The next line; None at the end. Ctrl-C at the prompt begins the line anew."""
    if not is_terminal:
        return sys.stdin.readline() or None
    while True:
        try:
            return input("> ")
        except EOFError:
            tell("")
            return None
        except KeyboardInterrupt:
            tell("")
