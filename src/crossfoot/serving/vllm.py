"""The command that starts vLLM with a model, or with an adapter beside its base. It is shown, not started:
vLLM wants an environment of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.findings.finding import Refused
from crossfoot.model_source.findings import base_not_here
from crossfoot.serving.findings import not_for_vllm
from crossfoot.serving.model_folder import Served
from crossfoot.serving.server import url_of
from crossfoot.shell_words import joined
from crossfoot.written.adapter_folder import AdapterFolder, open_adapter

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""That --max-lora-rank takes."""


def vllm_page(path: str, served: Served | None, host: str, port: int, dtype: str | None) -> str:
    """The command, and what it needs. served: the merged model; None: the adapter `path` as it is. Raises
    Refused.
    """
    if served is not None:
        words = ["vllm", "serve", str(served.folder), "--served-model-name", served.name]
        name = served.name
    else:
        adapter = open_adapter(path)
        if reasons := tuple(_refused_by_vllm(adapter)):
            command = ("crossfoot", "serve", path, "--with", "vllm")
            raise Refused(not_for_vllm(path, reasons, command))
        base = str(adapter.values.get("base_model_name_or_path") or "")
        if not base:
            raise Refused(base_not_here(path, base, "serve"))
        rank = next(each for each in _RANKS if each >= _rank(adapter))
        name = "adapter"
        words = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{name}={adapter.folder}"]
        words += ["--max-lora-rank", str(rank)]
    words += ["--host", host, "--port", str(port)]
    words += [] if dtype is None else ["--dtype", dtype]
    return f"""\
{joined(words)}

  start it in an environment of its own, on a machine with a GPU:
    python3 -m venv vllm && vllm/bin/pip install vllm sentencepiece   (then: vllm/bin/vllm serve ...)
  it answers at {url_of(host, port)}/v1 with the model {name}; to see what it bears:
    crossfoot loadtest {url_of(host, port)} --model {name}"""


def _rank(adapter: AdapterFolder) -> int:
    values = adapter.values
    return max([int(values.get("r") or 8), *map(int, (values.get("rank_pattern") or {}).values())])


def _refused_by_vllm(adapter: AdapterFolder) -> Iterator[str]:
    values = adapter.values
    if whole := values.get("modules_to_save"):
        yield f"it brings whole tables ({', '.join(map(str, whole))})"
    elif adapter.rows:
        yield "it brings a whole table of tokens"
    if values.get("trainable_token_indices"):
        yield "it brings rows of tokens"
    if values.get("use_dora"):
        yield "it is DoRA"
    if values.get("bias", "none") != "none":
        yield "it brings biases"
    if adapter.merged_first:
        yield f"its base has another adapter merged into it ({adapter.merged_first})"
    if (rank := _rank(adapter)) > _RANKS[-1]:
        yield f"its rank is {rank}"
