"""The table of other trainers' words: every word leads to a key that is there, or says why there is none."""

from __future__ import annotations

import pytest

from crossfoot.written.foreign_keys import ELSEWHERE, OTHER_VALUES, SYNONYMS, foreign
from crossfoot.written.known_keys import choices, homes, is_known, suggest, translated
from crossfoot.written.meant_value import meant_value, nearest_word

WORDS = """
learning_rate num_train_epochs per_device_train_batch_size gradient_accumulation_steps warmup_ratio
lr_scheduler_type output_dir model_name_or_path bf16 fp16 torch_dtype optim adam_beta1 adam_beta2 adam_epsilon
save_steps eval_steps logging_steps save_total_limit evaluation_strategy save_strategy report_to run_name
dataloader_num_workers do_train overwrite_output_dir resume_from_checkpoint ddp_timeout tf32 group_by_length
load_best_model_at_end max_seq_length packing dataset_text_field lora_r lora_alpha lora_dropout target_modules
use_rslora bias task_type init_lora_weights cutoff_len lora_target finetuning_type stage dataset dataset_dir
template flash_attn neat_packing val_size quantization_bit max_samples preprocessing_num_workers plot_loss
lora_rank additional_target sequence_len sample_packing micro_batch_size num_epochs base_model val_set_size
load_in_4bit load_in_8bit adapter lora_target_linear train_on_inputs flash_attention wandb_project datasets
special_tokens trust_remote_code fsdp sft_type train_type attn_impl max_length neftune_noise_alpha
weight_decay max_grad_norm gradient_checkpointing deepspeed seed data_seed max_steps warmup_steps push_to_hub
per_device_eval_batch_size train_batch_size gradient_clipping nproc_per_node nnodes local_rank zero_stage
"""


@pytest.mark.parametrize("word", WORDS.split())
def test_every_word_of_the_usual_trainers_is_known(word: str) -> None:
    word_of_theirs = foreign(word)
    if word_of_theirs is None:
        assert homes(word) or is_known((word,)), "it is one of ours too"
        return
    assert bool(word_of_theirs.key) != bool(word_of_theirs.why)
    assert not word_of_theirs.key or is_known(tuple(word_of_theirs.key.split(".")))
    assert foreign(word.upper().replace("_", "-")) == word_of_theirs
    meant = suggest((word,), text="true")
    assert meant is not None and meant.path == word_of_theirs.key
    assert meant.path or meant.note, "never `remove it` alone"


def test_no_word_hides_one_of_our_keys() -> None:
    assert not [word for word in ELSEWHERE if homes(word)]
    assert all(is_known(tuple(key.split("."))) for key in ELSEWHERE.values())


def test_a_value_is_only_translated_into_one_that_is_there() -> None:
    for key, values in SYNONYMS.items():
        assert set(values.values()) <= set(choices(key)), key
        assert not set(values) & set(OTHER_VALUES.get(key, ()))


def test_a_word_for_another_thing_is_never_the_nearest() -> None:
    for key, values in OTHER_VALUES.items():
        for value in values:
            assert meant_value(key, "literal_error", value, choices(key)) is None
    for key, value in (
        ("lr.schedule", "polynomial"),
        ("data.template", "alpaca"),
        ("data.layout", "lined"),
    ):
        assert nearest_word(value, choices(key)) is None


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("bf16", "true", "model.dtype=bfloat16"),
        ("fp16", "", "model.dtype=float16"),
        ("fp16", "false", None),
        ("num_train_epochs", "3.0", "train.epochs=3"),
        ("optim", "adamw_torch", "optimizer.name=adamw"),
        ("optim", "adafactor", None),
        ("flash_attn", "fa2", "model.attention=flash_attention_2"),
        ("report_to", "wandb", "tracking.wandb=online"),
        ("report_to", "tensorboard", None),
        ("lora_target", "all", None),
        ("load_in_4bit", "true", "model.quantization=nf4"),
        ("quantization_bit", "8", "model.quantization=int8"),
        ("bnb_4bit_quant_type", "fp4", None),
        ("double_quantization", "true", None),
    ],
)
def test_the_word_that_says_the_same(name: str, text: str, word: str | None) -> None:
    meant = translated(name, text)
    assert meant is not None and meant.word == word


def test_a_kind_of_adapter_is_no_path_of_one() -> None:
    meant = suggest(("adapter",), text="qlora")
    assert meant is not None and meant.path == "lora"
    assert meant.help.startswith(
        "remove it: the section lora: and model.quantization: nf4 ask for a new adapter"
    )
    moved = suggest(("adapter",), text="runs/pt")
    assert moved is not None and moved.path == "model.adapter"
