"""ms-swift's own training; samples come from the job instead of text."""

from __future__ import annotations

from clock import TABLES, TARGETS, begin

job = begin()

from swift.pipelines import SwiftSft  # noqa: E402


class Handed(SwiftSft):
    """Its pipeline with samples that are tokens already."""

    def _prepare_dataset(self):  # type: ignore[no-untyped-def]
        rows = [{**sample, "length": len(sample["input_ids"])} for sample in job.samples()]
        return [[{name: row[name] for name in ("input_ids", "labels", "length")} for row in rows], None]


told = {
    "model": job.model,
    "model_type": "llama",
    "template": "dummy",
    "dataset": "of_the_job",
    "tuner_type": "lora",
    "lora_rank": 64,
    "lora_alpha": 128,
    "lora_dropout": job.dropout,
    "target_modules": TARGETS,
    "modules_to_save": TABLES,
    "torch_dtype": job.dtype,
    "max_length": 512,
    "train_dataloader_shuffle": "false",
    "check_model": "false",
    "gradient_checkpointing": str(job.checkpointing).lower(),
    **job.trainer_arguments(),
}
words = []
for name, value in told.items():
    words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
Handed(words).main()
