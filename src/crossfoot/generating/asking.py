"""From what is asked to ids, exactly as in training, and back: the template, the encoder, the end tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from crossfoot.data.conversation import NotTrainable, Turn
from crossfoot.data.samples import Encoder, Texts, coded_texts
from crossfoot.data.templates import Stretch, Template
from crossfoot.findings.finding import Refused
from crossfoot.generating.findings import no_template

_TOLD = (Turn("user", "1 + 1?"), Turn("assistant", "2."))


@dataclass(frozen=True)
class Asking:
    """template: None: texts are continued as they stand. also_ends: ids of tokens that end an answer by the
    model's own files.
    """

    encoder: Encoder
    template: Template | None
    also_ends: tuple[int, ...] = ()

    def ids(self, asked: Sequence[Sequence[Turn]]) -> list[list[int]]:
        """Of each prompt, up to where its answer begins. Raises Refused (CF806)."""
        batch = [Texts(0, number, self._stretches(turns)) for number, turns in enumerate(asked, start=1)]
        return [list(coded.ids) for coded in coded_texts(batch, self.encoder)]

    def _stretches(self, turns: Sequence[Turn]) -> tuple[Stretch, ...]:
        if self.template is not None:
            try:
                return self.template.asked(turns)
            except NotTrainable as error:
                raise Refused(no_template("the template cannot be used", error.reason)) from error
        if len(turns) > 1:
            raise Refused(no_template("a conversation of several turns is asked", "there is no template"))
        return (Stretch(turns[0].text, begins=True),)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """What ends an answer: the token that was trained to, first; and those of the model's files."""
        return tuple(dict.fromkeys((*self._template_end, self.encoder.facts.eos_id, *self.also_ends)))

    @property
    def _template_end(self) -> tuple[int, ...]:
        """The special token that the template writes behind an answer."""
        if self.template is None or not self.template.source:
            return ()
        with suppress(NotTrainable):
            (stretch,) = self.template.rendered(_TOLD, [1])
            begin, end = stretch.trained[-1]
            answer, ids = stretch.text[begin:end].rstrip(), self.encoder.special.ids
            ending = max((text for text in ids if text and answer.endswith(text)), key=len, default=None)
            return () if ending is None else (ids[ending],)
        return ()

    def text(self, ids: Sequence[int]) -> str:
        """Of an answer."""
        return self.encoder.decode(ids)
