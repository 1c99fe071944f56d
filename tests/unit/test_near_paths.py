"""A path at which nothing is: what is there that it was meant to be, and when nothing is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossfoot.written.near_paths import near_help, nearest_path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data/demo/zh.jsonl", "data/part-1.json", "ds_configs/zero2.json", "数据/训练，一.json"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("")
    Path("models/llama-2-7b").mkdir(parents=True)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data/demo/zh.json", "data/demo/zh.jsonl"),
        ("data/demo/ZH.jsonl", "data/demo/zh.jsonl"),
        ("data/demo/zh", "data/demo/zh.jsonl"),
        ("data/demo/hz.jsonl", "data/demo/zh.jsonl"),
        ("data/dmeo/zh.jsonl", "data/demo/zh.jsonl"),
        ("data/zh.jsonl", "data/demo/zh.jsonl"),
        ("data/demo/train/zh.jsonl", "data/demo/zh.jsonl"),
        ("demo/zh.jsonl", "data/demo/zh.jsonl"),
        ("/data/demo/zh.jsonl", "data/demo/zh.jsonl"),
        ("data／demo／zh.jsonl", "data/demo/zh.jsonl"),
        ("“data/demo/zh.jsonl”", "data/demo/zh.jsonl"),
        ("zero2", "ds_configs/zero2.json"),
        ("configs/zero2.json", "ds_configs/zero2.json"),
        ("数据/训练,一.json", "数据/训练，一.json"),
        ("data/part-2.json", None),
        ("ds_configs/zero3.json", None),
        ("nothing/like.it", None),
        ("", None),
        ("a\0b", None),
    ],
)
def test_the_file_that_was_meant(path: str, found: str | None) -> None:
    assert nearest_path(path) == found


def test_another_number_is_another_file() -> None:
    assert near_help("data/part-2.json") == ("beside it is data/part-1.json",)
    assert near_help("data/demo/hz.jsonl") == ("the nearest name there is data/demo/zh.jsonl",)
    assert near_help("nothing/like.it") == ()


def test_a_folder_that_was_meant() -> None:
    assert nearest_path("./models/llama-2-7B", os.path.isdir) == "models/llama-2-7b"
    assert nearest_path("models/llama-2-13b", os.path.isdir) is None
