"""Launch scripts as bash runs them: what starts, what may start, where, and with which words."""

from __future__ import annotations

import pytest

from crossfoot.written.launch.shell import run_script
from crossfoot.written.launch.shell_scope import Made
from crossfoot.written.launch.statement import UNKNOWN


def started(text: str, made: Made | None = None) -> list[str]:
    """The `start` commands of a script: their words, with "?" for what is not known, and the doubt."""
    found = []
    for command in run_script(text, range(len(text)), {} if made is None else made):
        words = [word.text.replace(UNKNOWN, "?") for word in command.words]
        if words[0] == "start":
            found.append(" ".join(words[1:]) + (f" ({command.doubt})" if command.doubt else ""))
    return found


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("x || { echo no; exit 1; }\nstart 5\n", ["5"]),
        ("x && exit 0\nstart 5\n", ["5"]),
        ("exit 0\nstart 5\n", []),
        ("(exit 1)\nstart 5\n", ["5"]),
        ("true | exit 1\nstart 5\n", ["5"]),
        ("if [ -z $1 ]; then echo usage; exit 1; fi\nstart 5\n", ["5"]),
        ("exec start 5\nstart 6\n", []),
        ("function usage() { echo; }\nstart 5\n", ["5"]),
        ("run() { start $1 $#; }\nrun 5\n", ["5 ?"]),
        ("run() { start 5; return; start 6; }\nrun\nstart 7\n", ["5", "7"]),
        ("run() { N=6; }\nN=5\nrun\nstart $N\n", ["6"]),
        ("run() { start 5; }\n", ["5 (in the function run, which is not called here)"]),
        ("N=5\n(N=6; start $N)\nstart $N\n", ["6", "5"]),
        ("N=5\nN=6 | cat\nN=7 &\nstart $N\n", ["5"]),
        ("N=5\nM=$(N=6; start $N)\nstart $N $M\n", ["6", "5 ?"]),
        ('M=$(ssh h "test -f \\"$F\\"" # a comment with "\n)\nstart 5\n', ["5"]),
        ("for N in 1 2; do start $N; done\nstart $N\n", ["1", "2", "2"]),
        ("for F in *.yaml; do start $F; done\n", ["?"]),
        ("for N in 1 2; do start $N; break; done\n", ["1"]),
        ("for N in 1 2 3; do [ $N = 2 ] && continue; start $N; done\n", ["1", "3"]),
        ("for ((i = 0; i < 3; i++)); do start $i; done\n", ["?"]),
        ("N=1\nwhile true; do start $N; N=$((N + 1)); done\n", ["?"]),
        ("while read N; do start $N; done < hosts\n", ["? (in a loop)"]),
        ("until start 5; do sleep 1; done\n", ["5"]),
        ("if start 5; then echo; fi\n", ["5"]),
        ("N=2\nif [ $N -gt 1 ]; then start many; else start one; fi\n", ["many"]),
        ("N=1\nif [ $N -gt 1 ]; then start many; else start one; fi\n", ["one"]),
        ("N=${N:-1}\nif [ $N -gt 1 ]; then start a; else start b; fi\n", ["a (in an if)", "b (in an if)"]),
        ("if x; then N=5; else N=5; fi\nstart $N\n", ["5"]),
        ("if x; then N=5; else N=6; fi\nstart $N\n", ["?"]),
        ("if x; then N=5; else exit; fi\nstart $N\n", ["5"]),
        ("M=sft\ncase $M in pt) start 1;; s*) start 2;; *) start 3;; esac\n", ["2"]),
        ("case $1 in a) start 1;; *) start 2;; esac\n", ["1 (in a case)", "2 (in a case)"]),
        ("x || start 5\nstart 6\n", ["5 (behind ||)", "6"]),
        ("[ -f x ] && start 5\n", ["5 (behind a test)"]),
        ("x && start 5\n", ["5"]),
        ("C='start $N'\nN=5\neval $C\n", ["5"]),
        ('eval "N=5; start" $N\n', ["?"]),
        ("set -- a b\nstart $1 $2 $@\nshift\nstart $1\n", ["a b a b", "b"]),
        ("L=(a 'b c')\nstart ${L[0]} ${#L[@]} \"${L[@]}\"\n", ["a 2 a b c"]),
        ("N=$((2 * 4 + 1)) M=3\nstart $N $((N / M)) $((N % 2)) $((N * X))\n", ["9 3 1 ?"]),
        ("start ${A:=5}\nstart $A\n", ["5", "5"]),
        ("A=x\nstart ${A:+--flag} ${B:+--other}\n", ["--flag ?"]),
        ("start {1..3}\n", ["1 2 3"]),
        ("time start 5\n! start 6\n", ["6"]),
        ("start --a \\\n  --b # why\nstart c\n", ["--a --b", "c"]),
    ],
)
def test_a_script_is_read_as_bash_runs_it(text: str, commands: list[str]) -> None:
    assert started(text) == commands


def test_folders_of_subshells_stay_there() -> None:
    text = "(cd a && start 1)\nstart 2\ncd b\nstart 3\ncd $X\nstart 4\n"
    found = [(c.words[1].text, c.folder) for c in run_script(text, range(len(text)), {}) if len(c.words) == 2]
    assert found == [("1", "a"), ("2", ""), ("3", "b"), ("4", None)]


def test_what_a_script_writes_is_known() -> None:
    made: Made = {}
    assert (
        started("cat > hosts <<EOF\na slots=2\nEOF\ncat <<'EOF' | tee more\n$x\nEOF\nrun > log\n", made) == []
    )
    assert {name: text and text.text for name, text in made.items()} == {
        "hosts": "a slots=2\n",
        "more": "$x\n",
        "log": None,
    }
    made.clear()
    started("N=2\ncat > hosts <<EOF\na slots=$N\nEOF\n", made)
    text = made["hosts"]
    assert text is not None and (text.text, text.is_contiguous) == ("a slots=2\n", False)


def test_nothing_is_unrolled_without_end() -> None:
    deep = "for a in 1 2 3 4 5 6 7 8 9; do\n" * 12 + "start 5\n" + "done\n" * 12
    assert 0 < len(started(deep)) < 6_000
    assert started("run() { run; start 5; }\nrun\n") is not None
    assert started("(" * 5_000 + "start 5" + ")" * 5_000) is not None
    assert started("$(" * 3_000 + "start 5" + ")" * 3_000) is not None
