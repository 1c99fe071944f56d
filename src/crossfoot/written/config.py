"""The run config: every key, its type and its one default. Frozen, strict, nothing that mutates.

Optional numbers are None when left out; who fills them is said in each docstring.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, WrapValidator

from crossfoot.arithmetic.batch import Thresholds
from crossfoot.written.config_values import (
    Beta,
    Column,
    Count,
    Fraction,
    Index,
    Name,
    NotNegative,
    Positive,
    Reason,
    Text,
    files_or_part,
    one_or_each,
    one_or_in_time,
    text_or,
)
from crossfoot.written.data_sources import SourceSection
from crossfoot.written.dtypes import Dtype
from crossfoot.written.lora_section import LoraSection
from crossfoot.written.section import Section


class RunSection(Section):
    """Who this run is and where it lives."""

    name: Name
    """Shown in the plan and the receipt. No slash, and no dot in front: it names the default folder."""
    dir: Text | None = None
    """Folder of the run, on storage that every node sees. Default: runs/NAME."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Decides the order of every epoch, fresh LoRA weights and dropout draws."""


class ModelSection(Section):
    """The base model."""

    path: Text
    """A Hugging Face folder, a hub's id whose files are in the cache (ORG/NAME, modelscope:ORG/NAME), or
    builtin:tiny (a two-layer Llama made on the spot).
    """
    adapter: Text | None = None
    """Start from this LoRA adapter: a folder that peft or crossfoot wrote, or the folder of the run that made
    it. Null: from the model alone.
    """
    adapter_use: Literal["continue", "merge"] = "continue"
    """continue: its matrices are trained on; the section lora says the same as its adapter_config.json.
    merge: it becomes part of the base, and what is trained comes on top.
    """
    dtype: Dtype = "bfloat16"
    """Precision of the forward and of frozen weights; trained weights keep a float32 master."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the linear layers of the frozen base are kept, by bitsandbytes: nf4 (4 bits) or int8. Tables and
    norms stay in model.dtype, which is also what is computed in; LoRA only, and ZeRO below 3.
    """
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel; auto lets transformers choose, whatever the model's config.json asks for."""
    kernels: Literal["auto", "torch", "liger"] = "auto"
    """Norms and MLP. liger: those of the package liger-kernel, on CUDA. auto: torch's."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward: less memory, about a third slower."""
    matmul: Literal["auto", "highest", "medium"] = "auto"
    """How float32 matrices are multiplied on CPUs. highest: as torch does. medium: by oneDNN, up to twice as
    fast on AMD hosts. auto: medium where the start measures that it is as exact and faster. All ranks do it
    alike, and so does an attempt that goes on.
    """


class TokenizerSection(Section):
    """The tokenizer, when it is not the model's own."""

    path: Text
    """As model.path: a folder, a hub's id, or builtin:tiny."""


