"""Who is asked, and how: the model of a path, its template and its end tokens."""

from __future__ import annotations

from dataclasses import replace

from crossfoot.data.template_source import jinja_template, template_in
from crossfoot.data.templates import BUILT_IN, TOKENIZERS, Template
from crossfoot.data.tokenizer import load_encoder
from crossfoot.findings.finding import Refused
from crossfoot.generating.asking import Asking
from crossfoot.generating.findings import no_template
from crossfoot.model_source.source import ModelSource, find_model
from crossfoot.models.tiny_model import tiny_written
from crossfoot.phrases import reason_of
from crossfoot.written.model_ends import read_model_ends
from crossfoot.written.model_facts import model_folder


def find_voice(path: str, step: int | None, base: str | None, does: str = "ask") -> ModelSource:
    """What `path` names. step: of a run's checkpoint. base: where the model of an adapter is now. does: the
    verb, as in "nothing to ask". Raises Refused.
    """
    return tiny_written(find_model(path, does, step=step, base=base))


def asking(voice: ModelSource, template: str | None, system: str | None) -> Asking:
    """How it is asked. template, system: of the command line, instead of its own. Raises Refused: CF806, and
    for a tokenizer that cannot be loaded.
    """
    encoder = load_encoder(voice.tokenizer, voice.index_dir, special_text=voice.special_text)
    chosen = voice.template if template is None else _named_template(voice, template)
    if chosen is not None and system is not None:
        chosen = replace(chosen, system=system)
    is_model = voice.checkpoint is None and not voice.adapters
    ends = read_model_ends(voice.base).end_ids.values() if is_model else ()
    return Asking(encoder, chosen, tuple(number for ids in ends for number in ids))


def _named_template(voice: ModelSource, name: str) -> Template:
    if name in BUILT_IN:
        return Template(name)
    folder = str(model_folder(voice.tokenizer) or voice.tokenizer)
    if name == TOKENIZERS:
        if (own := template_in(folder)) is None:
            raise Refused(no_template("--template tokenizer", f"{folder} has no chat_template"))
        return own
    try:
        with open(name, encoding="utf-8") as stream:
            return jinja_template(folder, stream.read())
    except (OSError, ValueError) as error:
        raise Refused(no_template(f"--template {name}", reason_of(error))) from error
