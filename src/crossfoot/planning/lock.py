"""plan.lock.json: the plan as every rank must hold it. Its sha256 is compared on all ranks before anything is
loaded.
"""

from __future__ import annotations

from typing import Any

from crossfoot.digests import sha256_of_document
from crossfoot.index.store import CONTENT_VERSION
from crossfoot.planning.plan import RunPlan
from crossfoot.runs.ending import lock_sha256

LOCK_VERSION = 1


def make_lock(plan: RunPlan) -> dict[str, Any]:
    """The lock of a plan that has an index. `sha256` covers everything else in it, as canonical JSON."""
    if plan.index is None or plan.expects is None:
        raise ValueError("a plan without an index cannot be locked")
    header = plan.index.header
    body: dict[str, Any] = {
        "version": LOCK_VERSION,
        "name": plan.run.config.run.name,
        # what is accepted changes no step, so it makes no other plan
        "config": plan.run.as_written.model_dump(mode="json", exclude={"checks"}),
        "plan": plan.numbers(),
        "deepspeed": _deepspeed_settings(plan),
        "index": {
            "address": plan.index.address,
            "content_version": CONTENT_VERSION,
            "arrays_sha256": header.arrays_sha256,
            "sources": [{"path": s.path, "sha256": s.sha256} for s in header.sources],
            "rejects": len(plan.index.rejects),
            "truncated_samples": header.truncated_samples,
            "lost_tokens": header.lost_tokens,
            "special_text_records": header.special_text_records.records,
        },
        "expects": plan.expects,
        "adapter": plan.adapter and plan.adapter.identity,
        **({"commits": plan.commits} if plan.commits else {}),
    }
    return {**body, "sha256": lock_sha256(body)}


def _deepspeed_settings(plan: RunPlan) -> dict[str, str] | None:
    """The DeepSpeed file's path and the sha256 of its settings, however they are laid out or commented."""
    if plan.deepspeed is None:
        return None
    return {"path": plan.deepspeed.path, "settings_sha256": sha256_of_document(plan.deepspeed.values)}
