"""The recipe of Chinese-LLaMA-Alpaca-2 on the HF Trainer: LoRA with both tables trained, rows padded to the
longest, activations recomputed. Written after scripts/training/run_clm_sft_with_peft.py and run_clm_pt.
"""

from __future__ import annotations

from clock import begin, in_order

job = begin()

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained(job.model)
model = AutoModelForCausalLM.from_pretrained(job.model, dtype=job.torch_dtype)
model.config.use_cache = False
if job.checkpointing:
    model.enable_input_require_grads()
in_order(Trainer)
Trainer(
    model=get_peft_model(model, LoraConfig(**job.lora())),
    args=TrainingArguments(
        **job.trainer_arguments(),
        gradient_checkpointing=job.checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        remove_unused_columns=False,
    ),
    train_dataset=job.samples(),
    data_collator=DataCollatorForSeq2Seq(tokenizer, padding="longest"),
).train()
