"""An answer as it comes, on the terminal."""

from __future__ import annotations

from typing import Any

from transformers.generation.streamers import BaseStreamer

from crossfoot.generating.asking import Asking
from crossfoot.output import say

_HALF = "\ufffd"
"""What is decoded of a character whose last bytes are yet to come."""


class Streamer(BaseStreamer):  # type: ignore[misc]
    """Says the text as far as no later token can change it. ids: of the answer so far."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking
        self._said = 0
        self._is_prompt = True
        self.ids: list[int] = []

    @property
    def text(self) -> str:
        """Of the answer so far."""
        return self._asking.text(self.ids)

    def put(self, value: Any) -> None:
        """transformers hands over the prompt first, then each token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.ids += [one for one in value.flatten().tolist() if one not in self._asking.end_ids]
        text = self.text
        if not text.endswith(_HALF):
            self._say(text)

    def end(self) -> None:
        """The answer is whole."""
        self._say(self.text)
        say()

    def _say(self, text: str) -> None:
        say(text[self._said :], end="")
        self._said = len(text)
