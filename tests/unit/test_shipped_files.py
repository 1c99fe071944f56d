"""Ship only what is tested: configs plan and check clean; what the README names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.written.deepspeed_file import load_deepspeed_file
from support.launching import ROOT, without_runs

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DEEPSPEED_FILES = sorted((ROOT / "ds_configs").glob("*.json"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize("verb", ("check", "plan"))
def test_every_shipped_config_is_clean(
    config: Path,
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(without_runs(tmp_path))
    for needed in re.findall(r"(?:\.\./shared/data|real)/[\w./-]+", config.read_text(encoding="utf-8")):
        if not Path(needed).exists():
            pytest.skip(f"{needed} is not part of the project and is not here")
    code = main([verb, str(config.relative_to(ROOT))])
    assert code == 0, capsys.readouterr().out
    assert "error[" not in capsys.readouterr().out


@pytest.mark.parametrize("file", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_every_shipped_deepspeed_file_leaves_the_batch_to_crossfoot(file: Path) -> None:
    values = load_deepspeed_file(str(file)).values
    owned = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    assert [values[key] for key in owned] == ["auto"] * 3
    stage = values["zero_optimization"]
    assert isinstance(stage, dict)
    assert f"zero{stage['stage']}.json" == file.name


def test_the_readmes_files_and_verbs_exist(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:configs|tests|src|ds_configs)/[\w./-]+)`", readme):
        assert (ROOT / path).exists(), path
    for verb in set(re.findall(r"^crossfoot (\w+) ", readme, flags=re.MULTILINE)):
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert stopped.value.code == 0
        assert verb in capsys.readouterr().out
