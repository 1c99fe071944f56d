"""What is said about a file that cannot be imported, or only in part: CF050 to CF058."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed, reason_of
from crossfoot.shell_words import quoted, quoted_path
from crossfoot.written.source import BrokenText, UnreadableText

_LOOKED_FOR = (
    "a shell script that starts a trainer: run_sft.sh, or any with options of the Hugging Face Trainer",
    "YAML or JSON: TrainingArguments, LLaMA-Factory's (stage, cutoff_len), axolotl's (base_model)",
)


@rule_docs("CF050", name="import-unreadable")
def unreadable(error: UnreadableText | BrokenText) -> Finding:
    """CF050: the file to import cannot be read.

    It is not there, no text, or neither YAML nor JSON although its name says so. The place says where reading
    ended.
    """
    notes = error.notes if isinstance(error, BrokenText) else ()
    return Finding(
        "CF050",
        error.title,
        place=error.place,
        notes=notes,
        helps=tuple(error.helps) or ("mend it there, and import it again",),
        unreadable=True,
    )


@rule_docs("CF051", name="import-not-recognised")
def not_recognised(path: str, why: str, help_: str = "") -> Finding:
    """CF051: nothing in the file says which trainer it is for.

    What a file is, is found by what stands in it, not by its name. Read are shell scripts that start a
    trainer, TrainingArguments of transformers as YAML or JSON, and configs of LLaMA-Factory and of axolotl.
    """
    return Finding(
        "CF051",
        f"{path} is no file of a trainer that can be imported: {why}",
        place=Place(path),
        notes=tuple(f"looked for: {each}" for each in _LOOKED_FOR),
        helps=(help_ or "give the script that starts the training, or the config that it names",),
        unreadable=True,
    )


@rule_docs("CF052", name="import-over-existing-file")
def would_overwrite(path: str, other: str) -> Finding:
    """CF052: the file that `--out` names is there.

    `crossfoot import` writes a new file and never over another one.
    """
    return Finding(
        "CF052",
        f"{path} is there, and is not written over",
        place=Place(path),
        helps=(f"give another name: --out {quoted_path(other)}",),
        unreadable=True,
    )


@rule_docs("CF053", name="import-says-too-little")
def says_too_little(path: str, missing: Sequence[str]) -> Finding:
    """CF053: the file does not say what a run needs: its model, or its data.

    TrainingArguments alone name neither; the program that reads them does. Both can be given behind the file,
    as `path=value` words.
    """
    placeholder = {"model.path": "model.path=MODEL", "data.train": "data.train=[FILE.json]"}
    words = " ".join(quoted(placeholder[key]) for key in missing)
    return Finding(
        "CF053",
        f"{path} does not say {listed([f'{key}' for key in missing])}, and a run needs both",
        place=Place(path),
        helps=(f"say it behind the file: crossfoot import {quoted_path(path)} {words}",),
    )


@rule_docs("CF054", name="import-unusable-value")
def unusable_value(place: Place, key: str, title: str, ours: str) -> Finding:
    """CF054: a value of the imported file is none that its key can have.

    The trainer would refuse it too, or it is beyond what a run config may say. What is right can be given
    behind the file, as a `path=value` word.
    """
    return Finding(
        "CF054",
        f"{key}: {title}",
        place=place,
        helps=(f"mend it there, or say it behind the file: {ours}=VALUE",),
    )


@rule_docs("CF055", "warning", name="import-gpus-not-said")
def gpus_not_said(place: Place, per_gpu: int, path: str) -> Finding:
    """CF055: the imported file does not say on how many GPUs it trains.

    The batch of every trainer grows with its GPUs, and most files leave them to the command that starts them.
    What is written then is the batch of one GPU.
    """
    return Finding(
        "CF055",
        f"it does not say on how many GPUs: the batch is {per_gpu} for each, and one is written",
        severity="warning",
        place=place,
        helps=(f"say it: crossfoot import {quoted_path(path)} --gpus 8 --nodes 1",),
    )


@rule_docs("CF056", name="import-no-batch")
def no_batch(place: Place, key: str, text: str) -> Finding:
    """CF056: the samples of a forward, or the forwards of a step, are not known from the imported file.

    They are set when it runs (`auto`, or a variable that only the run knows): the batch that it trains is not
    in the file.
    """
    return Finding(
        "CF056",
        f"{key} is {text or 'known to the run only'}: the file does not say its batch",
        place=place,
        helps=("say it behind the file: batch.micro_batch_size=4 batch.grad_accum_steps=8",),
    )


@rule_docs("CF057", name="import-not-written")
def not_written(path: str, error: OSError) -> Finding:
    """CF057: the run config cannot be written where `--out` says.

    Its folder does not exist, may not be written to, or is full.
    """
    return Finding(
        "CF057",
        f"{path} cannot be written: {reason_of(error)}",
        place=Place(path),
        helps=("give another path: --out my.yaml",),
        unreadable=True,
    )


@rule_docs("CF058", "warning", name="import-ranks-without-deepspeed")
def ranks_without_deepspeed(place: Place, world: int) -> Finding:
    """CF058: the imported recipe trains on several GPUs, and names no DeepSpeed file.

    There it is torch's DistributedDataParallel. Here several ranks are DeepSpeed's work: without a file the
    same steps are trained by one process, one forward after the other. ZeRO-1 keeps gradients as
    DistributedDataParallel does.
    """
    return Finding(
        "CF058",
        f"it trains on {world} GPUs and names no DeepSpeed file: one process would train it here",
        severity="warning",
        place=place,
        helps=("name one: deepspeed=ds_configs/zero1.json behind the file, or in the config",),
    )
