"""What stands in the way of a merge, and what a merge could not show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, size
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import AdapterFolder

if TYPE_CHECKING:
    from crossfoot.models.merged_tokenizer import TokenProof

_NAME_IT = "name the folder of a run, or that of its adapter"
_BY_PEFT = "load base and adapter by peft instead"


@rule_docs("CF759", name="nothing-to-merge")
def nothing_to_merge(path: str, why: str, *helps: str) -> Finding:
    """CF759: what was named for `crossfoot merge` holds no adapter.

    A merge puts an adapter into the weights of its base. It takes the folder of a run with a section lora, or
    a folder with adapter_config.json as peft and crossfoot write it. A run without lora trained the whole
    model: `crossfoot export` writes that, and it stands alone already.
    """
    return Finding("CF759", f"nothing to merge: {path} {why}", helps=helps or (_NAME_IT,), unreadable=True)


@rule_docs("CF769", name="base-not-here")
def base_not_here(path: str, base: str, why: str = "") -> Finding:
    """CF769: the base model of an adapter is not on this machine.

    An adapter is only what was added; the weights that it was added to are needed for a merge. The adapter's
    config says where they were when it was trained. `--base` names the folder they are in now, or a hub id
    that is in the local cache; nothing is downloaded. Of a base that was kept in 4 or 8 bits it is the full
    weights that are needed.
    """
    named = f"it was trained on {base}" if base else "it does not say what it was trained on"
    return Finding(
        "CF769",
        f"the base model of {path} is not here",
        notes=(named, *filter(None, [why])),
        helps=("name the folder with the base model's config.json and weights: --base FOLDER",),
        unreadable=True,
    )


@rule_docs("CF772", name="base-of-another")
def other_base(adapter: AdapterFolder, why: str) -> Finding:
    """CF772: an adapter and a base model do not belong together.

    Every matrix of an adapter belongs to one weight of its base, and fits its sides. One that does not was
    trained on another model, or on another size of it. An adapter that stands on a base with another adapter
    merged into it needs that very one: the sha256 is compared.
    """
    return Finding(
        "CF772",
        f"the adapter {adapter.path} does not belong to this base model",
        notes=(why,),
        helps=("name the base model that it was trained on: --base FOLDER",),
    )


@rule_docs("CF784", name="no-room-to-merge")
def no_room(out: str, needed_bytes: int, free_bytes: int) -> Finding:
    """CF784: a merged model does not fit on the disk.

    It is as large as its base in the precision that is asked for. Before a byte is written the room is looked
    at; nothing has been written.
    """
    return Finding(
        "CF784",
        f"{out} needs {size(needed_bytes)}, and {size(free_bytes)} are free there",
        helps=(
            "name a folder on a disk with room",
            "or ask for 2 bytes a number instead of 4: --dtype bfloat16",
        ),
    )


@rule_docs("CF785", "error", "warning")
def base_has_changed(run_dir: str, base: str, files: Sequence[str], is_named: bool) -> Finding:
    """CF785: the weights of a base model are not those that the run began with.

    A run notes the sizes of its base's weight files and the sha256 of parts of them. An adapter on other
    weights is another model, which may answer well or not at all; the proof of a merge cannot see that. The
    same weights in other files, or in another precision, differ by their bytes too: name them with `--base`,
    and what differs is a warning.
    """
    shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    sure = ("leave out --base, or be sure that these are the same weights",)
    other = ("name the folder that has them: --base FOLDER", f"if these will do: --base {quoted_path(base)}")
    return Finding(
        "CF785",
        f"{base} does not have the weights that {run_dir} began with",
        severity="warning" if is_named else "error",
        notes=(f"{counted(len(files), 'file')} of other content, or gone: {shown}",),
        helps=sure if is_named else other,
    )


@rule_docs("CF786", name="adapter-not-mergeable")
def not_mergeable(adapter: AdapterFolder, why: str) -> Finding:
    """CF786: an adapter is of a kind that cannot be put into the weights of its base.

    Merged are LoRA, rsLoRA and DoRA, with modules to save and with rows of tokens. Prompt and prefix tuning
    add no numbers to weights. PiSSA, OLoRA, CorDA and LoftQ change the base when they begin: their adapter
    stands on another base than it names, unless it was converted when it was saved, as crossfoot and peft
    (`path_initial_model_for_weight_conversion`) do.
    """
    return Finding(
        "CF786",
        f"the adapter {adapter.path} cannot be merged: {why}",
        helps=("merge it with the tool that made it",),
    )


@rule_docs("CF789", name="merge-not-proven")
def not_proven(out: str, why: str) -> Finding:
    """CF789: a merged model is written, and it is not shown that it answers as base and adapter do.

    After a merge the folder is loaded by plain transformers, and its logits on 32 prompts are compared with
    those of the base under its adapter, by peft. In float32 they may differ by a millionth; in 16 bits by
    twice what peft's own merge differs by when it is rounded to them, on the same prompts. The folder stays
    for you to look at; merge.json in it says `"proven": false`, and the exit code is 3. Do not serve it
    unseen.
    """
    return Finding("CF789", f"{out} is not proven to be the trained model", notes=(why,), helps=(_BY_PEFT,))


@rule_docs("CF790", "warning", name="other-ids")
def other_ids(out: str, tokens: TokenProof) -> Finding:
    """CF790: AutoTokenizer makes other tokens of the training texts than those that were trained.

    The tokenizer beside a merged model is what servers read it with. Every text of the run's index is
    tokenised once more by `AutoTokenizer.from_pretrained` of the folder. A text whose ids differ is one that
    the model reads otherwise than in training. The script in the folder's README makes the ids as in
    training.
    """
    of_texts = f"{tokens.differing:,} of {tokens.texts:,} texts"
    if not tokens.differing:
        of_texts = f"{tokens.other_conversations:,} of {tokens.conversations:,} conversations as a whole"
    return Finding(
        "CF790",
        f"AutoTokenizer of {out} makes other tokens of {of_texts} than were trained",
        severity="warning",
        notes=tuple(
            f"{where}: trained {' '.join(map(str, trained))}, found {' '.join(map(str, found))}"
            for where, trained, found in tokens.first
        ),
        helps=(f"make the ids as the script in {quoted_path(out)}/README.md does",),
    )
