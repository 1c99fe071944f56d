"""`crossfoot serve`: a run, an adapter or a model behind an address that speaks as OpenAI's does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from crossfoot.findings.formats import show
from crossfoot.output import say, tell
from crossfoot.serving.findings import no_chat_template
from crossfoot.serving.model_folder import NotMade, Served, served_model
from crossfoot.serving.server import TransformersServer, refuse_port
from crossfoot.serving.vllm import vllm_page
from crossfoot.shell_words import called, quoted

_NOT_IN_A_NAME = re.compile(r"[^\w.-]|--")
"""What would be another thing in the name of a model: NAME@REVISION, NAME:FILE, a cache's own --."""


@dataclass(frozen=True)
class ServeOptions:
    """kind: of server. step: of a run; None: the newest. dtype: that the server computes in; None: the
    model's own. is_merged: False for an adapter that vLLM is to load beside its base.
    """

    kind: str
    host: str
    port: int
    step: int | None = None
    dtype: str | None = None
    is_merged: bool = True


def serve(path: str, options: ServeOptions) -> int:
    """The verb; returns the exit code. Raises Refused."""
    if options.kind == "vllm" and not options.is_merged:
        say(vllm_page(path, None, options.host, options.port, options.dtype))
        return 0
    if options.kind == "transformers":
        refuse_port(options.host, options.port)
    try:
        served = served_model(path, options.step)
    except NotMade as error:
        return error.code
    served = replace(served, name=_NOT_IN_A_NAME.sub("-", served.name).strip("-.") or "model")
    if options.kind == "vllm":
        say(vllm_page(path, served, options.host, options.port, options.dtype))
    if not served.has_chat_template:
        show([no_chat_template(str(served.folder))])
    return 0 if options.kind == "vllm" else _serve_here(served, options)


def _serve_here(served: Served, options: ServeOptions) -> int:
    words = () if options.dtype is None else ("--dtype", options.dtype)
    with TransformersServer(served, options.host, options.port, words) as server:
        tell(f"transformers serve loads {served.folder} ...")
        if server.wait_until_it_answers():
            say(how_to_ask(server.url, served))
            server.wait_until_it_is_to_end()
        tell("the server is asked to end ...")
    tell("ended")
    return 0


def how_to_ask(url: str, served: Served) -> str:
    """The page that is shown when the server answers: for a shell, and for Python."""
    is_chat = served.has_chat_template
    asked = {"messages": [{"role": "user", "content": "Hello"}]} if is_chat else {"prompt": "Hello"}
    body = json.dumps({"model": served.name, **asked, "max_tokens": 64}, ensure_ascii=False)
    place = "chat/completions" if is_chat else "completions"
    call = place.replace("/", ".")
    given = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in asked.items())
    answer = "choices[0].message.content" if is_chat else "choices[0].text"
    return f"""\
{url}/v1 answers, with the model {served.name}. Ctrl-C ends it.

in a shell:
  curl {quoted(f"{url}/v1/{place}")} -H 'Content-Type: application/json' -d {quoted(body)}

in Python (pip install openai):
  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="none")
  answer = client.{call}.create(model="{served.name}", {given}, max_tokens=64)
  print(answer.{answer})

under load, from another terminal:
  {quoted(called("crossfoot"))} loadtest {quoted(url)}
"""
