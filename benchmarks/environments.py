"""An environment for every peer, from PyPI, and what runs there inherit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from measuring import HERE

ENVIRONMENTS = {
    "crossfoot": "",
    "hf": "torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0",
    "llamafactory": "torch==2.13.0 llamafactory==0.9.5",
    "trl": "torch==2.13.0 trl==1.16.0 peft==0.21.2",
    "swift": "torch==2.13.0 ms-swift==4.6.0",
    "unsloth": "torch==2.13.0 unsloth==2026.10.9",
}
"""What each is installed from; the rest is what these ask for. crossfoot runs where this command does."""


class Environments:
    """Pythons of the peers, installed when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failed: dict[str, str] = {}

    def python(self, name: str) -> Path:
        """The interpreter; RuntimeError with the installer's last line where it cannot be had."""
        if not ENVIRONMENTS[name]:
            return Path(sys.executable)
        home = self._folder / "envs" / name
        stamp = home / "installed"
        if name in self._failed:
            raise RuntimeError(self._failed[name])
        if not stamp.exists() or stamp.read_text() != ENVIRONMENTS[name]:
            print(f"installing {name} ...", file=sys.stderr, flush=True)
            self._uv("venv", "--quiet", "--clear", "--python", sys.executable, home, name=name)
            wheels = os.environ.get("PIP_FIND_LINKS", "")
            where = ["--find-links", wheels] if wheels else ["--torch-backend", "cpu"]
            words = ENVIRONMENTS[name].split()
            self._uv(
                "pip", "install", "--quiet", "--python", home / "bin" / "python", *where, *words, name=name
            )
            if (
                wheels
            ):  # PyPI's torchvision and torchaudio are built for CUDA, and break imports; text needs neither
                python = home / "bin" / "python"
                self._uv(
                    "pip", "uninstall", "--quiet", "--python", python, "torchvision", "torchaudio", name=name
                )
            stamp.write_text(ENVIRONMENTS[name])
        return home / "bin" / "python"

    def _uv(self, *words: str | Path, name: str) -> None:
        tool = shutil.which("uv") or str(self._folder / "envs" / "uv" / "bin" / "uv")
        if not Path(tool).exists():
            subprocess.run([sys.executable, "-m", "venv", self._folder / "envs" / "uv"], check=True)
            pip = self._folder / "envs" / "uv" / "bin" / "pip"
            subprocess.run([pip, "install", "--quiet", "uv"], check=True)
        environment = {
            **os.environ,
            "UV_CACHE_DIR": str(self._folder / "envs" / "cache"),
            "UV_SYSTEM_CERTS": "1",
        }
        done = subprocess.run([tool, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            self._failed[name] = f"not installed: {last_line(done.stderr)}"
            raise RuntimeError(self._failed[name])


def started(
    words: Sequence[str | Path], around: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """A command from the root of the project, and all that it says. TimeoutExpired after so many seconds."""
    return subprocess.run(words, cwd=HERE.parent, env=around, capture_output=True, text=True, timeout=seconds)


def last_line(text: str) -> str:
    """What a program said last, or the first error that crossfoot found."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in lines if line.startswith("error[")), lines[-1] if lines else "nothing was said"
    )


def surroundings(folder: Path, device: str) -> dict[str, str]:
    """Nothing from a hub, caches of the peers under `folder`; on a CPU one thread and no GPU."""
    said = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    said |= {
        "HF_HOME": str(folder / "home"),
        "MODELSCOPE_CACHE": str(folder / "home"),
        "TORCHDYNAMO_DISABLE": "1",
    }
    said |= {
        "DISABLE_VERSION_CHECK": "1",
        "UNSLOTH_COMPILE_DISABLE": "1",
        "UNSLOTH_SKIP_TORCHVISION_CHECK": "1",
    }
    if device == "cpu":
        said |= {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "ACCELERATE_USE_CPU": "true",
        }
    foreign = ("RANK", "WORLD_", "LOCAL_", "SLURM_", "ACCELERATE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)} | said
