"""Other trainers' words for our keys and values: transformers' TrainingArguments, peft, TRL, LLaMA-Factory,
axolotl, ms-swift, DeepSpeed, Chinese-LLaMA-Alpaca-2. The one table: for keys of a config, for overrides, for
options on a command line or in a launch script, and for `crossfoot import`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_SAME: Mapping[str, str] = {
    "run.name": "run_name experiment_name exp_name",
    "run.dir": "output_dir out_dir output_path save_dir checkpoint_dir output",
    "run.seed": "data_seed random_seed",
    "model.path": """model_name_or_path base_model model_name model_path model_id model_id_or_path
        pretrained_model base_model_name_or_path pretrained_model_name_or_path""",
    "model.dtype": "torch_dtype compute_dtype precision mixed_precision",
    "model.attention": "attn_implementation attn_impl flash_attn",
    "model.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing",
    "tokenizer.path": "tokenizer_name_or_path tokenizer_name tokenizer_path",
    "data.max_seq_len": """cutoff_len sequence_len max_seq_length max_length model_max_length block_size
        seq_len seq_length max_source_length context_length""",
    "data.template": "chat_template prompt_template template_type conversation_template",
    "batch.micro_batch_size": """per_device_train_batch_size per_gpu_train_batch_size
        train_micro_batch_size_per_gpu micro_batch_size_per_gpu device_batch_size""",
    "batch.grad_accum_steps": """gradient_accumulation_steps accumulate_grad_batches gradient_accumulation
        grad_accum""",
    "batch.global_batch_size": """train_batch_size effective_batch_size total_batch_size
        global_train_batch_size""",
    "cluster.num_nodes": "nnodes num_machines n_nodes",
    "cluster.gpus_per_node": "nproc_per_node n_gpu num_gpus n_gpus gpus num_gpus_per_node gpu_num",
    "lr.reference": "learning_rate lr base_lr peak_lr max_lr",
    "lr.schedule": "lr_scheduler_type lr_scheduler scheduler lr_schedule",
    "lr.cycles": "num_cycles",
    "lr.warmup_fraction": "warmup_ratio warmup_proportion",
    "lr.warmup_steps": "num_warmup_steps warmup_num_steps lr_warmup_steps",
    "optimizer.name": "optim optimizer_type optimizer_name",
    "optimizer.betas": "adam_betas",
    "optimizer.eps": "adam_epsilon optim_eps epsilon",
    "optimizer.weight_decay": "wd",
    "optimizer.max_grad_norm": """gradient_clipping grad_clip clip_grad gradient_clip_val max_norm
        grad_norm_clip""",
    "model.adapter": "adapter_name_or_path lora_model_dir peft_path adapter_path",
    "lora.r": "lora_rank lora_r rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout lora_dropout_p",
    "lora.dora": "use_dora peft_use_dora",
    "deepspeed": "deepspeed_config deepspeed_config_file ds_config",
    "train.epochs": "num_train_epochs num_epochs n_epochs max_epochs",
    "train.max_steps": "max_train_steps num_steps total_steps num_train_steps num_training_steps train_iters",
    "validation.min_improvement": "early_stopping_threshold",
    "validation.every_steps": "eval_steps eval_interval validation_steps eval_freq val_steps",
    "validation.patience": "early_stopping_patience early_stopping_steps",
    "checkpoint.every_steps": "save_steps save_interval checkpoint_interval save_every",
    "checkpoint.keep": "save_total_limit",
    "faults.timeout_seconds": "ddp_timeout",
    "tracking.project": "wandb_project",
}
"""Our key -> words for it whose values are ours too."""


@dataclass(frozen=True)
class Foreign:
    """Another trainer's word. key: ours, dotted; "" when there is none. how: how the value changes, or what
    else it may mean. why: why there is none. values: theirs, in lower case -> ours; empty
    when all pass as they are. trains: without it something else is trained.
    """

    key: str = ""
    how: str = ""
    why: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    trains: bool = False


_FILES = "files, as a list: data.train: [FILE.json]"
_LIMITS = "each entry has its own: data.train: [{path: FILE.json, max_samples: 1000}]"
_WEIGHTS = "each entry has a weight: data.train: [{path: FILE.json, weight: 2}]"
_ATTENTION = {"true": "flash_attention_2"}
_MODULES = "a list of names, or all-linear; the default is all seven linear layers of a block"
_INIT = "default (its true), pissa, pissa_niter_16 or olora"
_ON_PURPOSE = "add a section lora:; without one all weights are trained"

_FOR_LORA = """
finetuning_type train_type tuner_type sft_type use_lora use_peft use_peft_lora peft peft_config
"""

_CHANGED: Mapping[str, Foreign] = {
    "bf16": Foreign("model.dtype", values=dict.fromkeys(("true", "auto", "full"), "bfloat16")),
    "fp16": Foreign("model.dtype", values={"true": "float16"}),
    "fp32": Foreign("model.dtype", values={"true": "float32"}),
    "use_flash_attn": Foreign("model.attention", values=_ATTENTION),
    "use_flash_attention": Foreign("model.attention", values=_ATTENTION),
    "use_flash_attention_2": Foreign("model.attention", values=_ATTENTION),
    "flash_attention": Foreign("model.attention", values=_ATTENTION),
    "sdp_attention": Foreign("model.attention", values={"true": "sdpa"}),
    "eager_attention": Foreign("model.attention", values={"true": "eager"}),
    "adam_beta1": Foreign("optimizer.betas", "both betas are one list: betas: [0.9, 0.999]"),
    "adam_beta2": Foreign("optimizer.betas", "both betas are one list: betas: [0.9, 0.999]"),
    "min_lr": Foreign("lr.min_ratio", "its share of the peak rate: min_lr / learning_rate"),
    "cosine_min_lr_ratio": Foreign("lr.min_ratio"),
    "min_lr_ratio": Foreign("lr.min_ratio"),
    "min_lr_rate": Foreign("lr.min_ratio"),
    **dict.fromkeys(
        ("loraplus_lr_ratio", "lorap_lr_ratio"), Foreign("lr.groups", "the ratio of lora_B: {lora_B: 16}")
    ),
    "embedding_lr_scale": Foreign("lr.groups", "the ratio of embed_tokens: {embed_tokens: 0.1}"),
    "lora_target": Foreign("lora.target_modules", _MODULES),
    "lora_target_modules": Foreign("lora.target_modules", _MODULES),
    "trainable": Foreign("lora.target_modules", _MODULES),
    "lora_target_linear": Foreign("lora.target_modules", values={"true": "all-linear"}),
    "use_rslora": Foreign("lora.scaling", values={"true": "rslora", "false": "standard"}),
    "peft_use_rslora": Foreign("lora.scaling", values={"true": "rslora", "false": "standard"}),
    **dict.fromkeys(
        ("init_lora_weights", "lora_init_weights", "peft_init_lora_weights"), Foreign("lora.init", _INIT)
    ),
    "pissa_init": Foreign("lora.init", values={"true": "pissa_niter_16", "false": "default"}),
    "additional_target": Foreign("lora.modules_to_save", "a list of names: [embed_tokens, lm_head]"),
    "lora_modules_to_save": Foreign("lora.modules_to_save", "a list of names: [embed_tokens, lm_head]"),
    "stage": Foreign("data.task", values={"sft": "sft", "pt": "pretrain"}),
    "training_stage": Foreign("data.task", values={"sft": "sft", "pt": "pretrain"}),
    "dataset": Foreign("data.train", _FILES),
    "max_samples": Foreign("data.train", _LIMITS),
    "mix_strategy": Foreign("data.train", _WEIGHTS),
    "interleave_probs": Foreign("data.train", _WEIGHTS),
    "datasets": Foreign("data.train", _FILES),
    "dataset_dir": Foreign("data.train", _FILES),
    "dataset_name": Foreign("data.train", _FILES),
    "train_file": Foreign("data.train", _FILES),
    "train_files": Foreign("data.train", _FILES),
    "train_data": Foreign("data.train", _FILES),
    "data_path": Foreign("data.train", _FILES),
    "validation_file": Foreign("data.validation", "files, as a list: data.validation: [FILE.json]"),
    "val_dataset": Foreign("data.validation", "files, as a list: data.validation: [FILE.json]"),
    "eval_dataset": Foreign("data.validation", "files, as a list: data.validation: [FILE.json]"),
    **dict.fromkeys(
        ("val_set_size", "validation_split_percentage", "val_size", "split_dataset_ratio"),
        Foreign("data.validation", "a share or a number of the samples of data.train: data.validation: 0.05"),
    ),
    "excess_length_strategy": Foreign("data.over_long", values={"drop": "drop", "truncate": "truncate"}),
    "test_datasets": Foreign("data.validation", "files, as a list: data.validation: [FILE.json]"),
    "disable_gradient_checkpointing": Foreign(
        "model.gradient_checkpointing", values={"true": "false", "false": "true"}
    ),
    **dict.fromkeys(_FOR_LORA.split(), Foreign("lora", _ON_PURPOSE)),
    "full_finetuning": Foreign("lora", "without a section lora: all weights are trained"),
    **dict.fromkeys(
        ("packing", "sample_packing", "neat_packing", "pack_to_max_length"),
        Foreign("data.layout", values={"true": "packed", "false": "padded"}),
    ),
    "dataloader_drop_last": Foreign("data.last_step", values={"true": "drop", "false": "short"}),
    "drop_last": Foreign("data.last_step", values={"true": "drop", "false": "short"}),
    "report_to": Foreign("tracking.wandb", values={"wandb": "online", "all": "online", "none": "off"}),
    "use_wandb": Foreign("tracking.wandb", values={"true": "online", "false": "off"}),
    "wandb_mode": Foreign(
        "tracking.wandb", values={"online": "online", "offline": "offline", "disabled": "off"}
    ),
    "load_best_model_at_end": Foreign(
        "checkpoint.best", "the best checkpoint is kept; the run ends with its last"
    ),
    "batch_size": Foreign(
        "batch.micro_batch_size", "samples per GPU; of a whole step it is batch.global_batch_size"
    ),
    "load_in_4bit": Foreign("model.quantization", values={"true": "nf4", "false": "none"}),
    "load_in_8bit": Foreign("model.quantization", values={"true": "int8", "false": "none"}),
    "bnb_4bit_quant_type": Foreign("model.quantization", values={"nf4": "nf4"}),
    **dict.fromkeys(
        ("quantization_bit", "quant_bits", "load_in_kbits"),
        Foreign("model.quantization", values={"4": "nf4", "8": "int8", "16": "none"}),
    ),
    "warmup": Foreign("lr.warmup_fraction", "a share of all steps; in steps it is lr.warmup_steps"),
}
"""Words whose values are said otherwise here."""

_NONE: Mapping[str, str] = {
    "how samples are laid out is data.layout, for validation too": "eval_sample_packing pad_to_sequence_len",
    "every step is in the ledger and on the screen": """logging_steps logging_first_step logging_strategy
        log_interval logging_dir disable_tqdm log_level plot_loss include_num_input_tokens_seen
        include_tokens_per_second skip_memory_metrics""",
    "checkpoints and validation are counted in steps: checkpoint.every_steps, validation.every_steps": """
        save_strategy evaluation_strategy eval_strategy saves_per_epoch evals_per_epoch""",
    "the verb says it: crossfoot train trains, and validates when data.validation is given": """
        do_train do_eval do_predict predict_with_generate""",
    "a run goes on with --continue RUN_DIR on the command line": """resume_from_checkpoint
        auto_resume_from_checkpoints ignore_data_skip resume""",
    "a folder that holds a run is never overwritten": "overwrite_output_dir overwrite_cache",
    "a checkpoint is safetensors, small, and holds what a run needs to go on": """save_safetensors
        save_only_model save_on_each_node""",
    "code that comes with a model is never run": "trust_remote_code trust_remote",
    "the classes follow from config.json and the tokenizer's files": """model_type tokenizer_type
        is_llama_derived_model is_mistral_derived_model is_falcon_derived_model""",
    "validation is as large as training: one forward has batch.micro_batch_size samples": """
        per_device_eval_batch_size eval_batch_size eval_accumulation_steps per_gpu_eval_batch_size""",
    "data is tokenised once into an index, and read from there": """preprocessing_num_workers
        dataloader_num_workers dataset_num_proc dataloader_pin_memory num_workers streaming
        dataset_prepared_path cache_dir remove_unused_columns dataloader_prefetch_factor lazy_tokenize
        tokenized_path buffer_size data_cache_dir dataset_processes""",
    "weights are read as they are needed, in the precision of model.dtype": "low_cpu_mem_usage",
    "kernels are model.kernels and model.attention": """use_unsloth use_liger_kernel enable_liger_kernel
        xformers_attention lora_on_cpu""",
    "it is what every LoRA here is": "task_type lora_fan_in_fan_out",
    "ranks come from the launcher": """local_rank world_size ddp_backend ddp_find_unused_parameters
        num_processes ray_num_workers""",
    "nothing is uploaded": "push_to_hub hub_model_id hub_strategy hub_token push_to_hub_model_id",
    "TF32 is left to torch": "tf32",
    "the nearest mirror is tracking.wandb; the ledger has every number": """wandb_entity wandb_watch
        wandb_name wandb_run_id wandb_log_model""",
    "it says only what is shown": "strict debug eval_table_size eval_max_new_tokens save_first_step",
    "torch.compile is not used": "torch_compile torch_compile_backend",
}
"""Why there is none -> words for which there is none, and without which the same is trained."""

_NONE_TRAINED: Mapping[str, str] = {
    "a base in 4 bits (model.quantization: nf4) is NF4 computed in model.dtype, quantised once": """
        quantization_method quant_method quant_type bnb_4bit_compute_dtype bnb_4bit_use_double_quant
        double_quant double_quantization""",
    "all samples are trained; limit entries of data.train, or set train.max_steps": """max_train_samples
        num_samples""",
    "the order of samples follows from run.seed, always shuffled": """group_by_length shuffle
        length_column_name train_sampling_strategy""",
    "answers are trained and prompts are not (data.task: sft)": """train_on_inputs train_on_prompt
        mask_history completion_only_loss assistant_only_loss response_template dataset_text_field""",
    "LoRA, rsLoRA, DoRA, PiSSA and OLoRA are what there is": """lora_bias use_galore
        neftune_noise_alpha bias freeze_trainable_layers""",
    "full training saves and shards by DeepSpeed (deepspeed: FILE); there is no FSDP": """fsdp fsdp_config
        fsdp_transformer_layer_cls_to_wrap""",
    "trained weights keep a float32 master": "pure_bf16",
    "the model is taken as its config.json says": "rope_scaling shift_attn upcast_layernorm",
    "it stands in the DeepSpeed file, as zero_optimization.stage": "zero_stage",
    "the tokenizer's own special tokens are used": """special_tokens resize_vocab use_fast_tokenizer
        add_eos_token tokens""",
    "a sample that is too long is cut, and its lost tokens are counted": "excess_length_strategy",
    "the loss is the mean over the trained tokens of a step": "label_smoothing_factor label_names",
    "the schedule is lr.schedule, with lr.min_ratio as its floor": "lr_scheduler_kwargs",
}
"""The same of words without which something else is trained."""

_TABLE: Mapping[str, Foreign] = MappingProxyType(
    {word: Foreign(key) for key, words in _SAME.items() for word in words.split()}
    | {word: Foreign(why=why) for why, words in _NONE.items() for word in words.split()}
    | {word: Foreign(why=why, trains=True) for why, words in _NONE_TRAINED.items() for word in words.split()}
    | dict(_CHANGED)
)

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {word: key for key, words in _SAME.items() for word in words.split()}
)
"""Another trainer's word -> our key, dotted, where the value is the same."""

