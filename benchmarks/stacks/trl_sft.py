"""TRL's SFTTrainer, with and without its packing (best fit decreasing)."""

from __future__ import annotations

from clock import begin, in_order

job = begin()

from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

in_order(SFTTrainer)
SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(job.model, dtype=job.torch_dtype),
    args=SFTConfig(
        **job.trainer_arguments(),
        gradient_checkpointing=job.checkpointing,
        max_length=job.packed or 512,
        packing=job.packed > 0,
        shuffle_dataset=False,
    ),
    train_dataset=Dataset.from_list(job.samples()),
    processing_class=AutoTokenizer.from_pretrained(job.model),
    peft_config=LoraConfig(**job.lora()),
).train()
