"""The DeepSpeed file: strict JSON with the place of every key and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.written.deepspeed_file import DeepSpeedFile, load_deepspeed_file

ZERO2 = """\
{
  "train_batch_size": "auto",
  "zero_optimization": {"stage": 2, "buckets": [1e8, {"中": null}]},
\t"gradient_clipping": 1.0
}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def _load(text: str | bytes) -> DeepSpeedFile:
        Path("ds.json").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_deepspeed_file("ds.json")

    return _load


def refused(load, text: str | bytes) -> Finding:
    with pytest.raises(Refused) as caught:
        load(text)
    (finding,) = caught.value.findings
    assert finding.unreadable
    return finding


def test_values_and_places(load) -> None:
    file = load(ZERO2)
    assert file.values["zero_optimization"] == {"stage": 2, "buckets": [1e8, {"中": None}]}
    assert file.get("zero_optimization", "stage") == 2
    assert file.get("zero_optimization", "stage", "deeper") is None
    assert file.place("train_batch_size") == Place("ds.json", 2, 23, 6)
    assert file.place("train_batch_size", part="key") == Place("ds.json", 2, 3, 18)
    assert file.place("zero_optimization", "stage") == Place("ds.json", 3, 34, 1)
    assert file.place("zero_optimization", "buckets", 1, "中") == Place("ds.json", 3, 60, 4)
    assert file.place("gradient_clipping") == Place("ds.json", 4, 23, 3)
    assert file.place("zero_optimization", "absent") == file.place("zero_optimization", part="key")
    assert file.place("absent") == Place("ds.json")


def test_duplicates_keep_both_places(load) -> None:
    file = load('{"a": 1,\n "b": {"c": 1, "c": 2},\n "a": 3}')
    assert file.values == {"a": 3, "b": {"c": 2}}
    assert [(keys, str(first), str(second)) for keys, first, second in file.duplicates] == [
        (("b", "c"), "ds.json:2:8", "ds.json:2:16"),
        (("a",), "ds.json:1:2", "ds.json:3:2"),
    ]


@pytest.mark.parametrize(
    ("text", "place", "title"),
    [
        ('{"a": 1\n "b": 2}', "ds.json:1:8", "a comma is missing here"),
        ('{"a": 1 "b": 2}', "ds.json:1:9", "a comma is missing here"),
        ('{"a" 1}', "ds.json:1:6", 'a colon is missing after "a"'),
        ("{a: 1}", "ds.json:1:2", "the key a is not in double quotes"),
        ("{'a': 1}", "ds.json:1:2", "the key 'a' is not in double quotes"),
        ("{\"a\": 'x'}", "ds.json:1:7", "text stands in single quotes"),
        ('{"a": True}', "ds.json:1:7", "True is not a JSON value"),
        ('{"a": NaN}', "ds.json:1:7", "NaN is not a JSON number"),
        ('{"a": -Infinity}', "ds.json:1:7", "-Infinity is not a JSON number"),
        ('{"a": 01}', "ds.json:1:8", "a comma is missing here"),
        ('{"a": }', "ds.json:1:7", "} stands where a value is expected"),
        ('{"a": "x', "ds.json:1:7", "this text cannot be read: unterminated string starting"),
        ('{"a": 1', "ds.json:1:8", "the file ends before the } of line 1"),
        ('{"a":', "ds.json:1:6", "the file ends where a value is expected"),
        ("{} {}", "ds.json:1:4", "something stands after the end of the JSON"),
        ("", "ds.json:1:1", "the file ends where a value is expected"),
        ("[" * 5000, "ds.json:1:102", "the JSON is nested deeper than 100 levels"),
        ('{"a": ' + "9" * 5000 + "}", "ds.json:1:7", "this number has thousands of digits"),
        ("[1, 2]", "ds.json:1:1", "ds.json is no object of settings"),
        (b"\xef\xbb\xbf{}", "ds.json:1:1", "ds.json begins with a byte order mark"),
    ],
)
def test_broken_files_say_where_and_why(load, text: str | bytes, place: str, title: str) -> None:
    finding = refused(load, text)
    assert (str(finding.place), finding.title) == (place, title)


def test_a_missing_file_names_who_asked_for_it(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        load_deepspeed_file(str(tmp_path / "zero2.json"), Place("run.yaml", 9, 12))
    (finding,) = caught.value.findings
    assert (finding.code, finding.others) == ("CF301", ((Place("run.yaml", 9, 12), "named here"),))
