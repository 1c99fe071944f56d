"""unsloth's model and adapters in TRL's SFTTrainer, as its notebooks do it."""

from __future__ import annotations

from clock import TABLES, TARGETS, begin, in_order

job = begin()

import unsloth  # noqa: E402, F401  # first, as it asks for
from datasets import Dataset  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402
from unsloth import FastLanguageModel  # noqa: E402

model, tokenizer = FastLanguageModel.from_pretrained(
    job.model, max_seq_length=512, dtype=job.torch_dtype, load_in_4bit=False
)
model = FastLanguageModel.get_peft_model(
    model,
    r=64,
    lora_alpha=128,
    lora_dropout=job.dropout,
    target_modules=[*TARGETS, *TABLES],
    use_gradient_checkpointing=job.checkpointing,
)
in_order(SFTTrainer)
SFTTrainer(
    model=model,
    args=SFTConfig(**job.trainer_arguments(), max_length=512),
    train_dataset=Dataset.from_list(job.samples()),
    processing_class=tokenizer,
).train()
