"""What can be wrong with a model's folder: said before a start, from the headers of its files, and again by
the loader. One function, one code, and its docstring is the page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Severity
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted
from crossfoot.shell_words import quoted
from crossfoot.written.hub import hub_model, loadable

_NAMED = 3
_WHOLE_MODEL = "the folder must hold config.json and model.safetensors, as save_pretrained writes them"


def fetch_again(path: str) -> str:
    """The help where the files of the model at `path` are not those that its config.json tells of."""
    if (model := hub_model(path)) is not None:
        return f"fetch all of its files, where there is a network: {model.fetching}"
    return "fetch the model again, or take the folder whose config.json belongs to these weights"


@rule_docs("CF542")
def model_unreadable(path: str, why: str, instead: str = _WHOLE_MODEL) -> Finding:
    """CF542: the folder of `model.path` holds no model that transformers can read.

    config.json or a weight file is absent, damaged or cut off, a shard that the index names is not there, or
    the model needs a newer transformers, or code of its own (trust_remote_code), which crossfoot does not
    run. The weight files that count are those that transformers takes: model.safetensors, else
    model.safetensors.index.json with its shards, else pytorch_model.bin, else its index.
    """
    return Finding(
        "CF542",
        f"model.path holds no model that can be read: {path}",
        notes=(why,),
        helps=(instead,),
        unreadable=True,
    )


def not_only_tensors(path: str, what: str, named: str) -> Finding:
    """CF542 of weights that only the unsafe way of loading pickles would take. what: the file, in words."""
    why = f"{what} is a pickle that holds {named}, not tensors alone: it is not loaded, and no code of it run"
    return model_unreadable(path, why, "take a model of whole tensors, best as safetensors")


@rule_docs("CF061", "warning", name="pickled-weights")
def pickled(path: str, names: Sequence[str]) -> Finding:
    """CF061: the weights of `model.path` are pickles.

    pytorch_model.bin is a file of torch.save: a pickle, which can hold code that runs when it is loaded. It
    is loaded with `weights_only`, which refuses everything but tensors; one that needs more is refused
    (CF542), before the start where its first bytes show it, and never run. A model.safetensors in the same
    folder is taken in its place; it loads faster, too.
    """
    hub = hub_model(path)
    out = f"{path.rstrip('/')}-safetensors" if hub is None else hub.name.replace("/", "-")
    model, target = (json.dumps(one, ensure_ascii=False) for one in (loadable(path) if hub else path, out))
    words = f'M.from_pretrained({model}, dtype="auto").save_pretrained({target})'
    command = f"python -c {quoted(f'from transformers import AutoModelForCausalLM as M; {words}')}"
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return Finding(
        "CF061",
        f"the weights of the model are pickles: {names[0]}{more}",
        severity="warning",
        notes=("they are loaded with weights_only: tensors, and no code",),
        helps=(
            f"write them as safetensors: {command}",
            f"and name both: model.path={quoted(out)} tokenizer.path={quoted(path)}",
        ),
    )


@rule_docs("CF062", "note", name="model-code-not-run")
def code_not_run(path: str, named: str, family: str) -> Finding:
    """CF062: the folder of `model.path` brings model code of its own, and that is not run.

    `auto_map` in its config.json names a class in a Python file beside it; transformers runs it when
    `trust_remote_code` is given. crossfoot never does, and has no key for it: code of a downloaded folder may
    do anything, on every node. Where transformers has the family itself (llama, qwen2, ...), its own class is
    trained, and the weights are held against that. A family that only the folder's code knows is refused
    (CF542).
    """
    return Finding(
        "CF062",
        f"the model brings code of its own, {named}, and that is not run",
        severity="note",
        notes=(f"{path}: transformers' own {family} is trained",),
    )


@rule_docs("CF544")
def weights_missing(path: str, names: Sequence[str], layers: tuple[int, int] | None = None) -> Finding:
    """CF544: tensors of the model are not in its weight files.

    transformers would fill them with random numbers and warn; training would begin from noise. Fewer layers
    in the files than config.json says are said as layers.
    """
    title = f"{counted(len(names), 'tensor')} of the model {_are(names)} not in its weight files: {path}"
    if layers is not None:
        there, promised = layers
        title = f"the weight files have {counted(there, 'layer')}, config.json says {promised:,}: {path}"
    return Finding(
        "CF544",
        title,
        notes=(*_examples(names), "what is missing would be random numbers"),
        helps=(fetch_again(path),),
    )


@rule_docs("CF545")
def attention_missing(name: str, why: str) -> Finding:
    """CF545: the kernel of `model.attention` is missing, or not for this model or machine.

    flash_attention_2 needs the flash-attn package and a GPU, and weights of 16 bits. With `auto` transformers
    chooses a kernel that is there. Whether the package is there is only looked up where one can train, not on
    a laptop with the pure part of crossfoot.
    """
    return Finding(
        "CF545",
        f"model.attention {name} is not available here",
        notes=(why,),
        helps=("set model.attention to sdpa, or leave it at auto",),
    )


@rule_docs("CF597", name="kernels-missing")
def kernels_missing(name: str, why: str, helps: tuple[str, ...] = ()) -> Finding:
    """CF597: the kernels of `model.kernels` are missing, or not for this model or machine.

    liger takes the norms and the gated MLP from the package liger-kernel, whose kernels are Triton's and run
    on CUDA alone. They change how fast a step is, never what it is: a run can go on without.
    Whether the package is there is only looked up where one can train.
    """
    return Finding(
        "CF597",
        f"model.kernels {name} is not available here",
        notes=(why,),
        helps=(*helps, "set model.kernels to torch, or leave it at auto"),
    )


@rule_docs("CF566", name="quantised-base")
def quantised(path: str, what: str) -> Finding:
    """CF566: the base model is quantised, and crossfoot trains on whole weights only.

    `quantization_config` in its config.json, or tensors of packed integers in its files, say that weights are
    stored in 4 or 8 bits (GPTQ, AWQ, bitsandbytes, fp8, GGUF ...). Loading them needs the library that packed
    them, adapters sit on other modules, and full fine-tuning is impossible. `model.quantization` packs a
    whole base in 4 or 8 bits when it is loaded.
    """
    return Finding(
        "CF566",
        f"the base model is quantised: {path}",
        notes=(what,),
        helps=("take the model that it was made from, in bfloat16, float16 or float32",),
    )


@rule_docs("CF567", name="adapter-as-model")
def is_adapter(path: str, base: str) -> Finding:
    """CF567: `model.path` is a folder with an adapter, not a model.

    An adapter (adapter_config.json, adapter_model.safetensors) is a change of a base model. transformers
    would load the base that it names and put it on top, and the run would train a second adapter over the
    first, which its own adapter does not hold. A model folder with an adapter in it is refused for the same
    reason.
    """
    return Finding(
        "CF567",
        f"model.path is an adapter, not a model: {path}",
        notes=("adapter_config.json lies in it", *((f"its base model is {base}",) if base else ())),
        helps=(
            "set model.path to the base model" + (f": {base}" if base else ""),
            "and, to train on from the adapter, model.adapter to this folder",
        ),
    )


@rule_docs("CF568", name="weights-of-another-shape")
def reshaped(path: str, tensors: Sequence[tuple[str, Sequence[int], Sequence[int]]]) -> Finding:
    """CF568: tensors in the weight files have another shape than config.json says.

    The config.json and the weights are not of one model, or one of them was edited: `vocab_size` after the
    tokenizer grew, say, without a table that grew with it. A larger vocabulary needs no such edit: crossfoot
    grows the table to the tokenizer by itself.
    """
    (name, there, promised), *more = tensors
    return Finding(
        "CF568",
        f"{counted(len(tensors), 'tensor')} of the model {'has' if not more else 'have'} another shape than "
        f"config.json says: {path}",
        notes=(f"{name} is {_shape(there)} in the file, and {_shape(promised)} by config.json",),
        helps=(fetch_again(path),),
    )


@rule_docs("CF569", name="empty-weights")
def empty_tensors(path: str, names: Sequence[str]) -> Finding:
    """CF569: tensors in the weight files are empty.

    Under ZeRO-3 every rank holds a part of each tensor, and a model that was saved there without gathering
    them is a file of empty ones. The weights are in the checkpoint's folder of that run, and DeepSpeed's
    zero_to_fp32.py, which lies in it, makes a whole file of them.
    """
    return Finding(
        "CF569",
        f"{counted(len(names), 'tensor')} of the model {_are(names)} empty: {path}",
        notes=(*_examples(names), "a model that was saved under ZeRO-3 without gathering it looks like this"),
        helps=("make it whole with zero_to_fp32.py from the checkpoint that it was saved with",),
    )


@rule_docs("CF570", "error", "warning", name="unused-weights")
def unused(
    path: str, names: Sequence[str], severity: Severity = "error", layers: tuple[int, int] | None = None
) -> Finding:
    """CF570: tensors in the weight files are not used by the model that config.json describes.

    transformers leaves them out without a word. Where they belong to the model's own layers (more layers in
    the files than config.json says, biases or norms that its config.json switches off) another model would be
    trained than was saved: an error. Parts beside it, a vision tower or a classifier's head, are left out
    with a warning.
    """
    title = f"{counted(len(names), 'tensor')} in the weight files {_are(names)} not used by the model: {path}"
    if layers is not None:
        there, promised = layers
        title = f"the weight files have {counted(there, 'layer')}, config.json says {promised:,}: {path}"
    note = "the model would be another one than was saved" if severity == "error" else "they are left out"
    return Finding(
        "CF570",
        title,
        severity=severity,
        notes=(*_examples(names), note),
        helps=(fetch_again(path) if severity == "error" else "if that part is needed, take another model",),
    )


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _examples(names: Sequence[str]) -> tuple[str, ...]:
    return ("for example " + ", ".join(names[:_NAMED]),) if names else ()


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes) or "a single number"
