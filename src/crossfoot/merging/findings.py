"""What stands in the way of a merge, and what a merge could not show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import size
from crossfoot.shell_words import quoted_path
from crossfoot.written.adapter_folder import AdapterFolder

if TYPE_CHECKING:
    from crossfoot.merging.token_proof import TokenProof

_BY_PEFT = "load base and adapter by peft instead"


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
