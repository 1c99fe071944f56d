"""A command line that cannot be read, as findings with the words to write instead."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NoReturn

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed
from crossfoot.written.look_alikes import DASHES

_WHERE = Place("command line")
_OTHER_VERBS: Mapping[str, str] = {
    **dict.fromkeys(("run", "fit", "finetune", "fine-tune", "sft", "tune", "resume"), "train"),
    **dict.fromkeys(("lint", "validate", "verify", "test"), "check"),
    **dict.fromkeys(("start", "submit", "sbatch", "srun", "torchrun", "deepspeed"), "launch"),
    **dict.fromkeys(("tokenize", "tokenise", "preprocess", "prepare"), "index"),
    **dict.fromkeys(("status", "monitor", "tail", "follow"), "watch"),
    **dict.fromkeys(("convert", "migrate", "translate", "port"), "import"),
    **dict.fromkeys(("help", "usage"), "--help"),
    "version": "--version",
    "dry-run": "plan",
    "env": "doctor",
}
"""What others call our verbs."""
_NO_NUMBER = re.compile(r"-(?![\d.])")


class Misread(Exception):
    """Words that are no command. parser: of the verb, or of crossfoot. message: argparse's. argument: the one
    that it is about, `--format` or CONFIG.
    """

    def __init__(self, parser: argparse.ArgumentParser, message: str, argument: str | None = None) -> None:
        self.parser = parser
        self.message = message
        self.argument = argument
        super().__init__(message)


class Parser(argparse.ArgumentParser):
    """One that raises Misread where argparse prints its usage and leaves."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse, inside of its own ArgumentError where there is one."""
        cause = sys.exc_info()[1]
        if isinstance(cause, argparse.ArgumentError):
            raise Misread(self, str(cause.message), cause.argument_name) from cause
        raise Misread(self, message)


def is_dashed(word: str) -> bool:
    """Whether a word begins as an option does, with a dash that is none: `–json`."""
    return word.startswith(tuple(DASHES)) and not os.path.exists(word)


def misread(error: Misread, words: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]) -> Finding:
    """What is wrong with the words behind `crossfoot`."""
    if error.argument == "VERB":
        return no_verb(words, verbs)
    name = error.parser.prog
    given = _value_of(error.argument or "", words)
    action = error.parser._option_string_actions.get((error.argument or "").split("/")[0])
    if error.message.startswith("the following arguments are required: "):
        missing = error.message.partition(": ")[2].partition(", ")[0]
        if missing == "VERB":
            return no_verb(words, verbs)
        return bad_usage(f"{name} needs {_article(missing)}", _examples(name, missing, error.parser))
    if action is not None and action.choices is not None and given is not None:
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(given, choices, n=1)
        wanted = listed(choices, "or")
        helps = [f"write {error.argument} {word}" for word in near]
        return bad_usage(f"{error.argument} must be {wanted}, and is {given}", helps)
    if error.message.startswith("expected"):
        metavar = action.metavar if action is not None else None
        wants = listed([str(choice) for choice in action.choices], "or") if action and action.choices else ""
        value = wants or metavar or "VALUE"
        return bad_usage(f"{error.argument} needs a value", [f"write {error.argument} {value}"])
    if error.argument and given is not None:
        wanted = "a whole number" if error.message.startswith("invalid") else error.message
        if error.message.startswith("ignored explicit"):
            return bad_usage(f"{error.argument} takes no value", [f"write {error.argument}"])
        return bad_usage(f"{error.argument} must be {wanted}, and is {given}", ())
    return bad_usage(f"{name}: {error.message}", ())


@rule_docs("CF029", name="unusable-command-line")
def bad_usage(title: str, helps: Sequence[str]) -> Finding:
    """CF029: a command line is no command of crossfoot.

    The verb is missing or none of crossfoot's, a word that it needs is missing, or an option has a value that
    it cannot have. `crossfoot --help` lists the verbs, `crossfoot VERB --help` the words and options of one.
    """
    manual = "crossfoot --help lists the verbs, and crossfoot VERB --help says what one takes"
    return Finding("CF029", title, place=_WHERE, helps=tuple(helps) or (manual,), unreadable=True)


def no_verb(words: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]) -> Finding:
    """The finding for a first word that is no verb, or for none."""
    names = f"the verbs are {listed(list(verbs))}; crossfoot --help says what they do"
    if not words:
        return bad_usage("no verb is given", [names])
    at = next((n for n, word in enumerate(words) if not word.startswith("-")), 0)
    later = next((n for n, word in enumerate(words) if word in verbs), None)
    word, rest = words[at], list(words[at + 1 :])
    title = f"{word} is no verb of crossfoot"
    if later is not None and any(each.startswith("-") for each in words[:later]):
        moved = [words[later], *words[later + 1 :], *words[:later]]
        return bad_usage(title, [f"write the verb first: {shlex.join(['crossfoot', *moved])}"])
    if word.endswith((".sh", ".sbatch")):
        return bad_usage(title, [shlex.join(["crossfoot", "import", word, *rest])])
    if word.endswith((".yaml", ".yml")) or os.path.isfile(word):
        return bad_usage(title, [shlex.join(["crossfoot", "check", word, *rest])])
    near = difflib.get_close_matches(word.lower(), verbs, n=1)
    meant = _OTHER_VERBS.get(word.lower()) or next(iter(near), None)
    if meant is None:
        return bad_usage(title, [names])
    behind = [] if meant.startswith("--") and not (set(rest) & set(verbs)) else rest
    command = [*behind[:1], meant] if meant.startswith("--") else [meant, *behind]
    return bad_usage(title, [shlex.join(["crossfoot", *command])])


