"""LLaMA-Factory's own training, with and without its neat packing; samples come from the job, not text."""

from __future__ import annotations

import sys
from types import ModuleType

from clock import TABLES, TARGETS, begin, in_order

job = begin()

import transformers.utils  # noqa: E402

if not transformers.utils.is_torchaudio_available():  # it is imported by name, and text needs nothing of it
    sys.modules["torchaudio"] = ModuleType("torchaudio")

from datasets import Dataset  # noqa: E402
from llamafactory.data.processor import PackedSupervisedDatasetProcessor  # noqa: E402
from llamafactory.hparams import get_train_args  # noqa: E402
from llamafactory.train.sft import workflow  # noqa: E402
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer  # noqa: E402

samples = job.samples()


class Packed(PackedSupervisedDatasetProcessor):
    """Its packing of samples that are tokens already: a prompt is the number of one."""

    def _encode_data_example(self, prompt, **_):  # type: ignore[no-untyped-def]
        sample = samples[int(prompt[0]["content"])]
        return list(sample["input_ids"]), list(sample["labels"])


def dataset(template, model_args, data_args, training_args, stage, tokenizer, processor=None):  # type: ignore[no-untyped-def]
    if not job.packed:
        return {"train_dataset": Dataset.from_list(samples)}
    numbers = [[{"role": "user", "content": str(number)}] for number in range(len(samples))]
    nothing = {name: [None] * len(samples) for name in ("_system", "_tools", "_images", "_videos", "_audios")}
    records = {"_prompt": numbers, "_response": numbers, **nothing}
    return {
        "train_dataset": Dataset.from_dict(
            Packed(template, tokenizer, processor, data_args).preprocess_dataset(records)
        )
    }


workflow.get_dataset = dataset
in_order(CustomSeq2SeqTrainer)
told = {
    "model_name_or_path": job.model,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 64,
    "lora_alpha": 128,
    "lora_dropout": job.dropout,
    "lora_target": ",".join(TARGETS),
    "additional_target": ",".join(TABLES),
    "template": "empty",
    "dataset": "of_the_job",
    "cutoff_len": job.packed or 512,
    "neat_packing": job.packed > 0,
    "disable_gradient_checkpointing": not job.checkpointing,
    **job.trainer_arguments(),
}
model_args, data_args, training_args, finetuning_args, generating_args = get_train_args(told)
workflow.run_sft(model_args, data_args, training_args, finetuning_args, generating_args)
