"""What stands in the way of a server, and how one can end."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed
from crossfoot.shell_words import joined, quoted_path


@rule_docs("CF830", name="port-in-use")
def port_taken(host: str, port: int, why: str, free: int | None) -> Finding:
    """CF830: a server cannot listen where it was told to.

    Most often another program listens on this port already, such as an earlier server that still runs. A port
    below 1024 belongs to root, and an address must be one of this machine. It is looked at before a model
    is merged or loaded.
    """
    helps = ["name another address: --host 127.0.0.1"]
    if free is not None:
        helps = [f"name another port: --port {free}", f"or see who has it: ss -ltnp 'sport = :{port}'"]
    return Finding("CF830", f"nothing can listen on {host}, port {port}: {why}", helps=tuple(helps))


@rule_docs("CF832", name="server-did-not-start")
def not_started(words: Sequence[str], code: int) -> Finding:
    """CF832: the server ended before it answered.

    What it said itself stands above. Most often the memory does not hold the model (code -9: the system has
    killed it), or the installed transformers does not know this kind of model.
    """
    return Finding(
        "CF832",
        f"the server ended with code {code} before it answered",
        notes=(f"started was: {joined(words)}", "its own words stand above"),
        helps=("to see whether the model loads at all, ask it without a server: see docs/serve.md",),
    )


@rule_docs("CF833", name="adapter-not-for-vllm")
def not_for_vllm(path: str, reasons: Sequence[str], command: Sequence[str]) -> Finding:
    """CF833: vLLM refuses this adapter as it is; merged into its base it serves it.

    vLLM adds the two small matrices of LoRA to linear layers and no more. An adapter that brings whole tables
    along (`modules_to_save: [embed_tokens, lm_head]`, as Chinese-LLaMA-Alpaca-2 trains them), rows of tokens,
    DoRA or a rank above 512 is refused when it is loaded.
    """
    return Finding(
        "CF833",
        f"vLLM does not load {path} beside its base: {listed(tuple(reasons))}",
        helps=(f"have it merged, which is what happens without --unmerged: {joined(command)}",),
    )


@rule_docs("CF834", name="server-ended")
def server_ended(code: int) -> Finding:
    """CF834: a server that had answered is gone, and nobody has asked it to end.

    A negative code is the number of a signal: -9 is what the system sends when memory runs out.
    """
    why = "the system sends -9 when memory runs out" if code == -9 else "its own words stand above"
    return Finding(
        "CF834",
        f"the server has ended by itself, with code {code}",
        notes=(why,),
        helps=("start it again; where memory is short, in 2 bytes a number: --dtype bfloat16",),
    )


@rule_docs("CF835", name="unproven-not-served")
def not_served(folder: str) -> Finding:
    """CF835: a merged model that is not proven is not served by the name of its run.

    A merge compares the model's logits with those of base and adapter (merge.json). Where they could not be
    compared, or differ by more than rounding explains, what answers may be another model than the one that
    was trained. Who has read merge.json may serve the folder by its own name.
    """
    return Finding(
        "CF835",
        f"{folder} was merged, and is not shown to answer as base and adapter do",
        notes=(f"{folder}/merge.json says what was compared",),
        helps=(f"to serve it all the same: crossfoot serve {quoted_path(folder)}",),
    )


@rule_docs("CF836", "warning", name="no-chat-template")
def no_chat_template(folder: str) -> Finding:
    """CF836: a model is served that has no chat template: requests for a chat are answered with an error.

    A server makes one text of the messages of a chat by the template that lies with the model
    (chat_template.jinja, or `chat_template` in tokenizer_config.json). A model that was trained on plain text
    has none, and is asked to go on with a text: /v1/completions.
    """
    return Finding(
        "CF836",
        f"{folder} has no chat template: only /v1/completions will answer",
        severity="warning",
        helps=("for a chat, put the template it was trained with there, as chat_template.jinja",),
    )


@rule_docs("CF837", name="incomplete-command")
def incomplete_command(title: str, instead: str) -> Finding:
    """CF837: words of `crossfoot serve` or `crossfoot loadtest` need others beside them.

    `--unmerged` shows how vLLM loads an adapter beside its base; transformers serve takes whole models alone.
    A load test needs the address of a server, or the files of earlier tests.
    """
    return Finding("CF837", title, helps=(instead,), unreadable=True)
