"""The trainers whose files are read: how one is recognised, and what it takes where a file says nothing.

The defaults are those of the versions named here, read in their sources: transformers 4.35.0 is the one that
Chinese-LLaMA-Alpaca-2 asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Name = Literal["alpaca2", "hf", "llamafactory", "axolotl"]


@dataclass(frozen=True)
class Default:
    """A value that a trainer takes by itself. value: in our YAML; key: what it is called there. by: who says
    so, where that is not the stack's version.
    """

    value: str
    key: str
    by: str = ""


@dataclass(frozen=True)
class Stack:
    """A trainer. marks: keys by which a file of it is known. version: whose defaults these are. defaults: by
    our key. floors_steps: the steps of an epoch are rounded down, not up. means: how a step's loss is made of
    its forwards, "" when it is the mean over all of its tokens.
    """

    name: Name
    title: str
    version: str
    marks: frozenset[str]
    defaults: Mapping[str, Default] = field(default_factory=dict)
    floors_steps: bool = False
    means: str = ""


_HF_MARKS = """
per_device_train_batch_size num_train_epochs gradient_accumulation_steps lr_scheduler_type warmup_ratio
save_total_limit evaluation_strategy eval_strategy adam_beta1 adam_beta2 save_strategy overwrite_output_dir
per_device_eval_batch_size
"""
_LLAMA_FACTORY_MARKS = """
stage finetuning_type cutoff_len lora_target neat_packing quantization_bit mask_history train_on_prompt
"""
_AXOLOTL_MARKS = """
base_model sequence_len sample_packing lora_target_linear val_set_size lora_model_dir dataset_prepared_path
special_tokens
"""

_TRAINING_ARGUMENTS: Mapping[str, Default] = {
    "run.seed": Default("42", "seed"),
    "model.dtype": Default("float32", "bf16, fp16"),
    "batch.micro_batch_size": Default("8", "per_device_train_batch_size"),
    "batch.grad_accum_steps": Default("1", "gradient_accumulation_steps"),
    "lr.reference": Default("5e-5", "learning_rate"),
    "lr.schedule": Default("linear", "lr_scheduler_type"),
    "optimizer.name": Default("adamw", "optim"),
    "optimizer.betas": Default("[0.9, 0.999]", "adam_beta1, adam_beta2"),
    "optimizer.eps": Default("1e-8", "adam_epsilon"),
    "optimizer.weight_decay": Default("0.0", "weight_decay"),
    "optimizer.max_grad_norm": Default("1.0", "max_grad_norm"),
    "train.epochs": Default("3", "num_train_epochs"),
    "checkpoint.every_steps": Default("500", "save_steps"),
}

_HF = Stack(
    "hf",
    "Hugging Face Trainer",
    "transformers 4.57.1",
    frozenset(_HF_MARKS.split()),
    MappingProxyType(
        {
            **_TRAINING_ARGUMENTS,
            "lora.r": Default("8", "r", "peft"),
            "lora.alpha": Default("8", "lora_alpha", "peft"),
            "lora.dropout": Default("0.0", "lora_dropout", "peft"),
            "lora.target_modules": Default("[q_proj, v_proj]", "target_modules of a Llama", "peft"),
        }
    ),
    means="Transformers before 4.46 counts each one's mean alike, however many tokens it trains; 4.57 counts "
    "every token, as crossfoot does",
)
_PROGRAM = "run_clm_sft_with_peft.py"
_ALPACA2 = Stack(
    "alpaca2",
    "Chinese-LLaMA-Alpaca-2",
    "transformers 4.35.0",
    frozenset(("trainable", "load_in_kbits", "full_finetuning", "peft_path")),
    MappingProxyType(
        {
            **_TRAINING_ARGUMENTS,
            "data.max_seq_len": Default("1024", "max_seq_length, block_size", _PROGRAM),
            "lora.r": Default("8", "lora_rank", _PROGRAM),
            "lora.alpha": Default("32", "lora_alpha", _PROGRAM),
            "lora.dropout": Default("0.1", "lora_dropout", _PROGRAM),
            "lora.target_modules": Default("[q_proj, v_proj]", "trainable", _PROGRAM),
        }
    ),
    floors_steps=True,
    means="Each one's mean counts alike, however many tokens it trains; crossfoot counts every token",
)
_LLAMA_FACTORY = Stack(
    "llamafactory",
    "LLaMA-Factory",
    "LLaMA-Factory 0.9.5",
    frozenset(_LLAMA_FACTORY_MARKS.split()),
    MappingProxyType(
        {
            **_TRAINING_ARGUMENTS,
            "model.dtype": Default("bfloat16", "that of the model; float16 for one of float16"),
            "model.gradient_checkpointing": Default("true", "disable_gradient_checkpointing"),
            "data.max_seq_len": Default("2048", "cutoff_len"),
            "lora.r": Default("8", "lora_rank"),
            "lora.dropout": Default("0.0", "lora_dropout"),
        }
    ),
)
_AXOLOTL = Stack(
    "axolotl",
    "axolotl",
    "axolotl 0.19.0",
    frozenset(_AXOLOTL_MARKS.split()),
    MappingProxyType(
        {
            **_TRAINING_ARGUMENTS,
            "model.dtype": Default("bfloat16", "bf16: auto"),
            "batch.micro_batch_size": Default("1", "micro_batch_size"),
            "lr.schedule": Default("cosine", "lr_scheduler"),
            "train.epochs": Default("1", "num_epochs"),
            "data.max_seq_len": Default("512", "sequence_len"),
            "data.over_long": Default("drop", "excess_length_strategy"),
            "lora.dropout": Default("0.0", "lora_dropout"),
            "lora.target_modules": Default("[q_proj, v_proj]", "target_modules of a Llama", "peft"),
        }
    ),
)
STACKS: tuple[Stack, ...] = (_AXOLOTL, _LLAMA_FACTORY, _ALPACA2, _HF)
"""The first one that fits is it: the Trainer's keys stand in files of all others too."""

PROGRAMS: Mapping[str, Stack] = {
    "run_clm_pt_with_peft.py": _ALPACA2,
    "run_clm_sft_with_peft.py": _ALPACA2,
    "llamafactory-cli": _LLAMA_FACTORY,
    "train_bash.py": _LLAMA_FACTORY,
    "axolotl": _AXOLOTL,
    "axolotl.cli.train": _AXOLOTL,
}
"""Programs that say whose they are: the last part of their path."""


def stack_of(keys: frozenset[str], program: str = "") -> Stack | None:
    """Whose keys these are; None when no trainer that is read has them."""
    called = PROGRAMS.get(program.rpartition("/")[2])
    return called or next((stack for stack in STACKS if stack.marks & keys), None)
