"""README.md beside what was trained: a script that can be pasted as it stands, and asks the trained model
with the ids that it was trained on. It needs torch, transformers and peft, and not crossfoot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from crossfoot.data.plain_ids import PlainIds
from crossfoot.models.load import LoadedModel
from crossfoot.models.quantise import packed_layers
from crossfoot.models.start_values import start_values
from crossfoot.written.hub import loadable

_OTHER_IDS = (
    "The ids are made as in training. `AutoTokenizer` and a chat template may make other ids of the "
    "same text: the model then reads what it was not trained on."
)
_SAME_IDS = (
    "`AutoTokenizer` of this folder and its chat template make the ids that were trained: merge.json says of "
    "how many texts it was seen."
)


def usage_page(
    model: PreTrainedModel | PeftModel,
    folder: str,
    tensors: Mapping[str, torch.Tensor],
    loaded: LoadedModel | None,
    ids: PlainIds | None,
    merged: str = "",
    has_proven_tokens: bool = False,
) -> str:
    """The page. folder: where it will lie. tensors: what is saved there. loaded: what it was trained on. ids:
    how ids are made; without, the script ends with the loaded model. merged: of what the model was made, in
    words, when it was merged. has_proven_tokens: AutoTokenizer of the folder makes the trained ids.
    """
    base = _base(model, loaded)
    is_lora = isinstance(model, PeftModel)
    packages = ["torch", "transformers", *(["peft"] if is_lora else []), *(ids.packages if ids else ())]
    what = f"A LoRA adapter, trained with crossfoot on `{base}`." if is_lora else (
        f"A whole model: `{base}` after full fine-tuning with crossfoot."
    )  # fmt: skip
    what = merged or what
    grown = _grown(loaded) if is_lora else 0
    code = "\n".join(
        [
            *_imports(is_lora, ids),
            *_loading(model, folder, base, grown, tensors, loaded),
            *(_asking(ids) if ids else ()),
        ]
    )
    if is_lora and loaded is not None and loaded.merged_first is not None:
        merged = os.path.abspath(loaded.merged_first.folder)
        what += f" It stands on that model with another adapter merged into it first: `{merged}`."
    if start_values(model):
        what += " It was trained beside a changed base (`lora.init`); saved, it stands on the base as it was."
    if next(packed_layers(model), None) is not None:
        what += (
            " The base was kept in 4 or 8 bits; the script loads it whole, which answers a little otherwise."
        )
    words = [what, f"It needs `pip install {' '.join(packages)}`, and this:", f"```python\n{code}\n```"]
    if ids is not None:
        words.append(_SAME_IDS if has_proven_tokens else _OTHER_IDS)
    return "\n\n".join(words) + "\n"


def _base(model: PreTrainedModel | PeftModel, loaded: LoadedModel | None) -> str:
    """A hub id as it is, a folder from the root: the script may be started anywhere."""
    return loadable(loaded.path if loaded is not None else str(model.config.name_or_path or "the base model"))


def _grown(loaded: LoadedModel | None) -> int:
    """Rows that the base is grown to; 0 where it was not."""
    return loaded.vocabulary if loaded is not None and loaded.grown_rows else 0


def _imports(is_lora: bool, ids: PlainIds | None) -> Iterator[str]:
    yield "import torch"
    lines = ["from peft import PeftModel"] if is_lora else []
    names = "AutoModelForCausalLM"
    if ids is not None and any("AutoTokenizer" in line for line in ids.ids):
        names += ", AutoTokenizer"
    if ids is not None and not ids.imports.startswith("from transformers"):
        lines.append(ids.imports)
    yield from sorted([*lines, f"from transformers import {names}"])
    yield ""


def _loading(
    model: PreTrainedModel | PeftModel,
    folder: str,
    base: str,
    grown: int,
    tensors: Mapping[str, torch.Tensor],
    loaded: LoadedModel | None,
) -> Iterator[str]:
    yield f"folder = {folder!r}  # where this page lies"
    if not isinstance(model, PeftModel):
        yield f"model = AutoModelForCausalLM.from_pretrained(folder, dtype={model.dtype}).eval()"
        return
    dtype = model.get_base_model().dtype
    yield f"base = AutoModelForCausalLM.from_pretrained({base!r}, dtype={dtype})"
    if loaded is not None and (merged := loaded.merged_first) is not None:
        if merged.rows > loaded.vocabulary_before:
            yield f"base.resize_token_embeddings({merged.rows}, mean_resizing=False)"
        yield f"base = PeftModel.from_pretrained(base, {os.path.abspath(merged.folder)!r}).merge_and_unload()"
    if grown:
        yield f"base.resize_token_embeddings({grown}, mean_resizing=False)  # its vocabulary was grown"
    as_saved = {one.dtype for one in tensors.values()} == {dtype}
    same = ", autocast_adapter_dtype=False" if as_saved and dtype != torch.float32 else ""
    yield f"model = PeftModel.from_pretrained(base, folder{same}).eval()"


def _asking(ids: PlainIds) -> Iterator[str]:
    yield from ("", ids.asked, *ids.ids, "", "with torch.no_grad():")
    yield "    told = model.generate("
    yield "        input_ids=torch.tensor([ids]),"
    yield "        attention_mask=torch.ones(1, len(ids), dtype=torch.long),"
    yield "        max_new_tokens=100,"
    yield "        do_sample=False,"
    yield f"        eos_token_id={ids.eos_id},"
    yield f"        pad_token_id={ids.eos_id},"
    yield "    )"
    yield "new = told[0, len(ids) :].tolist()"
    yield f"print({ids.answer})"
