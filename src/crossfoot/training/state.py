"""The trained state of one rank, whatever the engine: float32 values and what the optimizer keeps for them.

One tensor at a time, by its name in `model.named_parameters()`: "NAME" is the value, "NAME.exp_avg" and
"NAME.exp_avg_sq" belong to adamw, "NAME.start" is what the base was changed by. Reading and writing are
collective where the engine divides the state among the ranks (ZeRO), so all ranks ask for the same tensors in
the same order. Offloading to the CPU changes nothing of it; offloading to disks, which plans refuse (CF312),
is not handled here, nor float16 on stage 0 (CF311). The loss scale of float16 is the engine's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from crossfoot.models.parameters import is_partitioned, shape_of
from crossfoot.models.start_values import START, start_values
from crossfoot.training.engine import Engine

MOMENTS: Mapping[str, tuple[str, ...]] = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ()}
"""What each optimizer of the config keeps for a parameter, besides the number of its steps."""


class StateTensor(NamedTuple):
    """A value (moment None) or a moment of the parameter `name`, whole; or the value that it began with
    (START), where the base depends on it.
    """

    name: str
    moment: str | None
    shape: tuple[int, ...]

    @property
    def stored_name(self) -> str:
        """In a checkpoint."""
        return self.name if self.moment is None else f"{self.name}.{self.moment}"


class TrainedState(ABC):
    """The trained tensors behind an engine; `trained_state` makes the right kind.

    shapes: of every trained parameter, whole, in the model's order; a shared tensor is there once, under its
    first name. optimizer_name: as in the config. moments: the optimizer's names for what it keeps.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._parameters = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._optimizer = optimizer
        self.optimizer_name = type(optimizer).__name__.lower()
        self.moments = MOMENTS[self.optimizer_name]
        self.shapes = {name: shape_of(parameter) for name, parameter in self._parameters.items()}
        self._start = start_values(model)

    def tensors(self) -> list[StateTensor]:
        """Everything there is to save now, the same on every rank."""
        begun = [StateTensor(name, START, self.shapes[name]) for name in self._start]
        return [*self.trained(), *begun]

    def trained(self) -> list[StateTensor]:
        """What of it changes from step to step."""
        return [
            StateTensor(name, moment, shape)
            for name, shape in self.shapes.items()
            for moment in (None, *(self.moments if self.has_moments(name) else ()))
        ]

    def value(self, tensor: StateTensor) -> torch.Tensor:
        """One of `tensors()`, as `read` gives it. Collective."""
        if tensor.moment == START:
            return self._start[tensor.name]
        return self.read(tensor.name, tensor.moment)

    def has_moments(self, name: str) -> bool:
        """Whether the optimizer keeps anything for this parameter yet: it does from its first step on."""
        return bool(self.moments) and any(self._optimizer.state.values())

    def optimizer_steps(self) -> tuple[int, dict[str, int]]:
        """(steps of the optimizer, the parameters that were stepped less often)."""
        steps = [int(state["step"]) for state in self._optimizer.state.values() if "step" in state]
        return max(steps, default=0), {}

    @abstractmethod
    def read(self, name: str, moment: str | None) -> torch.Tensor:
        """The whole tensor in float32, on the engine's device or the CPU; not to be changed. Collective."""

    @abstractmethod
    def write(self, name: str, moment: str | None, value: torch.Tensor) -> None:
        """Set a whole tensor (float32, CPU), and the copy of it that the forward uses. Collective; the
        parameter's moments must have been made.
        """

    def make_moments(self, steps: int, odd_steps: Mapping[str, int], names: Iterable[str]) -> None:
        """Let the optimizer keep zeros for `names`, as after `steps` steps, and forget what it kept.

        torch and DeepSpeed make them at the first step. They are made outright here and not by a step with
        rate 0: that would be a forward that the meter sees, with decay, hooks and random draws of its own.
        """
        self._optimizer.state.clear()
        if wanted := set(names):
            for key, at in self._keys(steps, odd_steps, wanted):
                self._optimizer.state[key] = self._zeros_for(key, at)

    @abstractmethod
    def _keys(
        self, steps: int, odd_steps: Mapping[str, int], names: set[str]
    ) -> list[tuple[torch.Tensor, int]]:
        """The tensors that this rank's optimizer steps, each with the number of steps it has had."""

    def _zeros_for(self, key: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
        # As torch.optim.Adam._init_group lays it out: a fused optimizer counts on the parameter's device.
        is_fused = any(group.get("fused") for group in self._optimizer.param_groups)
        step = torch.tensor(float(steps), device=key.device if is_fused else "cpu")
        return {"step": step, **{moment: torch.zeros_like(key.detach()) for moment in self.moments}}


def trained_state(engine: Engine, model: nn.Module) -> TrainedState:
    """The state of what `engine` trains. model: what was wrapped, with peft's names (not its loss)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(is_partitioned(parameter) for parameter in trained):
        return _Partitioned(model, engine.optimizer)
    if any(hasattr(parameter, "_hp_mapping") for parameter in trained):  # as deepspeed.utils asks it
        return _Flattened(model, engine.optimizer)
    return _Whole(model, engine.optimizer)


class _Whole(TrainedState):
    """accelerate, and DeepSpeed's stage 0 in float32: every rank holds everything."""

    def has_moments(self, name: str) -> bool:
        return bool(self._optimizer.state.get(self._parameters[name]))

    def optimizer_steps(self) -> tuple[int, dict[str, int]]:
        # A parameter without a gradient (an expert that no token met) is not stepped by a torch optimizer.
        each = {
            name: int(self._optimizer.state[parameter]["step"])
            for name, parameter in self._parameters.items()
            if self.has_moments(name)
        }
        usual = Counter(each.values()).most_common(1)[0][0] if each else 0
        return usual, {name: steps for name, steps in each.items() if steps != usual}

    def read(self, name: str, moment: str | None) -> torch.Tensor:
        parameter = self._parameters[name]
        value = parameter if moment is None else self._optimizer.state[parameter][moment]
        return value.detach().float()

    def write(self, name: str, moment: str | None, value: torch.Tensor) -> None:
        parameter = self._parameters[name]
        with torch.no_grad():
            target = parameter if moment is None else self._optimizer.state[parameter][moment]
            target.copy_(value)

    def _keys(
        self, steps: int, odd_steps: Mapping[str, int], names: set[str]
    ) -> list[tuple[torch.Tensor, int]]:
        return [(self._parameters[name], odd_steps.get(name, steps)) for name in self.shapes if name in names]


class _Flattened(TrainedState):
    """ZeRO 1 and 2: every rank holds every value in the model's precision, and its part of one flat float32
    tensor a parameter group, to which the optimizer's tensors belong.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(model, optimizer)
        self._link_moments()

    def read(self, name: str, moment: str | None) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        # A sum over ranks that are zero outside of their part: exact, but for the sign of a zero.
        parameter = self._parameters[name]
        if moment is None:
            return safe_get_full_fp32_param(parameter)
        return safe_get_full_optimizer_state(parameter, moment)

    def write(self, name: str, moment: str | None, value: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameter = self._parameters[name]
        with torch.no_grad():
            if moment is None:
                safe_set_full_fp32_param(parameter, value)
                parameter.data.copy_(value)  # what the forward uses; DeepSpeed copies it only after a step
            else:
                safe_set_full_optimizer_state(parameter, value, moment)

    def make_moments(self, steps: int, odd_steps: Mapping[str, int], names: Iterable[str]) -> None:
        super().make_moments(steps, odd_steps, names)
        self._link_moments()

    def _keys(
        self, steps: int, odd_steps: Mapping[str, int], names: set[str]
    ) -> list[tuple[torch.Tensor, int]]:
        return [(self._flat(group), steps) for group in self._optimizer.param_groups]

    def _link_moments(self) -> None:
        """Let each parameter find its part of the optimizer's tensors.

        DeepSpeed does that after the first step of the first parameter group, once, when those of the other
        groups are not made yet (`_lazy_init_hp_params_optimizer_state`): their moments cannot be asked for.
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        for index, group in enumerate(self._optimizer.param_groups):
            flat = self._flat(group)
            if flat in self._optimizer.state:
                # No public function says in which group a parameter is; None: this rank has no part of it.
                mapped = [p for p in self._parameters.values() if p._hp_mapping is not None]
                members = [p for p in mapped if p._hp_mapping.param_group_index == index]
                lazy_init_hp_params_optimizer_state(members, flat, self._optimizer.state)

    @staticmethod
    def _flat(group: dict[str, Any]) -> torch.Tensor:
        (flat,) = group["params"]
        return flat


class _Partitioned(TrainedState):
    """ZeRO 3: of every parameter, and of its float32 value and moments, each rank holds one part of equal
    size; the last ones are padded.
    """

    def read(self, name: str, moment: str | None) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self._parameters[name]
        if moment is None:
            return safe_get_full_fp32_param(parameter).float()
        return safe_get_full_optimizer_state(parameter, moment).float()

    def write(self, name: str, moment: str | None, value: torch.Tensor) -> None:
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

        # safe_set_full_* stop where the ranks do not divide the elements (deepspeed 0.19.8): they cut the
        # last part from the value without its padding.
        parameter = self._parameters[name]
        with torch.no_grad():
            if moment is None:
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    if dist.get_rank() == 0:
                        parameter.data.copy_(value)
                safe_set_local_fp32_param(parameter, self._part(parameter, value))
            else:
                safe_set_local_optimizer_state(parameter, self._part(parameter, value), moment)

    @staticmethod
    def _part(parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
        size = parameter.ds_tensor.numel()
        start = size * dist.get_rank(parameter.ds_process_group)
        mine = value.flatten()[start : start + size]
        return nn.functional.pad(mine, (0, size - mine.numel()))

    def _keys(
        self, steps: int, odd_steps: Mapping[str, int], names: set[str]
    ) -> list[tuple[torch.Tensor, int]]:
        # The groups of the torch optimizer are empty between its steps, and no function names these tensors.
        zero = next(iter(self._parameters.values()))._z3_optimizer
        return [(flat, steps) for flat in zero.fp32_partitioned_groups_flat]
