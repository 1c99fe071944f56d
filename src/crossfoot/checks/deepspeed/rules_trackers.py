"""CF331: monitors of DeepSpeed, beside the record that crossfoot keeps."""

from __future__ import annotations

from collections.abc import Iterator

from crossfoot.checks.deepspeed.handed_over import MONITORS
from crossfoot.checks.deepspeed.vocabulary import KeyPath
from crossfoot.checks.registry import Facts, rule
from crossfoot.findings.finding import Edit, Finding
from crossfoot.written.deepspeed_file import DeepSpeedFile


@rule("CF331", "warning", name="second-tracker")
def second_tracker(facts: Facts) -> Iterator[Finding]:
    """CF331: the DeepSpeed file switches on tensorboard, wandb, comet or csv_monitor.

    crossfoot keeps the record of a run: every step stands in `ledger.jsonl`, `crossfoot watch` shows it, and
    `tracking.wandb` mirrors it to Weights & Biases. DeepSpeed's monitors are not handed over. They would stop
    the run when their package is not installed, after the weights were loaded, and write a second record with
    other numbers when it is.
    """
    deepspeed = facts.understood
    if deepspeed is None:
        return
    is_mirrored = facts.run.config.tracking.wandb != "off"
    mirror = () if is_mirrored else ("for Weights & Biases set tracking.wandb to online or offline",)
    for path in _switched_on(deepspeed):
        name = ".".join(path)
        yield Finding(
            "CF331",
            f"{name} is on, and crossfoot keeps the record of a run itself",
            severity="warning",
            place=deepspeed.place(*path, part="key"),
            notes=("it is not handed over; ledger.jsonl has every step, and crossfoot watch shows it",),
            helps=(f"set {name}.enabled to false", *mirror),
            fix=_switching_off(deepspeed, path),
        )


def _switching_off(deepspeed: DeepSpeedFile, path: KeyPath) -> tuple[Edit, ...]:
    if deepspeed.get(*path) is True:
        return deepspeed.replacing(*path, text='{"enabled": false}')
    return deepspeed.replacing(*path, "enabled", text="false")


def _switched_on(deepspeed: DeepSpeedFile) -> Iterator[KeyPath]:
    """Monitors that are on, at the top of the file and one object below it (`monitor_config`)."""
    nested = [(name, value) for name, value in deepspeed.values.items() if isinstance(value, dict)]
    blocks: list[KeyPath] = [(name,) for name in MONITORS]
    blocks += [(outer, name) for outer, value in nested for name in MONITORS if name in value]
    for path in blocks:
        if True in (deepspeed.get(*path), deepspeed.get(*path, "enabled")):
            yield path
