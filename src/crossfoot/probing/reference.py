"""The other side of the proof: the gradient of a step in plain torch, one sample at a time, unpadded.

It shares neither collator nor loss code nor engine with training: its own causal shift, its own log-softmax,
its own sum. Only the model class, and peft's adapters in it, are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn

from crossfoot.index.store import DataIndex
from crossfoot.models.adapt import prepare_training
from crossfoot.models.load import load_model
from crossfoot.models.quantise import is_packed
from crossfoot.written.config import Config
from crossfoot.written.config_values import DEFAULT_START


class Reference:
    """A float32 copy of the model to train, on one rank, without an engine."""

    def __init__(self, config: Config, path: str, vocabulary: int, device: torch.device) -> None:
        model_section = config.model.model_copy(
            update={"dtype": "float32", "attention": "eager", "kernels": "torch"}
            | {"gradient_checkpointing": False}
        )
        lora = config.lora and config.lora.model_copy(update={"init": DEFAULT_START})  # all is copied
        config = config.model_copy(update={"model": model_section, "lora": lora})
        loaded = load_model(
            config, path, vocabulary=vocabulary, zero_stage=0, deepspeed_config=None, report=lambda line: None
        )
        self.model = prepare_training(config, loaded, lambda line: None, trained_dtype="float32").to(device)
        without_dropout(self.model)
        self.device = device
        self.parameters = dict(self.model.named_parameters())

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: parameter for name, parameter in self.parameters.items() if parameter.requires_grad}

    def gradient(self, index: DataIndex, sample_ids: Iterable[int]) -> None:
        """Leaves in every trained parameter's `.grad`: the gradient of the summed loss of these samples,
        divided by the number of their trained tokens.
        """
        self.model.zero_grad(set_to_none=True)
        tokens = 0
        for sample_id in sample_ids:
            loss, trained = self.summed_loss(*index.sample(int(sample_id)))
            loss.backward()
            tokens += trained
        for parameter in self.trained().values():
            if parameter.grad is not None:
                parameter.grad /= tokens

    def move_weights(self, share: float) -> None:
        """Multiply every weight by a random factor between 1 - share and 1 + share; repeatable. Packed ones,
        the same on both sides, stay.
        """
        generator = torch.Generator(device=self.device).manual_seed(0)
        for parameter in self.parameters.values():
            if is_packed(parameter):
                continue
            noise = torch.rand(parameter.shape, generator=generator, device=self.device)
            # In float64: a factor so near 1 is no float32 number.
            moved = parameter.detach().double() * (1 + share * (2 * noise.double() - 1))
            parameter.data.copy_(moved)

    def summed_loss(
        self, ids: np.ndarray, trained: np.ndarray, **places: torch.Tensor
    ) -> tuple[torch.Tensor, int]:
        """(minus the log-probability of every trained token given those before it, summed; how many). places:
        what the model is told beside the tokens; nothing for one sample.
        """
        tokens = torch.from_numpy(ids.astype(np.int64)).to(self.device)
        logits = self.model(input_ids=tokens.unsqueeze(0), use_cache=False, **places).logits[0]
        log_probabilities = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
        targets = np.flatnonzero(trained[1:]) + 1  # a token is predicted from the position before it
        where = torch.from_numpy(targets).to(self.device)
        return -log_probabilities[where - 1, tokens[where]].sum(), len(targets)

    def sketches(
        self, index: DataIndex, sample_ids: Iterable[int], positions: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """float64 [samples, entries]: the gradient of each sample's summed loss at these entries of these
        parameters.
        """
        rows = []
        wanted = {name: torch.from_numpy(where).to(self.device) for name, where in positions.items()}
        for sample_id in sample_ids:
            self.model.zero_grad(set_to_none=True)
            self.summed_loss(*index.sample(int(sample_id)))[0].backward()
            rows.append(self._at(wanted))
        return np.stack(rows)

    def crossing_sketch(
        self,
        index: DataIndex,
        rows: Iterable[Iterable[int]],
        positions: Mapping[str, np.ndarray],
        *,
        restart: bool,
    ) -> np.ndarray:
        """float64 [entries]: what the summed gradient would be at these entries if the samples of a packed
        row saw those before them. restart: each one's positions begin at 0.
        """
        self.model.zero_grad(set_to_none=True)
        for row in rows:
            samples = [index.sample(int(sample_id)) for sample_id in row]
            if not samples:
                continue
            ids = np.concatenate([ids for ids, _ in samples])
            trained = np.concatenate([np.append(False, mask[1:]) for _, mask in samples])
            spans = [torch.arange(len(ids)) for ids, _ in samples] if restart else [torch.arange(len(ids))]
            hidden = torch.full((len(ids), len(ids)), torch.finfo(torch.float32).min).triu(1)
            self.summed_loss(
                ids,
                trained,
                position_ids=torch.cat(spans).unsqueeze(0).to(self.device),
                attention_mask=hidden[None, None].to(self.device),
            )[0].backward()
        return self._at({name: torch.from_numpy(where).to(self.device) for name, where in positions.items()})

    def _at(self, places: Mapping[str, torch.Tensor]) -> np.ndarray:
        """The gradients as they are, at these entries of these parameters, in one array."""
        found = []
        for name, where in places.items():
            gradient = self.parameters[name].grad
            found.append(torch.zeros(len(where)) if gradient is None else gradient.flatten()[where].cpu())
        values: np.ndarray = torch.cat(found).double().numpy()
        return values


def without_dropout(model: nn.Module) -> float:
    """Switch off every dropout of a model; returns the largest that was on."""
    largest = 0.0
    for module in model.modules():
        for name in _dropout_names(module):
            largest = max(largest, getattr(module, name))
            setattr(module, name, 0.0)
    return largest


def _dropout_names(module: nn.Module) -> list[str]:
    names = [name for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
    return [*names, "p"] if isinstance(module, nn.modules.dropout._DropoutNd) else names
