"""What only torch and deepspeed themselves can say of a machine. Never imported: the text is run in a process
of its own (`gather.py`), so that a broken or hanging torch breaks nothing else.

Each answer is a line: the mark, and JSON. No memory is taken on a GPU.
"""

import json
from typing import Any

MARK = "crossfoot-facts "


def _torch() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "rocm": getattr(torch.version, "hip", None),
        "devices": [],
    }
    if facts["cuda"] or facts["rocm"]:
        facts["kernels"] = torch.cuda.get_arch_list()
        try:
            torch.cuda.init()
        except Exception as error:
            facts["cuda_problem"] = _first_line(error)
            return facts
        for index in range(torch.cuda.device_count()):
            of = torch.cuda.get_device_properties(index)
            capability = f"{of.major}.{of.minor}"
            device = {"name": of.name, "memory_bytes": of.total_memory, "capability": capability}
            facts["devices"].append(device)
    return facts


def _deepspeed() -> dict[str, Any]:
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import installed_ops

    return {
        "version": str(deepspeed.__version__),
        "accelerator": str(get_accelerator()._name),
        "ops_installed": sorted(name for name, is_there in installed_ops.items() if is_there),
        "ops_compatible": sorted(name for name, can_be in deepspeed.ops.__compatible_ops__.items() if can_be),
    }


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


for _name, _ask in (("torch", _torch), ("deepspeed", _deepspeed)):
    try:
        _facts = _ask()
    except BaseException as _error:  # a library may end the process; what it says is the answer
        _facts = {"problem": _first_line(_error)}
    print("\n" + MARK + json.dumps({_name: _facts}), flush=True)
