"""The resolved config as YAML: every key with its value, defaults too; load_run reads it back equal."""

from __future__ import annotations

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

from crossfoot.written.config import Config
from crossfoot.written.look_alikes import has_look_alikes
from crossfoot.written.meant_value import NOTHING


def dump_config(config: Config) -> str:
    """The whole config as YAML 1.2 text, UTF-8, keys in the order of the reference."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Quoting
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.width = 10_000
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(_plain(config.model_dump(mode="python")), text)
    return text.getvalue()


class _Quoting(SafeRepresenter):
    """Puts quotes around text that a reader would else ask about."""

    def text(self, value: str) -> Any:
        """A text, in quotes when it looks like something else."""
        asks = has_look_alikes(value) or value.lower() in NOTHING
        return self.represent_scalar("tag:yaml.org,2002:str", value, style='"' if asks else None)


_Quoting.add_representer(str, _Quoting.text)


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML has no others."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
