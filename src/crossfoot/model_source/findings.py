"""What can be wrong with a path that is to name a model; for every verb that takes one."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted, listed
from crossfoot.shell_words import quoted_path

_NAME_IT = "name the folder of a run, of an adapter (adapter_config.json) or of a model (config.json)"


@rule_docs("CF759", name="no-model-there")
def no_model(path: str, does: str, why: str, *helps: str, notes: tuple[str, ...] = ()) -> Finding:
    """CF759: what was named is no model that the command can take.

    A run is the folder that `run.dir` says; an adapter is a folder with adapter_config.json as peft and
    crossfoot write it; a model is a folder with config.json and weights, or a hub's id whose files are in the
    cache. `crossfoot merge` puts an adapter into its base: a run without lora trained the whole model, and
    `crossfoot export` writes that. `crossfoot serve` needs weights in safetensors and a tokenizer beside
    them.
    """
    helps = helps or (_NAME_IT,)
    return Finding("CF759", f"nothing to {does}: {path} {why}", notes=notes, helps=helps, unreadable=True)


@rule_docs("CF769", name="base-not-here")
def base_not_here(
    path: str, base: str, does: str, meant: Sequence[str] = (), is_named: bool = False
) -> Finding:
    """CF769: the base model of an adapter is not on this machine.

    An adapter is only what was added, and says nothing without the weights that it was added to. Its config
    says where they were when it was trained; a relative path is looked for from here, and from the folders
    that the adapter or the run lies in, where just one of them has it. `--base` names the folder they are in
    now, or a hub id that is in the local cache; nothing is downloaded. Of a base that was kept in 4 or 8 bits
    it is the full weights that are needed.
    """
    named = f"it was trained on {base}" if base else "it does not say what it was trained on"
    named = f"--base names {base}" if is_named else named
    help_ = "name the folder with the base model's config.json and weights: add --base FOLDER to the command"
    if does == "serve":
        merge = f"crossfoot merge {quoted_path(path)} OUT --base FOLDER"
        help_ = f"merge it where its base is now, and serve OUT: {merge}"
    several = (f"it may be {listed(meant, 'or')}",) if len(meant) > 1 else ()
    return Finding(
        "CF769",
        f"the base model of {path} is not here",
        notes=(named, *several),
        helps=(help_,),
        unreadable=True,
    )


@rule_docs("CF772", name="base-of-another")
def other_base(path: str, why: str, *helps: str) -> Finding:
    """CF772: an adapter and a base model do not belong together.

    Every matrix of an adapter belongs to one weight of its base, and fits its sides. One that does not was
    trained on another model, or on another size of it. An adapter that stands on a base with another adapter
    merged into it needs that very one: the sha256 is compared.
    """
    return Finding(
        "CF772",
        f"the adapter {path} does not belong to this base model",
        notes=(why,),
        helps=helps or ("name the base model that it was trained on: --base FOLDER",),
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