SYNONYMS: Mapping[str, Mapping[str, str]] = {
    "model.dtype": {
        **dict.fromkeys(("bf16", "torch.bfloat16"), "bfloat16"),
        **dict.fromkeys(("fp16", "half", "torch.float16"), "float16"),
        **dict.fromkeys(("fp32", "float", "torch.float32"), "float32"),
    },
    "model.attention": dict.fromkeys(
        ("fa2", "flash_attn", "flash_attention", "flash_attn_2", "flash-attn", "flash"), "flash_attention_2"
    ),
    "optimizer.name": dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adamw_hf", "torch.optim.adamw"), "adamw"
    ),
    "lr.schedule": {"constant_with_warmup": "constant", "warmup_stable_decay": "wsd"},
    "data.task": dict.fromkeys(("pt", "pre_train", "pretraining"), "pretrain")
    | dict.fromkeys(("supervised", "instruction"), "sft"),
    "tracking.wandb": {"disabled": "off", "false": "off", "true": "online", "none": "off"},
}
"""Values of other trainers that train the same: our key -> theirs, in lower case -> ours."""

OTHER_VALUES: Mapping[str, Mapping[str, str]] = {
    "optimizer.name": {
        "adam": "adam couples the weight decay with its steps: adamw is another optimizer",
        **dict.fromkeys(("adamax", "nadam", "radam", "lamb", "lion"), "crossfoot has adamw and sgd only"),
    },
    "lora.init": {
        **dict.fromkeys(("eva", "corda", "lora_ga"), "it begins from what the data does in the model"),
        **dict.fromkeys(("gaussian", "orthogonal"), "it draws other random numbers for A; B begins at 0 too"),
        "loftq": "it begins with what quantising a base loses; see model.quantization",
    },
    "tracking.wandb": {"tensorboard": "TensorBoard's files are tracking.tensorboard: true"},
    "lr.schedule": {"cosine_with_min_lr": "it is cosine with a floor: schedule: cosine and min_ratio"},
}
"""Values that are a letter or two from one of ours, and another thing: our key -> theirs -> what it is."""


NEW_ADAPTERS: Mapping[str, str] = {
    "lora": "the section lora: asks",
    "qlora": "the section lora: and model.quantization: nf4 ask",
    "dora": "the section lora: with dora: true asks",
}
"""axolotl's values of `adapter`, which is a path with us -> what asks for that here."""


def foreign(word: str) -> Foreign | None:
    """What another trainer's word is here, however its case, with hyphens or underscores."""
    return _TABLE.get(word.lower().replace("-", "_"))


def words_for(key: str) -> tuple[str, ...]:
    """Other trainers' words for our key."""
    return tuple(word for word, meant in _TABLE.items() if meant.key == key)


def synonym(key: str, value: str) -> str | None:
    """Our value for another trainer's, where it trains the same."""
    return SYNONYMS.get(key, {}).get(value.lower())
