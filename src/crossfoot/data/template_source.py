"""The template that a run config names, with what it is made of: a file, or the tokenizer's own one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from crossfoot.data.conversation import NotTrainable
from crossfoot.data.conversation_findings import template_unusable
from crossfoot.data.findings import FINDINGS_BY_CODE
from crossfoot.data.samples import Shape
from crossfoot.data.templates import BUILT_IN, TOKENIZERS, Template, built_in_of
from crossfoot.data.tiny_tokenizer import SETTINGS
from crossfoot.data.tokenizer import local_folder, tokenizer_path
from crossfoot.data.tokenizer_files import TokenizerFiles, read_tokenizer_files, tokenizer_files_of
from crossfoot.data.tokenizer_settings import Settings, read_settings
from crossfoot.findings.finding import Refused
from crossfoot.written.config import DataSection
from crossfoot.written.model_facts import BUILTIN_TINY
from crossfoot.written.near_paths import near_help
from crossfoot.written.run_file import RunFile
from crossfoot.written.section import Unsure


def shape_of(run: RunFile) -> Shape:
    """What becomes of a record of this run. Raises as `template_of`."""
    data = run.config.data
    template = template_of(run) if data.task == "sft" else None
    return Shape(data.task, data.max_seq_len, template, data.field_names, data.over_long)


def template_of(run: RunFile) -> Template:
    """The template of an sft run. Raises Unsure when it depends on a tokenizer that is not on this machine
    yet, Refused when it cannot be used: CF573 to CF575, CF520.
    """
    data = run.config.data
    if (built_in := built_in_template(data)) is not None:
        return built_in
    template = Template(data.template, system=data.system_prompt, train_on=data.train_on)
    files = tokenizer_files_of(run)
    if files is None:
        raise Unsure("tokenizer")
    settings = _settings(run)
    template = replace(
        template,
        source=_source(run, files),
        tokens=tuple((name, token["content"]) for name, token in settings.named.items()),
        special=tuple(sorted(files.special)),
    )
    place = run.place("data", "template")
    try:
        template.try_out()
    except NotTrainable as error:
        if error.code == "CF572":
            raise Refused(template_unusable(place, error.reason)) from error
        raise Refused(FINDINGS_BY_CODE[error.code](place, error.reason)) from error
    return template


def built_in_template(data: DataSection) -> Template | None:
    """The template of an sft run, where it needs no tokenizer; None of others, and of texts."""
    if data.task != "sft" or data.template not in BUILT_IN:
        return None
    return Template(data.template, system=data.system_prompt, train_on=data.train_on)


def template_in(folder: str) -> Template | None:
    """The chat_template in a folder, one of ours as it was trained; None where there is none."""
    files = TokenizerFiles(folder)
    with suppress(Exception):  # what is wrong with the tokenizer is said as it is loaded
        files = read_tokenizer_files(folder)
    if files.chat_template is None:
        return None
    return built_in_of(files.chat_template.text) or jinja_template(folder, files.chat_template.text)


def jinja_template(folder: str, source: str) -> Template:
    """A template in Jinja with the special tokens of the tokenizer in a folder. Raises what its files make
    the libraries raise.
    """
    tokens = tuple((name, token["content"]) for name, token in read_settings(folder).named.items())
    return Template(TOKENIZERS, source, tokens, tuple(sorted(read_tokenizer_files(folder).special)))


def _settings(run: RunFile) -> Settings:
    path = tokenizer_path(run.config)
    if path == BUILTIN_TINY:
        return Settings(SETTINGS)
    return read_settings(local_folder(path, run.index_dir, may_write=False) or path)


def _source(run: RunFile, files: TokenizerFiles) -> str:
    """The text of a template that is not built in. Raises Refused (CF575)."""
    name, place = run.config.data.template, run.place("data", "template")
    if name == TOKENIZERS:
        if files.chat_template is None:
            raise Refused(template_unusable(place, f"{files.folder} has no chat_template"))
        return files.chat_template.text
    try:
        with open(name, encoding="utf-8") as stream:
            source = stream.read()
    except FileNotFoundError as error:
        finding = template_unusable(place, f"no file {name}, and no template of that name")
        raise Refused(replace(finding, helps=(*near_help(name), *finding.helps))) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise Refused(template_unusable(place, f"{name}: {reason}")) from error
    if not source.strip():
        raise Refused(template_unusable(place, f"{name} is empty"))
    return source