@rule_docs("CF026", name="no-such-option")
def unknown_words(
    verb: str, rest: Sequence[str], words: Sequence[str], verbs: Mapping[str, argparse.ArgumentParser]
) -> Finding:
    """CF026: a verb is given words or options that it does not have.

    Settings of the run are no options: they stand in the config, or behind it as `path=value` words.
    `--learning_rate 1e-4` is the Hugging Face Trainer's; here it is `lr.reference=1e-4`. A word of another
    trainer's that has no counterpart is said to have none.
    """
    options = [word for word in rest if word.startswith(("-", *DASHES))]
    if not options:
        most = "one" if verb in ("receipt", "watch", "explain") else "two"
        title = f"crossfoot {verb} takes {most} {'word' if most == 'one' else 'words'}"
        helps = (f"leave out {shlex.join(rest)}",)
        return Finding("CF026", title, place=_WHERE, label=rest[0], helps=helps, unreadable=True)
    names = list(dict.fromkeys(word.partition("=")[0] for word in options))
    is_one = len(names) == 1
    return Finding(
        "CF026",
        f"{listed(names)} {'is no option' if is_one else 'are no options'} of crossfoot {verb}",
        place=_WHERE,
        helps=tuple(dict.fromkeys(_instead(word, words, verb, verbs) for word in options)),
        unreadable=True,
    )


def _instead(word: str, words: Sequence[str], verb: str, verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """What to write instead of one unknown option."""
    from crossfoot.written.foreign_keys import foreign
    from crossfoot.written.known_keys import homes, option_as_override

    name, equals, glued = word.partition("=")
    value = glued if equals else _following(word, words)
    bare = name.lstrip("-" + DASHES)
    spelt = "--" + bare.lower().replace("_", "-")
    own = list(_options(verbs[verb]))
    if spelt in own:
        return f"write {spelt}{f' behind {verb}' if spelt == name else ''}"
    for option, choices in _options(verbs[verb]).items():
        rest = spelt.removeprefix(option)
        if rest != spelt and (rest.isdecimal() or rest in choices):
            return f"write {option} {rest}"
    key = bare.replace("-", "_")
    near = difflib.get_close_matches(spelt, own, n=1, cutoff=0.8)
    is_slip = bool(near) and len(near[0]) - 1 <= len(spelt) <= len(near[0]) + 1
    others = [other for other, parser in verbs.items() if spelt in _options(parser)]
    if others and not is_slip:
        return f"{spelt} is an option of crossfoot {listed(others)}"
    if spelt in ("--config", "--config-file", "--cfg", "--config-path", "--yaml"):
        config = value or next((each for each in words if each.endswith((".yaml", ".yml"))), "CONFIG")
        return f"write the config without an option: crossfoot {verb} {shlex.quote(config)}"
    if near and not foreign(key) and not homes(key):
        return f"the nearest option is {near[0]}"
    return option_as_override(name, value)


def _options(parser: argparse.ArgumentParser) -> dict[str, tuple[str, ...]]:
    """The options that a parser tells of, each with the values that it must have one of."""
    return {
        option: tuple(map(str, action.choices or ()))
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
    }


def _following(word: str, words: Sequence[str]) -> str:
    """The value behind an option: the next word, if it may be one."""
    at = words.index(word) + 1 if word in words else len(words)
    following = words[at] if at < len(words) else "-"
    is_other = _NO_NUMBER.match(following) or "=" in following or following.endswith((".yaml", ".yml"))
    return "" if is_other else following


def _value_of(argument: str, words: Sequence[str]) -> str | None:
    for option in argument.split("/"):
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            if word == option and following:
                return following
            if option and word.startswith(f"{option}="):
                return word.partition("=")[2]
    return None


def _article(name: str) -> str:
    return {
        "CONFIG": "a run config (YAML)",
        "RUN_DIR": "the folder of a run",
        "FILE": "a script or a config of another trainer",
        "OUT": "a folder to write to, one that is not there yet",
    }.get(name, name)


def _examples(prog: str, missing: str, parser: argparse.ArgumentParser) -> list[str]:
    if missing == "CONFIG":
        folder = "configs"
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        return [f"{prog} {shlex.quote(os.path.join(folder, n))}" for n in names if n.endswith(".yaml")][:1]
    action = parser._option_string_actions.get(missing)
    if action is not None and action.choices:
        return [f"write {missing} {listed([str(choice) for choice in action.choices], 'or')}"]
    return []
