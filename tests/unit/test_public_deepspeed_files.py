"""Some forty DeepSpeed files in the manner of public ones: an error is right when DeepSpeed would stop, or
when the file asks for another batch, rate or precision than the run; all else is a warning or a note.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from crossfoot.arithmetic.batch import Topology, solve_batch
from crossfoot.planning.deepspeed_config import resolve_deepspeed
from crossfoot.written.run_file import load_run
from deepspeed_checking import Look, deepspeed_findings
from public_deepspeed_files import PUBLIC

CONTRADICTIONS = {"CF101", "CF102", "CF103", "CF304", "CF305", "CF306", "CF307"}
BEYOND_THE_FILE = {"CF311", "CF312"}
"""Where DeepSpeed stops when the engine is made, not when it reads the file; and what is not supported."""


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    return deepspeed_findings(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", PUBLIC)
def test_only_the_right_errors_are_said(look: Look, name: str) -> None:
    values, expected = PUBLIC[name]
    found = look(values)
    assert {finding.code for finding in found if finding.severity == "error"} == expected, found


@pytest.mark.parametrize("name", PUBLIC)
def test_deepspeed_agrees(look: Look, name: str) -> None:
    """It takes what is handed over, exactly where no error says that it stops."""
    from deepspeed.runtime.config import DeepSpeedConfig

    values, expected = PUBLIC[name]
    look(values)
    before = copy.deepcopy(values)
    run = load_run("run.yaml", ("cluster.gpus_per_node=1",))
    batch = solve_batch(Topology(1, 1), **run.config.batch_numbers)
    given = resolve_deepspeed(values, run.config, batch)
    assert values == before and '"auto"' not in json.dumps(given)
    assert not {"optimizer", "scheduler", "tensorboard", "wandb", "comet", "csv_monitor"} & set(given)
    if expected <= CONTRADICTIONS | BEYOND_THE_FILE:
        config = DeepSpeedConfig(given)
        assert config.optimizer_name is None and config.scheduler_name is None
        assert not config.monitor_config.enabled
    else:
        with pytest.raises(Exception, match=r"(?s).+"):
            DeepSpeedConfig(given)
