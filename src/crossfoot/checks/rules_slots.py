"""CF108 and CF109: what `batch.micro_batch_tokens` needs of the keys beside it."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.arithmetic.impossible import alternatives
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Finding


@rule("CF108", name="tokens-of-a-padded-slot")
def tokens_when_padded(facts: Facts) -> Iterator[Finding]:
    """CF108: `batch.micro_batch_tokens` is given, and the layout is padded.

    Padded, every sample of a forward is computed as long as the longest, so a limit in real tokens would say
    nothing of what is computed. There a forward has `batch.micro_batch_size` samples.
    """
    config = facts.run.config
    tokens = config.batch.micro_batch_tokens
    if tokens is None or config.data.is_packed:
        return
    yield Finding(
        "CF108",
        f"micro_batch_tokens {tokens:,} limits the forwards of the packed layout, and data.layout is padded",
        place=facts.run.place("batch.micro_batch_tokens"),
        others=((facts.run.place("data.layout"), "padded"),),
        helps=alternatives(
            ("set data.layout to packed", "set batch.micro_batch_size in place of batch.micro_batch_tokens")
        ),
    )


@rule("CF109", name="sample-above-a-slot")
def longest_sample(facts: Facts) -> Iterator[Finding]:
    """CF109: `data.max_seq_len` is above `batch.micro_batch_tokens`.

    A sample is never divided: it is computed in one forward, and may have `data.max_seq_len` tokens. A
    forward of fewer tokens could not hold it. Where no sample is that long, a lower `data.max_seq_len` cuts
    none.
    """
    config = facts.run.config
    tokens, longest = config.batch.micro_batch_tokens, config.data.max_seq_len
    if tokens is None or tokens >= longest or not config.data.is_packed:
        return
    others = ((facts.run.place("data.max_seq_len"), f"{longest:,} tokens"),)
    yield Finding(
        "CF109",
        f"a forward holds {tokens:,} tokens, and a sample may have {longest:,}",
        place=facts.run.place("batch.micro_batch_tokens"),
        others=others if facts.run.is_written("data.max_seq_len") else (),
        notes=()
        if facts.run.is_written("data.max_seq_len")
        else (f"data.max_seq_len is {longest:,} by default",),
        helps=alternatives(
            (f"set batch.micro_batch_tokens to {longest}, or more", f"set data.max_seq_len to {tokens}")
        ),
    )
