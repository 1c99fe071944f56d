"""What the blocks of a run config have in common."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict


class Unsure(AttributeError):
    """A key was asked for that the file has wrong: whoever asks cannot judge this config."""


class Section(BaseModel):
    """A block of the config: unknown keys are errors, types are not guessed, values do not change."""

    # Every verb waits for this module: annotations are real objects (no `from __future__`), so pydantic need
    # not evaluate them from text, and only the whole Config is ever compiled. Together about 50 ms.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    if not TYPE_CHECKING:  # a type checker would take every name for a key

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise Unsure(name)
            return super().__getattr__(name)
