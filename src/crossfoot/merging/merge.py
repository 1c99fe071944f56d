"""`crossfoot merge`: base and adapters as one model folder, which plain transformers, vLLM and the converter
of llama.cpp load. Made tensor by tensor, beside the place where it will be, and proven there.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from crossfoot import __version__
from crossfoot.data.encoders import LibraryEncoder
from crossfoot.data.saved_tokenizer import save_tokenizer
from crossfoot.data.tokenizer import CHAT_TEMPLATE, TOKENIZER_FILES, load_encoder, tokenizer_path
from crossfoot.digests import sha256_of_file
from crossfoot.durable import made, name_folder
from crossfoot.findings.finding import Finding, Refused
from crossfoot.findings.formats import show
from crossfoot.merging.base_files import BaseFiles
from crossfoot.merging.findings import no_room, not_proven, other_ids
from crossfoot.merging.logit_proof import Proof, prompts_of, prove_merged, seeded_prompts
from crossfoot.merging.source import open_source
from crossfoot.merging.stages import MergedTensors, Stage
from crossfoot.merging.tensor_writer import Form, write_tensors
from crossfoot.merging.token_proof import TokenProof, prove_tokenizer
from crossfoot.model_source.source import ModelSource
from crossfoot.model_source.trained_run import TrainedRun
from crossfoot.models.findings import export_taken, not_saved
from crossfoot.models.folder_beside import clear_leftovers, folder_beside, open_to_others
from crossfoot.models.load import DTYPES, read_model_config
from crossfoot.models.usage_page import usage_page
from crossfoot.output import say, tell
from crossfoot.phrases import counted, said_by, size
from crossfoot.written.model_facts import CONFIG_JSON, read_config_json

MERGE_JSON = "merge.json"
MERGE_FORMAT = 1
_DISK_SHARE = 1.01
"""Of the tensors' bytes: tokenizer, settings."""
_KEPT_FILES = ("generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""Of the base, that belong to the merged model too."""
_LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def merge(
    path: str, out: str, step: int | None = None, dtype: str | None = None, base: str | None = None
) -> int:
    """The verb; returns the exit code: 3 when the folder is not proven. step: of a run. dtype: of the folder;
    None: that of training, or of the base. base: in place of the adapter's own. Raises Refused.
    """
    if os.path.lexists(out) and (os.path.islink(out) or not os.path.isdir(out) or os.listdir(out)):
        raise Refused(export_taken(out))
    target = Path(out)
    try:
        with made(target.parent):
            clear_leftovers(target)
            with folder_beside(target) as folder, folder_beside(target) as work:
                source = open_source(path, step, base, str(work))
                proof, tokens = _merge(source, folder, out, dtype)
                open_to_others(folder)
                name_folder(folder, target)  # not over a merge that was done meanwhile
    except (OSError, SafetensorError) as error:
        helps = ("name another folder, on a disk with room",)
        raise Refused(not_saved("model", out, said_by(error), (), helps)) from error
    return _tell(out, proof, tokens)


def _merge(source: ModelSource, folder: Path, out: str, dtype: str | None) -> tuple[Proof, TokenProof]:
    base = Path(source.base_folder)
    tell(f"{source.what}: into {source.base}, one tensor at a time ...")
    config = read_model_config(str(base))
    values = read_config_json(base)
    stages: list[Stage] = []
    rows = 0
    for adapter in source.adapters:
        rows = max(rows, adapter.needed_rows)
        stages.append(Stage(adapter, config, rows))
    trained = None if source.trained_dtype is None else DTYPES[source.trained_dtype]
    merged = MergedTensors(BaseFiles(base), config, stages, trained)
    wanted = DTYPES[dtype] if dtype is not None else trained or _dtype_of(merged)
    plan = _planned(merged, wanted)
    needed = sum(form.bytes for forms in plan.values() for form in forms.values())
    if (free := shutil.disk_usage(folder).free) < needed * _DISK_SHARE:
        raise Refused(no_room(out, needed, free))
    _write_weights(folder, plan, merged)
    _write_config(folder, values, merged, wanted)
    _keep_files(base, folder)
    tokens = _add_tokenizer(source, base, folder, out, merged, wanted)
    proof = _prove(source, base, folder, merged, wanted)
    _write_account(folder, source, base, merged, wanted, proof, tokens)
    return proof, tokens


def _dtype_of(merged: MergedTensors) -> torch.dtype:
    """Of most of the base's numbers."""
    held: dict[torch.dtype, int] = {}
    for one in merged.files.tensors.values():
        if one.dtype in DTYPES.values():
            held[one.dtype] = held.get(one.dtype, 0) + math.prod(one.shape)
    return max(held, key=lambda dtype: held[dtype], default=torch.float32)


def _planned(merged: MergedTensors, dtype: torch.dtype) -> dict[str, dict[str, Form]]:
    """File name -> the tensors that it will have. A head that is no longer the input table goes along with
    it.
    """
    files = merged.files
    names = {stored: full for full, stored in merged.names.items()}
    plan: dict[str, dict[str, Form]] = {}
    for number, file in enumerate(files.files, start=1):
        many = len(files.files)
        name = "model.safetensors" if many == 1 else f"model-{number:05}-of-{many:05}.safetensors"
        plan[name] = {}
        for stored in files.in_file(file):
            full = names.get(stored)
            one = files.tensors[stored]
            shape = one.shape if full is None else merged.shapes[full]
            plan[name][full or stored] = Form(
                dtype if full and one.dtype.is_floating_point else one.dtype, shape
            )
    written = {name for forms in plan.values() for name in forms}
    if merged.was_tied and not merged.stays_tied:
        for table in (f"{path}.weight" for path in merged.tables):
            if table not in written:
                next(iter(plan.values()))[table] = Form(dtype, merged.shapes[table])
    return plan


def _write_weights(folder: Path, plan: Mapping[str, Mapping[str, Form]], merged: MergedTensors) -> None:
    for name, forms in plan.items():

        def value(tensor: str, forms: Mapping[str, Form] = forms) -> torch.Tensor:
            if tensor not in merged.shapes:
                return merged.files.read(tensor)
            return merged.value(tensor).to(forms[tensor].dtype)

        write_tensors(folder / name, forms, value)
        tell(f"{name}: {size((folder / name).stat().st_size)}")
    merged.files.close()
    if len(plan) > 1:
        total = sum(form.bytes for forms in plan.values() for form in forms.values())
        where = {tensor: name for name, forms in plan.items() for tensor in forms}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_config(folder: Path, values: dict[str, Any], merged: MergedTensors, dtype: torch.dtype) -> None:
    """The base's own config.json, with what a merge changes."""
    name = _name(dtype)
    words: dict[str, Any] = {"vocab_size": merged.shapes[f"{merged.tables[0]}.weight"][0]}
    if merged.was_tied and not merged.stays_tied:
        words["tie_word_embeddings"] = False
    text = values.get("text_config")
    if isinstance(text, dict) and "vocab_size" in text:
        values["text_config"] = {**text, **words}
        words.pop("vocab_size")
    words |= {key: name for key in ("dtype", "torch_dtype") if key in values} or {"torch_dtype": name}
    values.setdefault("architectures", [type(merged.model).__name__])
    _write_json(folder / CONFIG_JSON, {**values, **words})


def _keep_files(base: Path, folder: Path) -> None:
    for pattern in _KEPT_FILES:
        for file in sorted(base.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _prove(source: ModelSource, base: Path, folder: Path, merged: MergedTensors, dtype: torch.dtype) -> Proof:
    rows = merged.shapes[f"{merged.tables[0]}.weight"][0]
    index = source.run.index if source.run is not None else None
    prompts = seeded_prompts(rows) if index is None else prompts_of(index)
    tell(f"comparing the logits of {len(prompts)} prompts with those of base and adapter ...")
    trained = None if source.trained_dtype is None else DTYPES[source.trained_dtype]
    return prove_merged(str(folder), base, source.adapters, trained, dtype, prompts)


def _add_tokenizer(
    source: ModelSource, base: Path, folder: Path, out: str, merged: MergedTensors, dtype: torch.dtype
) -> TokenProof:
    """Put the tokenizer and a README into the folder. A run's is held against its index."""
    run = source.run
    if run is None:
        own = Path(source.tokenizer)
        for name in (*TOKENIZER_FILES, CHAT_TEMPLATE):
            if (own / name).is_file():
                shutil.copyfile(own / name, folder / name)
        return TokenProof(why="an adapter has no texts: merge the run to have the tokenizer proven")
    ids = save_tokenizer(run.config, run.index_dir, str(folder), run.template)
    tokens = _compared(run, folder)
    made = f"`{source.base}` with {source.what} merged into it by crossfoot, in {_name(dtype)}."
    model, where = merged.model.to(dtype), os.path.abspath(out)
    page = usage_page(model, where, {}, None, ids, made, has_proven_tokens=tokens.holds)
    (folder / "README.md").write_text(page, encoding="utf-8")
    return tokens


def _compared(run: TrainedRun, folder: Path) -> TokenProof:
    if (index := run.index) is None:
        return TokenProof(why="the run's index is not there any more")
    tell(f"comparing the tokens of {index.num_samples:,} samples with AutoTokenizer's ...")
    path, special_text = tokenizer_path(run.config), run.config.data.special_text
    encoder = load_encoder(path, run.index_dir, special_text=special_text)
    assert isinstance(encoder, LibraryEncoder)
    return prove_tokenizer(str(folder), index, encoder)


def _write_account(
    folder: Path,
    source: ModelSource,
    base: Path,
    merged: MergedTensors,
    dtype: torch.dtype,
    proof: Proof,
    tokens: TokenProof,
) -> None:
    """merge.json: what was merged, what came out, and what was shown of it."""
    tell("taking the sha256 of all files ...")
    account = {
        "format": MERGE_FORMAT,
        "merged": source.what,
        "proven": proof.holds,
        "logits": asdict(proof),
        "tokenizer": {"proven": tokens.holds, **asdict(tokens)},
        "dtype": _name(dtype),
        "base": {
            "path": os.path.abspath(base),
            "dtype_in_training": source.trained_dtype,
            "sha256": _digests([base / CONFIG_JSON, *merged.files.files]),
        },
        "adapters": [{"path": one.path, **one.identity} for one in source.adapters],
        "versions": {
            "crossfoot": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
        "sha256": _digests(sorted(folder.iterdir())),
    }
    _write_json(folder / MERGE_JSON, account)


def _digests(files: Sequence[Path]) -> dict[str, str]:
    return {file.name: sha256_of_file(file) for file in files}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _tell(out: str, proof: Proof, tokens: TokenProof) -> int:
    """Say what was shown; returns the exit code."""
    found: list[Finding] = []
    if proof.holds:
        told = f"its logits differ by {proof.difference:.1e}, at most {proof.bound:.1e} may be"
        say(f"{out}: the merged model, proven: {told}")
    else:
        why = proof.why or (
            f"its logits differ by {proof.difference:.1e} from those of base and adapter, "
            f"and {proof.bound:.1e} is what rounding explains"
        )
        say(f"{out}: the merged model, NOT PROVEN")
        found.append(not_proven(out, why))
    if tokens.why:
        say(f"tokenizer: not compared, {tokens.why}")
    elif tokens.holds:
        whole = (
            f", and of {counted(tokens.conversations, 'whole conversation')}" if tokens.conversations else ""
        )
        say(f"tokenizer: AutoTokenizer makes the trained ids of all {counted(tokens.texts, 'text')}{whole}")
    else:
        found.append(other_ids(out, tokens))
    if found:
        show(found)
    return 0 if proof.holds else 3
