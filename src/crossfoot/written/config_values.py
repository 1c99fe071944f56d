"""What the values of a run config may be: numbers within bounds, texts, lists or one word for them."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from crossfoot.arithmetic.batch import Thresholds
from crossfoot.written.token_rows import is_row_word

# The upper bounds are beyond any cluster and any data: what is larger is a slip of the keyboard.
Count = Annotated[int, Field(ge=1, le=10**9)]
Index = Annotated[int, Field(ge=0, le=10**12)]
Positive = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
"""float32 holds both."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
_UNSEEN = r"\p{C}\p{Zl}\p{Zp}"
"""Characters without a shape of their own: control codes, direction marks, line separators."""
Text = Annotated[str, StringConstraints(min_length=1, pattern=rf"^[^{_UNSEEN}]*$")]
Reason = Annotated[str, StringConstraints(pattern=rf"^[^{_UNSEEN}]*[^\s{_UNSEEN}][^{_UNSEEN}]*$")]
Name = Annotated[str, StringConstraints(min_length=1, pattern=rf"^[^{_UNSEEN}/\\.][^{_UNSEEN}/\\]*$")]

Column = Literal[
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "messages",
    "conversations",
    "role",
    "content",
    "prompt",
    "completion",
    "text",
]
"""Fields of records, and of the turns of a conversation, as they are read."""

_LAZILY = ConfigDict(strict=True, defer_build=True)
_ONE_COUNT = TypeAdapter[int](Count, config=_LAZILY)
_PAIRS = TypeAdapter[list[tuple[int, int]]](
    Annotated[list[Annotated[tuple[Index, Count], Field(strict=False)]], Field(min_length=1)], config=_LAZILY
)
_COUNTS = TypeAdapter[list[int]](Annotated[list[Count], Field(min_length=1)], config=_LAZILY)


def one_or_each(value: Any, _: object) -> int | tuple[int, ...]:
    """A count, or a list of them. What is wrong with it is said of the one or of the other, not of both."""
    return (
        tuple(_COUNTS.validate_python(value))
        if isinstance(value, list)
        else _ONE_COUNT.validate_python(value)
    )


_NAMES = TypeAdapter[list[str]](Annotated[list[Text], Field(min_length=1)], config=_LAZILY)
ALL_LINEAR = "all-linear"


_TEXT = TypeAdapter[str](Text, config=_LAZILY)


def text_or(section: type[BaseModel]) -> Callable[[Any, object], Any]:
    """A text, or the section that says more. What is wrong with it is said of the one or of the other."""

    def validated(value: Any, _: object) -> Any:
        return (
            section.model_validate(value)
            if isinstance(value, dict | section)
            else _TEXT.validate_python(value)
        )

    return validated


def names_or_all(value: Any, _: object) -> list[str] | str:
    """Names of modules, or the one word for all of them."""
    return ALL_LINEAR if value in (ALL_LINEAR, [ALL_LINEAR]) else _NAMES.validate_python(value)


DEFAULT_START = "default"
_STARTS = re.compile(r"default|pissa|pissa_niter_[1-9]\d?|olora")
_SOME_STARTS = TypeAdapter[str](Literal["default", "pissa", "pissa_niter_16", "olora"], config=_LAZILY)
_NEW = TypeAdapter[str](Literal["new"], config=_LAZILY)
_IDS = TypeAdapter[list[int]](Annotated[list[Index], Field(min_length=1)], config=_LAZILY)


def start_of_lora(value: Any, _: object) -> str:
    """peft's words for how the matrices of an adapter begin; `default` is its True."""
    is_one = isinstance(value, str) and _STARTS.fullmatch(value)
    return str(value) if is_one else _SOME_STARTS.validate_python(value)


def rows_or_new(value: Any, _: object) -> list[int | str] | str | None:
    """Ids of tokens and ranges of them, or the one word for those that the tokenizer adds."""
    if value is None or is_row_word(value):
        return value if value is None else [value]
    if isinstance(value, list):
        _IDS.validate_python([0 if is_row_word(word) else word for word in value])
        return value
    return _NEW.validate_python(value)


_FILES = TypeAdapter[list[str]](list[Text], config=_LAZILY)
_SHARE = TypeAdapter[float](Annotated[float, Field(gt=0, lt=1)], config=_LAZILY)


def files_or_part(value: Any, _: object) -> list[str] | int | float:
    """Names of files, a share of something, or a count."""
    if isinstance(value, float):
        return _SHARE.validate_python(value)
    return _ONE_COUNT.validate_python(value) if type(value) is int else _FILES.validate_python(value)


def one_or_in_time(value: Any, _: object) -> int | Thresholds:
    """A count, or a list of pairs: from so many samples on, that count."""
    return (
        tuple(_PAIRS.validate_python(value)) if isinstance(value, list) else _ONE_COUNT.validate_python(value)
    )