class DataSection(Section):
    """What is trained on. Paths are relative to the working directory."""

    train: Annotated[
        list[Annotated[Text | SourceSection, WrapValidator(text_or(SourceSection))]], Field(min_length=1)
    ]
    """Sources. Each is a file, a folder (all data files in it, by name), a pattern (data/*.json), or {path,
    name, weight, max_samples}. Files: JSON, JSONL, CSV, Parquet or, for pretrain, plain text (one line is one
    document); also gzipped.
    """
    validation: Annotated[list[Text] | int | float, WrapValidator(files_or_part)] = []
    """Files for the validation loss; or a share (0.05) or a number (500) of data.train, held out for it."""
    task: Literal["sft", "pretrain"] = "sft"
    """sft: conversations, their answers trained. pretrain: documents joined and cut into blocks."""
    template: Text = "alpaca2"
    """What sft puts conversations into: alpaca2 or llama2, tokenizer (the chat_template of the tokenizer), or
    the path of a Jinja file.
    """
    system_prompt: Text | None = None
    """The system turn of conversations that have none of their own. Default: the template's."""
    train_on: Literal["all", "last"] = "all"
    """Which answers of a conversation are trained: all, or the last one."""
    columns: dict[Column, Text] = {}
    """Fields that have other names in the data, each behind ours: {instruction: question, output: answer}."""
    special_text: Literal["text", "tokens"] = "text"
    """What becomes of text in the data that spells a special token of the tokenizer (</s>): the text that
    it is, or that token. The template's own are tokens always.
    """
    max_seq_len: Annotated[int, Field(ge=2)] = 512
    """Tokens of the longest sample; data.over_long says what becomes of longer ones."""
    over_long: Literal["truncate", "split", "drop"] = "truncate"
    """truncate: their end is cut off. split: a conversation becomes several samples, each of as many whole
    rounds as fit. drop: they are left out. Each is counted.
    """
    layout: Literal["packed", "padded"] = "packed"
    """Where samples sit in a forward, which does not change what is trained. packed: one behind the other in
    one row, dealt so that all forwards take equally long. padded: one row a sample.
    """
    last_step: Literal["short", "drop", "carry"] = "short"
    """The rest of an epoch: a smaller step, not trained (and counted), or the start of the next epoch."""
    bad_samples: Literal["stop", "skip"] = "stop"
    """A sample that cannot be trained (no output, prompt fills the window): stop, or count and skip it."""
    ignored_fields: list[Text] = []
    """Fields of the records that are not trained on purpose, such as history: nothing is said of them."""
    index_dir: Text | None = None
    """Where token indexes are kept, on storage all nodes see. Default: .index beside the run folder."""

    @property
    def sources(self) -> tuple[SourceSection, ...]:
        """The entries of train, each with all of its keys."""
        return tuple(SourceSection(path=one) if isinstance(one, str) else one for one in self.train)

    @property
    def field_names(self) -> dict[str, str]:
        """Our names of fields with the data's own, as plain texts."""
        return {str(ours): theirs for ours, theirs in self.columns.items()}

    @property
    def validation_files(self) -> list[str]:
        """Of data.validation; none where it is a part of data.train."""
        return self.validation if isinstance(self.validation, list) else []

    @property
    def held_out(self) -> int | float | None:
        """The part of the training data that is held out for validation: a number, or a share below 1."""
        return None if isinstance(self.validation, list) else self.validation

    @property
    def is_packed(self) -> bool:
        """Whether the samples of a forward stand in one row."""
        return self.layout == "packed"


class BatchSection(Section):
    """Any two; the third is solved. Three are checked. The first two are one number in two units."""

    micro_batch_size: Count | None = None
    """Samples per GPU per forward."""
    micro_batch_tokens: Count | None = None
    """In place of it, packed: tokens per GPU per forward, at least max_seq_len. A step then uses as few
    forwards as hold it.
    """
    grad_accum_steps: Count | None = None
    """Forwards per optimizer step; with micro_batch_tokens, at most."""
    global_batch_size: Annotated[int | Thresholds, WrapValidator(one_or_in_time)] | None = None
    """Samples per optimizer step, over all GPUs. For a batch that changes a list: [[0, 32], [20000, 64]] is
    32, and 64 from the first step on that begins when 20,000 samples or more are trained, over all epochs.
    """
    target_trained_tokens: Count | None = None
    """In place of it: a step takes samples, in the epoch's order, until they have so many trained tokens
    together. micro_batch_size (or micro_batch_tokens) and grad_accum_steps must hold the largest step.
    """

    @property
    def from_samples(self) -> Thresholds:
        """(from so many samples on, samples per optimizer step) where that changes; else nothing."""
        return self.global_batch_size if isinstance(self.global_batch_size, tuple) else ()


class ClusterSection(Section):
    """Nodes and GPUs; left out, they come from the running world."""

    num_nodes: Count | None = None
    """Machines."""
    gpus_per_node: Annotated[int | tuple[int, ...], WrapValidator(one_or_each)] | None = None
    """GPUs (ranks) on each machine: 8. For machines that differ a list, one number for each, the first one's
    first: [2, 1]. It says num_nodes too; the order is that of the hostfile.
    """


