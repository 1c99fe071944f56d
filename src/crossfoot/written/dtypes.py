"""What a model can be computed in, by the names of torch."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
