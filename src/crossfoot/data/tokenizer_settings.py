"""What the files beside a vocabulary say: special tokens, added tokens, flags. Read as transformers reads
them, by the json module alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

JSON_FILE, MODEL_FILE, VOCAB_FILE = "tokenizer.json", "tokenizer.model", "vocab.json"
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens in the order in which transformers gives ids to those that have none."""
TOKEN_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Settings:
    """values: of tokenizer_config.json. added: tokens by id. is_old: without added_tokens_decoder, from
    the time when special_tokens_map.json and added_tokens.json were files of their own, and overruled it.
    """

    values: Mapping[str, Any]
    added: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    is_old: bool = False

    @property
    def splits_specials(self) -> bool:
        """Whether a special token that a text spells out is tokenised as text, the template's own ones
        too.
        """
        return bool(self.values.get("split_special_tokens", False))

    @property
    def named(self) -> dict[str, dict[str, Any]]:
        """Special tokens by name (eos_token, image_token), in the order in which they get ids."""
        more = self.values.get("extra_special_tokens")
        values = {**dict.fromkeys(NAMES), **self.values, **(more if isinstance(more, dict) else {})}
        tokens = {name: _token(value) for name, value in values.items() if name.endswith("_token")}
        return {name: {**token, "special": True} for name, token in tokens.items() if token}

    def specials(self) -> list[dict[str, Any]]:
        """All special tokens, the nameless ones last; none twice."""
        more = self.values.get("extra_special_tokens")
        if not more or isinstance(more, dict):
            more = self.values.get("additional_special_tokens") or ()
        tokens = [*self.named.values(), *filter(None, map(_token, more))]
        return list({token["content"]: token for token in reversed(tokens)}.values())[::-1]

    def padded_with(self, pad_token: str | None) -> Settings:
        """The same, with the pad token that a tokenizer.json pads with, where the files beside it name
        none.
        """
        if pad_token is None or "pad_token" in self.values:
            return self
        return replace(self, values={**self.values, "pad_token": pad_token})

    def to_add(self, have: Collection[str]) -> list[Mapping[str, Any]]:
        """The tokens that a tokenizer.json gets besides its own added ones, `have`."""
        added = [token for token in self.added.values() if not self.is_old or token["content"] not in have]
        known = {*have, *(token["content"] for token in self.added.values())}
        return [*added, *(token for token in self.specials() if token["content"] not in known)]

    def declared(self) -> frozenset[str]:
        """The texts of added tokens that are marked as special."""
        return frozenset(token["content"] for token in self.added.values() if token.get("special"))


def read_settings(folder: str) -> Settings:
    """The settings of a tokenizer's folder. Raises OSError, ValueError for a file that is no JSON object."""
    values = read_object(folder, "tokenizer_config.json")
    if "added_tokens_decoder" in values:
        tokens = {int(number): _token(token) for number, token in values["added_tokens_decoder"].items()}
        return Settings(values, {number: token for number, token in sorted(tokens.items()) if token})
    settings = Settings({**values, **read_object(folder, "special_tokens_map.json")}, is_old=True)
    special = {token["content"] for token in settings.specials()}
    added = {
        int(number): {"content": text, "special": text in special, "normalized": text not in special}
        for text, number in read_object(folder, "added_tokens.json").items()
    }
    return Settings(settings.values, dict(sorted(added.items())), is_old=True)


def _token(value: Any) -> dict[str, Any] | None:
    """A token as the fields of an AddedToken; None when the value is none."""
    fields = {"content": value, "special": True} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(content := fields.get("content"), str) or not content:
        return None
    return {name: fields[name] for name in TOKEN_FIELDS if name in fields}


def read_object(folder: str, name: str) -> dict[str, Any]:
    """A JSON object in the folder; {} when the file is not there. Raises ValueError for anything else."""
    file = os.path.join(folder, name)
    if not os.path.isfile(file):
        return {}
    with open(file, encoding="utf-8") as stream:
        values = json.load(stream)
    if not isinstance(values, dict):
        raise ValueError(f"{name} is no object")
    return values