class LrSection(Section):
    """The learning rate: a reference, and how it follows the batch."""

    reference: Positive
    """Rate that was right at reference_batch."""
    reference_batch: Count | None = None
    """Samples per optimizer step that reference belongs to; needed by linear and sqrt."""
    rule: Literal["none", "linear", "sqrt"] = "none"
    """peak = reference x f(global_batch_size / reference_batch): f is 1, the ratio, or its square root."""
    schedule: Literal["cosine", "cosine_with_restarts", "linear", "constant", "wsd"] = "cosine"
    """Shape after the warm-up. wsd: the peak is held, and falls at the end (warm-up, stable, decay)."""
    min_ratio: Fraction = 0.0
    """Floor of the schedule, as a share of the peak."""
    cycles: Count = 2
    """Of cosine_with_restarts: so many cosines, each from the peak."""
    decay_fraction: Fraction = 0.1
    """Of wsd: the fall at the end, as a share of all steps, rounded up."""
    decay_shape: Literal["linear", "sqrt", "cosine"] = "linear"
    """Of wsd: how it falls; after a share p of the fall, 1 - p, 1 - the root of p, or a cosine is left."""
    groups: dict[Text, Positive] = {}
    """Kinds of parameters with a rate of their own, each as a ratio of the rate: {lora_B: 16} is LoRA+,
    {embed_tokens: 0.1} a slower embedding. Kinds: lora_A, lora_B, embed_tokens, lm_head, other.
    """
    warmup_steps: Index | None = None
    """Warm-up in optimizer steps. At most one of the three warmup keys; none: no warm-up."""
    warmup_fraction: Fraction | None = None
    """Warm-up as a share of all steps, rounded up."""
    warmup_samples: Index | None = None
    """Warm-up in samples, rounded up to steps."""


class OptimizerSection(Section):
    """The optimizer. crossfoot owns it; an optimizer block in the DeepSpeed file is not handed over, and one
    that says other numbers is refused.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    """adamw (torch, fused) or sgd (no momentum; for proofs: it does not hide a wrong gradient scale)."""
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.999)
    """AdamW's betas."""
    beta2_reference_batch: Count | None = None
    """Samples per optimizer step that the second beta was right at. It is then raised to the power of
    global_batch_size / this, which keeps its half-life in samples (Marek et al. 2025). None: it is as
    written, whatever the batch.
    """
    eps: Positive = 1e-8
    """AdamW's epsilon."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay (adamw) of matrices; vectors (norms, biases) are not decayed."""
    max_grad_norm: NotNegative = 1.0
    """Gradients are clipped to this global norm; 0 switches clipping off."""


class TrainSection(Section):
    """How long: exactly one of epochs and max_steps."""

    epochs: Count | None = None
    """Passes over the data."""
    max_steps: Count | None = None
    """Optimizer steps; this is the horizon of the rate's schedule too."""
    noise_scale_every_steps: Count | None = None
    """Measure the gradient noise scale every so many optimizer steps: beyond how many samples a larger step
    brings little. Nothing is trained otherwise for it; null: never.
    """


class ValidationSection(Section):
    """When the validation loss is taken; it always is at the end when data.validation is given."""

    every_steps: Count | None = None
    """Also every so many optimizer steps."""
    at_start: bool = False
    """Also before the first step: the loss of the weights that the run begins with."""
    patience: Count | None = None
    """The run ends after so many validations in a row without a lower loss; null: never for that."""
    min_improvement: NotNegative = 0.0
    """How much lower, nats a token, counts as lower."""


