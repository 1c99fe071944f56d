"""The resolved config as YAML: every key with its value, defaults too; load_run reads it back equal."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML

from crossfoot.written.config import Config


def dump_config(config: Config) -> str:
    """The whole config as YAML 1.2 text, UTF-8, keys in the order of the reference."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(_plain(config.model_dump(mode="python")), text)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML has no others."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
