"""The libraries' own words, where they would hide ours."""

from __future__ import annotations

import logging
import os
import warnings

from crossfoot.models.quantise import import_bitsandbytes


def hush_libraries() -> None:
    """The libraries' own logs begin at errors: what matters of them is read back and compared instead. Called
    before peft is imported.
    """
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    for name in ("DeepSpeed", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import_bitsandbytes()
