"""Load, prepare and save in one process: findings, the tiny model, tied tables, the grown vocabulary."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from crossfoot.findings.finding import Refused
from crossfoot.models.adapt import load_adapter, prepare_training, trained_summary
from crossfoot.models.attention import SEGMENT_ATTENTION
from crossfoot.models.fitting import refuse_unfitting
from crossfoot.models.load import LoadedModel, load_model
from crossfoot.models.save import save_adapter
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.training.optimizer import build_optimizer
from crossfoot.written.config import Config, OptimizerSection

TOKENS = torch.arange(1, 13).reshape(1, -1)
BOTH = ["embed_tokens", "lm_head"]


def config_of(path: Path | str, lora: dict[str, Any] | None = None, **model: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "t", "seed": 7},
            "model": {"path": str(path), "dtype": "float32", **model},
            "data": {"train": ["x.jsonl"]},
            "batch": {},
            "lr": {"reference": 1e-2},
            "lora": lora,
            "train": {"max_steps": 1},
        }
    )


def test_a_model_does_not_choose_its_kernel(tmp_path: Path) -> None:
    """What config.json asks for may be code on the hub."""
    path = Path(write_tiny_model(str(tmp_path / "tiny"), 256))
    config = json.loads((path / "config.json").read_text())
    for key in ("_attn_implementation", "attn_implementation"):
        (path / "config.json").write_text(json.dumps({**config, key: "kernels-community/flash-attn"}))
        assert load(config_of(path)).model.config._attn_implementation == SEGMENT_ATTENTION
        assert load(config_of(path, attention="eager")).model.config._attn_implementation == "eager"


def test_a_save_clears_away_what_killed_ones_have_left(tmp_path: Path) -> None:
    path = write_tiny_model(str(tmp_path / "tiny"), 256)
    loaded = load(config_of(path))
    mine = tmp_path / ".model-notes"
    left = [tmp_path / ".model-ab_12xyz", tmp_path / ".model-cdefgh12-old"]
    for folder in (mine, *left):
        folder.mkdir()
    (tmp_path / ".model-abcdefgh").symlink_to(tmp_path / "tiny")
    save_adapter(loaded.model, tmp_path / "model", gather=False, loaded=loaded)
    assert sorted(os.listdir(tmp_path)) == [".model-abcdefgh", ".model-notes", "model", "tiny"]


def lora_of(**changes: Any) -> dict[str, Any]:
    return {"r": 4, "alpha": 8.0, "target_modules": ["q_proj", "v_proj"], **changes}


def load(config: Config, vocabulary: int = 0, said: list[str] | None = None) -> LoadedModel:
    return load_model(
        config,
        config.model.path,
        vocabulary=vocabulary,
        zero_stage=0,
        deepspeed_config=None,
        report=(said if said is not None else []).append,
    )


def refused(config: Config) -> Any:
    with pytest.raises(Refused) as caught:
        prepare_training(config, load(config), print)
    return caught.value


def train(model: torch.nn.Module, steps: int = 3) -> None:
    optimizer = build_optimizer(model, OptimizerSection())
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    folder = tmp_path_factory.mktemp("bases")
    for tied in (False, True):
        torch.manual_seed(0)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=61,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                tie_word_embeddings=tied,
            )
        ).save_pretrained(folder / str(tied))
    return {tied: folder / str(tied) for tied in (False, True)}


# ---- the tiny model


def test_racing_processes_write_one_tiny_model(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tokenizer.json").write_text("{}")
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as pool:
        list(pool.map(write_tiny_model, [tmp_path / "tiny"] * 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]
    assert (tmp_path / "tiny" / "tokenizer.json").exists()
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mode & 0o077 == 0o044
    write_tiny_model(tmp_path / "other")
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("tiny", "other"))
    assert ours.read_bytes() == theirs.read_bytes()
    loaded = load(config_of(tmp_path / "tiny"))
    assert (loaded.vocabulary, loaded.tied, loaded.model.dtype) == (260, False, torch.float32)


# ---- what cannot be loaded


def broken_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def not_a_language_model(folder: Path) -> None:
    small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(**small, intermediate_size=8)).config.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values["model_type"] = "vit"
    (folder / "config.json").write_text(json.dumps(values))


def unknown_family(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nothing-known"}')


def no_weights(folder: Path) -> None:
    LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(
        folder
    )


def torn_weights(folder: Path) -> None:
    write_tiny_model(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20_000])


def other_weights(folder: Path) -> None:
    write_tiny_model(folder)
    values = json.loads((folder / "config.json").read_text())
    values["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("make", "code", "exit_code"),
    [
        (lambda folder: None, "CF542", 2),
        (broken_json, "CF542", 2),
        (unknown_family, "CF542", 2),
        (no_weights, "CF542", 2),
        (torn_weights, "CF542", 2),
        (not_a_language_model, "CF543", 1),
        (other_weights, "CF544", 1),
    ],
)
def test_a_folder_that_is_no_model_is_a_finding(tmp_path: Path, make: Any, code: str, exit_code: int) -> None:
    make(tmp_path)
    with pytest.raises(Refused) as caught:
        load(config_of(tmp_path))
    assert [finding.code for finding in caught.value.findings] == [code]
    assert caught.value.findings[0].helps
    assert str(tmp_path) in caught.value.findings[0].title
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize(
    "path, code",
    [
        *(("./no-such-folder", "CF541"), ("/no/such/folder", "CF541"), ("not a name at all!", "CF541")),
        *(("nobody/nothing", "CF060"), ("modelscope:nobody/nothing", "CF060")),
    ],
)
def test_a_path_that_leads_nowhere_is_a_finding(path: str, code: str) -> None:
    with pytest.raises(Refused) as caught:
        load(config_of(path))
    assert caught.value.findings[0].code == code
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path, folder", [("owner/name", "hf/models--owner--name/snapshots/1"),
                                          ("modelscope:owner/name", "ms/owner/name")])  # fmt: skip
def test_an_adapter_names_the_model_as_peft_finds_it(
    path: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    here = Path(write_tiny_model(str(tmp_path / folder), 256))
    (tmp_path / "hf/models--owner--name/refs").mkdir(parents=True)
    (tmp_path / "hf/models--owner--name/refs/main").write_text("1")
    config = config_of(path, lora={"r": 2})
    loaded = load(config)
    model = prepare_training(config, loaded, lambda _: None)
    assert isinstance(model, PeftModel)
    named = model.peft_config["default"].base_model_name_or_path
    assert named == (path if path == "owner/name" else str(here))


def test_attention_that_is_not_installed_is_a_finding(bases: dict[bool, Path]) -> None:
    with pytest.raises(Refused) as caught:
        load(config_of(bases[False], attention="flash_attention_2"))
    assert caught.value.findings[0].code == "CF545"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_what_was_asked_for(bases: dict[bool, Path], attention: str) -> None:
    config = config_of(bases[False], attention=attention)
    config = config.model_copy(update={"data": config.data.model_copy(update={"layout": "padded"})})
    assert load(config).model.config._attn_implementation == attention


# ---- the vocabulary


@pytest.mark.parametrize("tied", [False, True])
def test_the_table_grows_to_the_tokenizer_and_not_beyond(bases: dict[bool, Path], tied: bool) -> None:
    said: list[str] = []
    loaded = load(config_of(bases[tied]), vocabulary=70, said=said)
    old = AutoModelForCausalLM.from_pretrained(bases[tied])
    for table, before in (
        (loaded.model.get_input_embeddings().weight, old.get_input_embeddings().weight),
        (loaded.model.get_output_embeddings().weight, old.get_output_embeddings().weight),
    ):
        assert table.shape == (70, 32)
        assert torch.equal(table[:61], before)
        assert torch.equal(table[61:], before.double().mean(0).float().expand(9, -1))
    assert loaded.tied is tied
    assert loaded.model.config.vocab_size == 70
    assert loaded.grown_rows == 9
    assert said == ["vocabulary grown 61 -> 70: 9 new rows set to the mean of the old"]
    loss = loaded.model(input_ids=torch.tensor([[69, 1]]), labels=torch.tensor([[69, 1]])).loss
    assert torch.isfinite(loss)


@pytest.mark.parametrize("vocabulary", [0, 50, 61])
def test_the_table_never_shrinks(bases: dict[bool, Path], vocabulary: int) -> None:
    said: list[str] = []
    loaded = load(config_of(bases[False]), vocabulary=vocabulary, said=said)
    assert (loaded.vocabulary, loaded.grown_rows, said) == (61, 0, [])


# ---- what is trained


def test_names_that_match_nothing_are_findings_with_the_names_there_are(bases: dict[bool, Path]) -> None:
    lora = lora_of(target_modules=["q_proj", "query_proj"], modules_to_save=["lm_haed"])
    error = refused(config_of(bases[False], lora))
    assert [finding.code for finding in error.findings] == ["CF546", "CF547"]
    assert "query_proj" in error.findings[0].title
    assert (
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head" in error.findings[0].notes[0]
    )
    assert error.findings[1].helps == ("write lm_head",)
    assert error.exit_code == 1


def test_a_module_in_both_lists_is_a_finding(bases: dict[bool, Path]) -> None:
    lora = lora_of(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"])
    assert [finding.code for finding in refused(config_of(bases[False], lora)).findings] == ["CF548"]


def test_an_adapter_on_a_tied_table_is_a_finding(bases: dict[bool, Path]) -> None:
    lora = lora_of(target_modules=["q_proj", "lm_head"])
    assert [finding.code for finding in refused(config_of(bases[True], lora)).findings] == ["CF549"]


def test_a_tied_model_that_peft_would_untie_is_a_finding(tmp_path: Path) -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=4, n_positions=64))
    gpt2.save_pretrained(tmp_path)
    lora = lora_of(target_modules=["c_attn"], modules_to_save=["wte"])
    assert [finding.code for finding in refused(config_of(tmp_path, lora)).findings] == ["CF549"]


def test_same_seed_same_weights_and_the_random_state_is_left_alone(bases: dict[bool, Path]) -> None:
    config = config_of(bases[False], lora_of())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = prepare_training(config, load(config), print).state_dict()
    torch.manual_seed(1)
    loaded = load(config)
    before = torch.get_rng_state()
    second = prepare_training(config, loaded, print).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(before, state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = config.model_copy(update={"run": config.run.model_copy(update={"seed": 8})})
    third = prepare_training(other, load(other), print).state_dict()
    assert any(not torch.equal(first[name], third[name]) for name in first if ".lora_A." in name)


@pytest.mark.parametrize("trained", [None, "float32"])
def test_what_is_trained_has_the_dtype_the_engine_asks_for(
    bases: dict[bool, Path], trained: str | None
) -> None:
    config = config_of(bases[False], lora_of(modules_to_save=BOTH), dtype="bfloat16")
    model = prepare_training(config, load(config), print, trained_dtype=trained)
    wanted = torch.bfloat16 if trained is None else torch.float32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {wanted}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_full_fine_tuning_trains_everything(bases: dict[bool, Path]) -> None:
    config = config_of(bases[True])
    model = prepare_training(config, load(config), print)
    trained, everything, lines = trained_summary(model)
    assert trained == everything == sum(p.numel() for p in model.parameters())
    assert lines[0] == f"trained parameters: {trained:,} of {trained:,} (100.00 %)"


def test_gradient_checkpointing_gives_the_same_gradients(bases: dict[bool, Path]) -> None:
    found = []
    for checkpointing in (False, True):
        config = config_of(bases[False], lora_of(), gradient_checkpointing=checkpointing)
        model = prepare_training(config, load(config), print)
        assert model.config.use_cache is False
        assert model.get_base_model().is_activation_checkpointing is checkpointing
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(gradient.abs().max() > 0 for gradient in found[1].values())


# ---- the optimizer


def test_matrices_decay_and_vectors_do_not(bases: dict[bool, Path]) -> None:
    model = prepare_training(config_of(bases[False]), load(config_of(bases[False])), print)
    section = OptimizerSection(weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    optimizer = build_optimizer(model, section)
    assert isinstance(optimizer, torch.optim.AdamW)
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.dim() for p in matrices["params"]} == {2}
    assert {p.dim() for p in vectors["params"]} == {1}
    assert all(
        group["fused"] and group["lr"] == 0.0 and group["eps"] == 1e-6 for group in optimizer.param_groups
    )
    assert matrices["betas"] == (0.8, 0.9)
    assert len(build_optimizer(prepare_lora(bases), section).param_groups) == 1
    sgd = build_optimizer(model, OptimizerSection(name="sgd", weight_decay=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["weight_decay"] == group["momentum"] == group["lr"] == 0.0 for group in sgd.param_groups)


def prepare_lora(bases: dict[bool, Path]) -> PeftModel:
    config = config_of(bases[False], lora_of())
    return prepare_training(config, load(config), print)


# ---- saving


@pytest.mark.parametrize("names", [["embed_tokens"], ["lm_head"], BOTH])
@pytest.mark.parametrize("vocabulary", [0, 70])
def test_a_tied_model_stays_tied_through_training_and_the_file(
    bases: dict[bool, Path], tmp_path: Path, names: list[str], vocabulary: int
) -> None:
    config, said = config_of(bases[True], lora_of(modules_to_save=names)), []
    loaded = load(config, vocabulary=vocabulary)
    model = prepare_training(config, loaded, said.append)
    assert said == ["embed_tokens and lm_head are one tensor: trained as one"]
    rows = vocabulary or 61
    assert trained_summary(model)[0] == rows * 32 + 2 * 2 * (32 * 4 + 4 * 32)
    assert f"  embed_tokens and lm_head, one tensor: {rows * 32:,} in 1 tensor" in trained_summary(model)[2]
    train(model)
    assert loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    save_adapter(model, tmp_path / "adapter", gather=False, loaded=loaded)
    again = load_adapter(bases[True], tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight


def test_a_grown_adapter_says_how_it_loads(bases: dict[bool, Path], tmp_path: Path) -> None:
    config = config_of(bases[False], lora_of(modules_to_save=BOTH))
    loaded = load(config, vocabulary=70)
    model = prepare_training(config, loaded, print)
    train(model)
    folder = tmp_path / "adapter"
    save_adapter(model, folder, gather=False, loaded=loaded)
    with pytest.raises(RuntimeError, match="size mismatch"):  # why the README speaks of resizing
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(bases[False]), folder)
    block = (folder / "README.md").read_text().split("```")[1].removeprefix("python\n")
    words: dict[str, Any] = {"FOLDER": str(folder)}
    exec(block, words)
    assert torch.equal(logits(words["model"]), logits(model))
    assert torch.equal(logits(load_adapter(bases[False], folder)), logits(model))


def test_saving_again_replaces_the_folder_whole(bases: dict[bool, Path], tmp_path: Path) -> None:
    model, folder = prepare_lora(bases), tmp_path / "adapter"
    save_adapter(model, folder, gather=False)
    first = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "left-over").write_text("")
    train(model)
    save_adapter(model, folder, gather=False)
    assert (folder / "adapter_model.safetensors").read_bytes() != first
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    kept, _ = sorted(tmp_path.iterdir(), key=lambda path: path.name, reverse=True)
    assert kept.name.startswith("adapter-replaced-"), "somebody put a file of his own there"
    assert (kept / "left-over").exists()
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0o044}
    assert "resize" not in (folder / "README.md").read_text()


def test_a_save_that_fails_leaves_the_old_folder(
    bases: dict[bool, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = prepare_lora(bases), tmp_path / "adapter"
    save_adapter(model, folder, gather=False)
    before = (folder / "adapter_model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        save_adapter(model, folder, gather=False)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_whole_model_is_saved_as_an_ordinary_folder(bases: dict[bool, Path], tmp_path: Path) -> None:
    config = config_of(bases[True])
    loaded = load(config, vocabulary=70)
    model = prepare_training(config, loaded, print)
    train(model)
    save_adapter(model, tmp_path / "model", gather=False, loaded=loaded)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again), logits(model))
    assert (again.config.vocab_size, again.config.use_cache, model.config.use_cache) == (70, True, False)
    assert (tmp_path / "model" / "model.safetensors").exists()


# ---- files that do not fit, seen before ZeRO-3 loads them


def gpt2(folder: Path, **changes: object) -> Any:
    """A model of a family whose tensors are not written down anywhere, saved, with its config changed."""
    sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
    return GPT2Config(**{**sizes, **changes})


@pytest.mark.parametrize(
    ("changes", "codes"), [({}, []), ({"n_inner": 7}, ["CF568"]), ({"n_layer": 1}, ["CF570"])]
)
def test_files_are_held_against_the_model_before_zero3(
    tmp_path: Path, changes: dict[str, object], codes: list[str]
) -> None:
    config, found = gpt2(tmp_path, **changes), ()
    try:
        refuse_unfitting(str(tmp_path), config)
    except Refused as refused:
        found = refused.findings
    assert [finding.code for finding in found] == codes


def test_shapes_and_unused_tensors_are_refused_by_the_loader(tmp_path: Path) -> None:
    for name, change, code in (("wide", "n_inner", "CF568"), ("short", "n_layer", "CF570")):
        folder = tmp_path / name
        gpt2(folder, **{change: 1}).save_pretrained(folder)
        with pytest.raises(Refused) as caught:
            load(config_of(folder))
        assert [finding.code for finding in caught.value.findings] == [code]
