"""The squared norms that a run notes of its forwards, against gradients that plain torch takes of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from crossfoot.metering.noise_scale import NoiseMeter
from crossfoot.runs.noise_scale import NOISE_FILE, read_noise_lines, read_noise_scale
from support import plain_torch
from support.launching import receipt
from support.loop_room import Room
from support.plain_torch import Sample, Tensors
from support.watched_run import Watched

pytestmark = pytest.mark.xdist_group("loop")

LORA = {"r": 4, "alpha": 6, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}


def measuring(room: Room, layout: str, every_steps: int | None) -> dict[str, Any]:
    """Steps of 11, 11 and 4 samples in 8 slots, all clipped; padded, the last one leaves 4 slots empty."""
    return room.config(
        lora=LORA,
        data={"layout": layout},
        cluster={"num_nodes": 2, "gpus_per_node": 2},
        batch={"micro_batch_size": 2, "global_batch_size": 11},
        lr={"reference": 0.5},
        optimizer={"max_grad_norm": 0.01},
        train={"epochs": 1, "noise_scale_every_steps": every_steps},
    )


def squares_of(model: Any, members: Sequence[Sample]) -> dict[str, float]:
    """By kind, the squared norm of the gradient of the mean loss of their trained tokens."""
    loss = sum(plain_torch.loss_sum(model, one) for one in members) / sum(one.targets for one in members)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = dict.fromkeys(("lora_A", "lora_B", "embed_tokens", "lm_head"), 0.0)
    for (name, _), gradient in zip(named, torch.autograd.grad(loss, [p for _, p in named]), strict=True):
        (kind,) = found.keys() & set(name.split("."))
        found[kind] += float(gradient.double().square().sum())
    return found


def put(model: Any, values: Tensors) -> None:
    """Trained tensors of the model get these values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[name])


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_forward_s_square_is_that_of_plain_torch(
    layout: str, room: Room, trains: Callable[..., Watched]
) -> None:
    config = measuring(room, layout, 1)
    samples = room.samples(config)
    seen = trains(config)
    assert seen.exit_code == 0 and receipt(seen.run_dir)["foots"]
    lines = read_noise_lines(str(seen.run_dir))
    steps = plain_torch.steps_of(config, len(samples))
    assert [line.step for line in lines] == [0, 1, 2] and all(line.applied for line in lines)
    model = plain_torch.fresh_model(config)
    for line, members, weights in zip(lines, steps, [seen.start, *seen.after], strict=False):
        put(model, weights)
        ids = [number for _, number in members]
        slots = [[samples[i] for i in slot] for slot in plain_torch.slots_of(config, ids, samples) if slot]
        found = [squares_of(model, slot) for slot in slots]
        assert line.tokens == tuple(sum(one.targets for one in slot) for slot in slots)
        assert line.samples == len(ids)
        assert line.squares == pytest.approx([sum(each.values()) for each in found], rel=1e-5)
        whole = squares_of(model, [samples[i] for i in ids])
        assert line.big == pytest.approx(sum(whole.values()), rel=1e-5)
        for kind, group in line.groups.items():
            small = sum(n * each[kind] for n, each in zip(line.tokens, found, strict=True))
            assert group.small == pytest.approx(small / sum(line.tokens), rel=1e-5, abs=1e-12)
            assert group.big == pytest.approx(whole[kind], rel=1e-5, abs=1e-12)
        assert list(line.groups) == ["lora_A", "lora_B", "embed_tokens", "lm_head"]
    noise = read_noise_scale(str(seen.run_dir))
    assert noise is not None and noise.figures == "n/a: 3 steps of at least 5 measured"


def test_nothing_is_trained_otherwise_for_it(
    room: Room, trains: Callable[..., Watched], capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit, with every step measured, every second, and none."""
    never = trains(measuring(room, "packed", None), "never")
    assert not (never.run_dir / NOISE_FILE).exists() and "noise scale" not in capsys.readouterr().out
    for every in (1, 2):
        seen = trains(measuring(room, "packed", every), f"every-{every}")
        lines = (seen.run_dir / NOISE_FILE).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(every - 1, 3, every))
        assert "noise scale: n/a: " in capsys.readouterr().out
        for one, other in zip(seen.after, never.after, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in other)
        for name in ("loss", "grad_norm"):
            assert [line[name] for line in seen.ledger] == [line[name] for line in never.ledger]


class Summed(nn.Module):
    """A linear model; its loss is a sum over the trained tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, batch: Any) -> torch.Tensor:
        return (batch.inputs @ self.weight).sum()


def batch_of(inputs: list[list[float]]) -> Any:
    """A row of so many tokens, all trained; none: a slot without a sample."""
    labels = torch.tensor([[-100, *range(len(inputs))] if inputs else [-100, -100]])
    return SimpleNamespace(
        inputs=torch.tensor(inputs).reshape(-1, 2),
        labels=labels,
        predicting=torch.arange(labels.shape[1] - 1),
        segments=((0, 0, 1 + len(inputs)),) if inputs else (),
    )


def test_what_the_loss_was_multiplied_with_is_undone_and_nothing_is_kept() -> None:
    module = Summed()
    meter = NoiseMeter(module, [("other", module.weight)])
    weight, scale = 1 / 3, 1024.0
    for _ in range(2):  # a second try begins anew
        module.zero_grad()
        with meter.watching():
            for inputs in ([[3.0, 4.0]], [], [[1.0, 0.0], [0.0, 1.0]]):
                (module(batch=batch_of(inputs)) * weight * scale).backward()
            meter.see_step([(module.weight, module.weight.grad)])
    with torch.no_grad():
        module(batch=batch_of([[1.0, 1.0]]))
    module(batch=batch_of([[5.0, 5.0]])).backward()  # nobody watches
    found = meter.squares(loss_scale=scale)
    assert [(one.tokens, one.samples) for one in found.forwards] == [(1, 1), (2, 1)]
    assert [one.squares["other"] for one in found.forwards] == pytest.approx([25.0, 0.5])
    assert found.step == {"other": pytest.approx((4 / 3) ** 2 + (5 / 3) ** 2)}
    with meter.watching():
        meter.see_step(None)
    assert meter.squares(1.0) == type(found)((), None)


def test_squares_of_many_numbers_add_up() -> None:
    """A float32 sum of 4 million squares is 1e-4 too small."""
    module = Summed()
    module.weight = nn.Parameter(torch.full((2000, 2000), 0.1))
    meter = NoiseMeter(module, [("other", module.weight)])
    with meter.watching():
        meter.see_step([(module.weight, torch.full((2000, 2000), 0.1))])
    found = meter.squares(1.0).step
    assert found is not None and found["other"] == pytest.approx(4e4, rel=1e-6)