class EvaluationSection(Section):
    """What the model is asked while it is trained, and at the end: as `crossfoot evaluate` asks, with the
    weights in memory (docs/evaluate.md).
    """

    tasks: list[Text] = []
    """Exams and files, as behind --tasks: [exam, ceval=FOLDER, FILE.jsonl]. Empty: nothing is asked."""
    every_steps: Count | None = None
    """Also every so many optimizer steps; null: at the end only."""
    scorer: Literal[
        "clean", "clean-choices", "alpaca2", "alpaca2-chat", "alpaca2-text", "alpaca2-chat-text"
    ] = "clean"
    """How choices are asked; clean: by the log-likelihood of their letters (docs/tasks.md)."""
    shots: Index | None = None
    """Worked examples before each question. Null: 5; of your own questions as many as each subject has, up to
    5.
    """
    subjects: list[Text] = []
    """Of exams: only these. Empty: all."""


class CheckpointSection(Section):
    """When the run can be continued from. One is also written when a run is stopped, and on request."""

    every_steps: Count | None = 500
    """Also every so many optimizer steps, and at the end; null: only when it is stopped or asked for."""
    keep: Count = 2
    """The last so many are kept."""
    best: bool = True
    """The one of the lowest validation loss is kept too."""


class FaultsSection(Section):
    """What becomes of a step that cannot be learned from, of a rank that is silent, of a full disk."""

    nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is NaN or infinite: stop and name its samples, or leave the update out."""
    overflow: Literal["retry", "skip"] = "retry"
    """A float16 gradient beyond its loss scale: train the same samples again at a lower one, or leave them
    out and count them.
    """
    timeout_seconds: Positive = 600.0
    """So long may a rank be silent, or a step take, before the others give it up."""
    disk_full: Literal["stop", "go_on"] = "stop"
    """A checkpoint that cannot be written: stop the run, or go on with the last good one."""
    grace_seconds: Positive | None = None
    """Time between a signal and the kill. A checkpoint that takes longer is not begun; null: not known."""


class TrackingSection(Section):
    """Mirrors of the ledger elsewhere."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Weights & Biases; the ledger's fields, nothing else."""
    project: Text = "crossfoot"
    """Its project."""
    tensorboard: bool = False
    """TensorBoard's files, for each attempt in the run folder's tensorboard/."""


class ChecksSection(Section):
    """What is found and accepted."""

    accept: dict[Text, Reason] = {}
    """Findings that are right as they are, each by its code or name, and why: {CF514: long answers are cut
    on purpose}. Warnings and notes, and those errors whose page says so; output and receipt count them.
    """


class Config(Section):
    """A whole run config."""

    run: RunSection
    model: ModelSection
    tokenizer: TokenizerSection | None = None
    data: DataSection
    batch: BatchSection
    cluster: ClusterSection = ClusterSection()
    lr: LrSection
    optimizer: OptimizerSection = OptimizerSection()
    lora: LoraSection | None = None
    deepspeed: Text | None = None
    """Path of a DeepSpeed JSON file; absent: the accelerate engine, one process."""
    train: TrainSection
    validation: ValidationSection = ValidationSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    faults: FaultsSection = FaultsSection()
    tracking: TrackingSection = TrackingSection()
    checks: ChecksSection = ChecksSection()

    @property
    def trains(self) -> str:
        """What is trained, in words: `LoRA r=64`."""
        if self.lora is None:
            return "full fine-tuning"
        begun = f" ({self.lora.init})" if self.lora.changes_base else ""
        return f"{self.lora.kind} r={self.lora.r}{begun}"

    @property
    def batch_numbers(self) -> dict[str, Any]:
        """What is given of the batch, by the names that `arithmetic.batch.solve_batch` has for it."""
        numbers = {key: getattr(self.batch, key) for key in type(self.batch).model_fields}
        given = {key: number for key, number in numbers.items() if number is not None}
        given.pop("target_trained_tokens", None)  # micro batch and accumulation are the capacity
        if self.batch.from_samples:
            given["global_batch_size"] = max(size for _, size in self.batch.from_samples)
        if self.batch.micro_batch_tokens is not None:
            given["max_seq_len"] = self.data.max_seq_len
        return given
