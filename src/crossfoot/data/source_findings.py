"""What can be wrong with the sources of data.train taken together."""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import counted


@rule_docs("CF512", name="source-without-samples")
def no_sample_of_source(place: Place, name: str, samples: int, weight: float) -> Finding:
    """CF512: a source of data.train gives an epoch no sample at all.

    An epoch takes weight x samples of it, to the nearest integer, and that is 0. So it would be named and
    never trained. Documents of pretrain that are together shorter than data.max_seq_len make no sample of
    their own either: they end in the block that an earlier source begins.
    """
    has = f"it has {counted(samples, 'sample')}"
    helps = ["remove this source from data.train"]
    if samples:
        has += f", and weight {weight:g} of that is less than a half"
        helps.insert(0, f"raise its weight to {1 / samples:.3g}: one sample an epoch")
    return Finding(
        "CF512", f"an epoch would hold no sample of {name}", place=place, label=has, helps=tuple(helps)
    )


@rule_docs("CF528", name="sources-of-one-name")
def same_name(name: str, place: Place, first: Place) -> Finding:
    """CF528: two sources of data.train have the same name.

    Plan, ledger and receipt count each source by its name. To count several files as one source, put them in
    a folder, or name them by one pattern: data/news-*.jsonl.
    """
    return Finding(
        "CF528",
        f"two sources are called {name}",
        place=place,
        label="again here",
        others=((first, "first here"),),
        helps=("give one of them another name",),
    )
