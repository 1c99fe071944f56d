"""docs/benchmarks.md and README's table, from benchmarks/data:   python benchmarks/pages.py

Nothing is measured here. A file of data without a section of its own is shown as it is, table by table.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from typing import Any

from crossfoot.phrases import counted
from measuring import DATA, HERE, load, table
from peers import CASES, ROWS

ROOT = HERE.parent
PAGE, README = ROOT / "docs" / "benchmarks.md", ROOT / "README.md"
BEGIN = "<!-- from benchmarks/data, by make bench-tables -->"
END = "<!-- end of benchmarks/data -->"
UNDISTURBED = 0.93
"""Of its wall time a run on one thread computes at least so much, where nobody takes its core away."""
TASKS = {"sft": "instructions", "pretrain": "pre-training"}
GOALS = (
    ("sft", "highest", 2.5, "LLaMA-Factory's best as it comes"),
    ("sft", "medium", 1.7, "LLaMA-Factory's best with the same GEMM line"),
    ("pretrain", "highest", 1.4, "LLaMA-Factory's best as it comes"),
)
"""In float32 and bfloat16; what was set out for, whether it was reached or not."""

HEAD = """Made by `make bench-tables` from `benchmarks/data/`; each file there says machine, versions and
command. Each section is one command. Compare rows of one table, never of two: they share machine and
load."""
TERMS = """A *real token* is one that is no padding, and all rates are of real tokens. *CPU second*: all
threads of the process together; with one thread, what a quiet machine would take as wall time."""
HOW = """Every stack is handed the same token ids in the same order, starts from the same weights and
trains LoRA r=64 on seven projections with embed_tokens and lm_head in full, dropout 0.05, 55,296 tokens
of vocabulary, AdamW, one thread. Instructions are 24 to 512 tokens long (median 117, mean 158, 90 %
below 352), 8 a step; stacks that pack rows of 512 take 3 rows a step, which hold 8 to 10. Stacks that do
not pack take 1 row a forward and 8 forwards a step, so they compute no padding either: on a CPU that is
their best. Pre-training has full blocks of 512. Shape S: width 512, 8 layers; M: 768, 16 layers. Rows
with *medium* set `torch.set_float32_matmul_precision("medium")`, which no peer does by itself; crossfoot
decides on it for itself, and has one row. The first step of a run is not counted; least-most is over all
that are. The tokens are counted as they enter the embedding, by the same few lines in every stack
(`benchmarks/stacks/`)."""
FLOOR = """The floor is the FLOPs that a real token needs, forward and backward, at the speed of the
fastest plain matrix product of that precision on one thread. Nobody reaches it. What stands between:
matrices of a step are small and not square; softmax over the vocabulary, norms, the optimizer, dropout
and the gradient of the embedding are passes over memory, which it does not count; whatever a stack
computes twice or for padding."""
NO_GPU = """**Nothing here has run on a GPU yet.** `python benchmarks/gpu.py` is one command of less than
eight minutes: attention and loss against exact ones, the gradient oracle and the demo in float32 and
bfloat16, packed and padded, and a Llama-2-7B's shape against the recipe of Chinese-LLaMA-Alpaca-2. Its
code is tried on a CPU by the tests. The bar that is set for it: 14,400 real tokens a second and 40 % of
the peak, on an H100 or H200."""

Row = dict[str, Any]


def caption(case: str) -> str:
    """A case in words."""
    task, shape, dtype = case.split()
    return f"{TASKS[task]}, shape {shape}, {dtype}"


def machine_line(found: Row) -> str:
    """What a table was measured with, in one line."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
    if isinstance(machine, str) or "memory_gib" not in machine:
        told = machine
        if not isinstance(machine, str):
            told = ", ".join(f"{words(name)} {value}" for name, value in machine.items() if name != "command")
        told = "; ".join(part for part in (told, versions) if part)
        return f"On {told}." if "command" not in found else f"`{found['command']}` on {told}."
    extensions = ", ".join(machine.get("extensions", ())) or "no extensions of note"
    cores = counted(machine["cores"], "core")
    return (
        f"`{found['command']}` on {cores} of {machine['processor']} ({extensions}), "
        f"{machine['memory_gib']} GiB; python {machine['python']}, {versions}."
    )


def named(row: Row) -> str:
    """A row's name, with its GEMM line: set for it, or by the stack itself."""
    if row["gemm"] == "medium":
        return f"{row['row']}, medium"
    return f"{row['row']}, medium by itself" if row.get("set_gemm") == "medium" else str(row["row"])


def rate(row: Row | None) -> str:
    """Tokens per CPU second: the median; - where there is none."""
    return "-" if row is None or "failed" in row else f"{row['tokens_per_cpu_second']['median']:.0f}"


def by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by case, both in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    return found


def readme_table(peers: Row) -> str:
    """Rows of the peers as they come, columns of the cases."""
    cases = by_case(peers["rows"])
    found = {(row["row"], row["case"]): row for row in peers["rows"] if row["gemm"] == "highest"}
    lines = [
        [name, *(rate(found.get((name, case))) for case in cases)]
        for name in dict.fromkeys(row["row"] for row in peers["rows"])
    ]
    return table(["real tokens per CPU second", *map(caption, cases)], lines)


def readme_part() -> str:
    """What stands between README's two marks."""
    peers = load("peers")
    if peers is None:
        return "Nothing has been measured yet."
    return "\n".join([readme_table(peers), "", *wrapped(f"{provisional(peers)}{goals_line(peers)}")])


def wrapped(text: str, width: int = 118) -> list[str]:
    """Lines of at most `width` characters."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def core_shares(peers: Row) -> list[float]:
    """CPU time over wall time, of each row."""
    good = [row for row in peers["rows"] if "failed" not in row]
    return [row["tokens_per_second"]["median"] / row["tokens_per_cpu_second"]["median"] for row in good]


def company(peers: Row) -> str:
    """What else the machine did meanwhile."""
    loads = [row["load"]["median"] for row in peers["rows"] if "load" in row]
    shares = core_shares(peers)
    if not loads or not shares:
        return ""
    return (
        f"The machine's load was {min(loads):.0f} to {max(loads):.0f} when a run began: other work had the "
        f"other cores. Every run had its one core for at least {min(shares):.0%} of its wall time."
    )


def provisional(peers: Row) -> str:
    """Says so where others computed on the cores of the runs."""
    shares = core_shares(peers)
    if disturbed := [share for share in shares if share < UNDISTURBED]:
        return (
            f"Provisional: {len(disturbed)} of {len(shares)} rows shared their core with other work (down to "
            f"{min(disturbed):.0%} of it), and even CPU seconds are longer then. "
        )
    return ""


def missing(peers: Row) -> str:
    """Says which cases, and which rows of those that are there, nobody has run yet."""
    cases = by_case(peers["rows"])
    absent = [caption(case.name) for case in CASES if case.name not in cases]
    for name, rows in cases.items():
        task = name.split()[0]
        there = {row["row"] for row in rows}
        lacking = [row.name for row in ROWS if task in row.tasks and row.name not in there]
        quoted = ", ".join(f'"{row}"' for row in lacking)
        absent += [f"{caption(name)}: {quoted}"] if lacking else []
    return f"**Not measured yet:** {'; '.join(absent)}." if absent else ""


def best(rows: list[Row], name: str, gemm: str) -> Row | None:
    """The fastest row whose name begins like this."""
    fitting = [
        row for row in rows if row["row"].startswith(name) and row["gemm"] == gemm and "failed" not in row
    ]
    return max(fitting, key=lambda row: row["tokens_per_cpu_second"]["median"], default=None)


def reached(peers: Row) -> list[tuple[str, str, float, float]]:
    """(case, against what, the ratio, the goal) for each goal that was measured."""
    found = []
    for case, rows in by_case(peers["rows"]).items():
        task, _, dtype = case.split()
        mine = best(rows, "crossfoot", "highest")
        for goal_task, gemm, goal, against in GOALS:
            if goal_task != task or (dtype == "bfloat16" and gemm == "medium"):
                continue
            other = best(rows, "LLaMA-Factory", gemm)
            if mine is not None and other is not None:
                ratio = mine["tokens_per_cpu_second"]["median"] / other["tokens_per_cpu_second"]["median"]
                found.append((case, against, ratio, goal))
    return found


def goals_line(peers: Row) -> str:
    """How many goals were reached."""
    all_ = reached(peers)
    met = sum(ratio >= goal for *_, ratio, goal in all_)
    where = "[docs/benchmarks.md](docs/benchmarks.md)"
    told = f"{met} {'is' if met == 1 else 'are'} met"
    return f"Of {len(all_)} goals set out for, {told}; {where} has what was measured, and how."


def peers_section(peers: Row, floor: Row | None) -> Iterable[str]:
    """All that benchmarks/peers.py found, and how far it is from the floor."""
    shares = {(row["case"], row["row"], row["gemm"]): row["share"] for row in (floor or {"rows": ()})["rows"]}
    yield provisional(peers)
    yield machine_line(peers)
    yield company(peers)
    yield HOW
    yield missing(peers)
    yield "First the gradients of one step were compared: the same weights and samples, without dropout."
    yield table(
        ["first step, float32", "real tokens", "embed_tokens, relative difference", "lm_head"],
        [
            [name, "-", "-", row] if isinstance(row, str)
            else [name, row["real_tokens"], f"{row['embed_tokens']:.1e}", f"{row['lm_head']:.1e}"]
            for name, row in peers["gradients"].items()
        ],
    )  # fmt: skip
    head = [
        "tokens per CPU s",
        "least-most",
        "per second",
        "peak GiB",
        "real tokens",
        "of the floor",
        "steps",
    ]
    for case, rows in by_case(peers["rows"]).items():
        yield f"### {caption(case)}"
        lines = []
        for row in rows:
            if "failed" in row:
                lines.append([named(row), "-", "-", "-", "-", "-", "-", f"did not run: {row['failed']}"])
                continue
            spread, wall = row["tokens_per_cpu_second"], row["tokens_per_second"]["median"]
            share = shares.get((row["case"], row["row"], row["gemm"]))
            lines.append([
                named(row), f"{spread['median']:.0f}", f"{spread['least']:.0f}-{spread['most']:.0f}",
                f"{wall:.0f}",
                f"{row['peak_rss_bytes'] / 2**30:.1f}", f"{row['real_share']:.0%}",
                "-" if share is None else f"{share:.0%}", row["counted_steps"],
            ])  # fmt: skip
        yield table(["", *head], lines)
    yield "### Goals"
    yield table(
        ["", "against", "goal", "reached", ""],
        [
            [caption(case), against, f"{goal:.1f}x", f"{ratio:.2f}x", "met" if ratio >= goal else "not met"]
            for case, against, ratio, goal in reached(peers)
        ],
    )


def floor_section(floor: Row) -> Iterable[str]:
    """The floor, and what stands between."""
    yield machine_line(floor)
    yield FLOOR
    yield table(
        ["product", "precision", "GFLOP/s"],
        [
            (peak["dtype"], peak["precision"], f"{peak['flops_per_second'] / 1e9:.0f}")
            for peak in floor["peaks"]
        ],
    )
    cases = {row["case"]: row for row in floor["rows"]}
    yield table(
        ["", "MFLOP a real token", "tokens/s at the floor"],
        [
            [caption(case), f"{row['flops_per_token'] / 1e6:.0f}", f"{row['floor_tokens_per_second']:.0f}"]
            for case, row in cases.items()
        ],
    )


def gpu_section(gpu: Row | None) -> Iterable[str]:
    """What was seen on a GPU; plainly nothing where there is no data."""
    if gpu is None:
        yield NO_GPU
        return
    yield machine_line(gpu)
    yield f"{gpu['device']}, CUDA {gpu['cuda']}."
    for name in ("speed", "proofs", "demo", "kernels"):
        if name in gpu:
            yield f"### {name.capitalize()}"
            yield from plain_tables(gpu[name])


def plain_tables(found: Any, title: str = "") -> Iterable[str]:
    """Data without a section of its own: records that have the same keys are rows of a table."""
    if isinstance(found, dict) and len(found) > 1:
        parts = list(found.values())
        if all(isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts):
            found = [{title: name} | part for name, part in found.items()]
    if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
        found = [flattened(row) for row in found]
        names = [name for row in found for name, value in row.items() if is_short(value)]
        columns = list(dict.fromkeys(names))
        yield table(
            [words(name) for name in columns],
            [[short(row.get(name, "-")) for name in columns] for row in found],
        )
    elif isinstance(found, dict):
        flat = {name: value for name, value in found.items() if is_short(value)}
        if flat:
            yield table(["", title], [[words(name), short(value)] for name, value in flat.items()])
        for name, value in found.items():
            yield from plain_tables(value, words(name))


def flattened(row: Row) -> Row:
    """A record whose cells are no records: "share padded" for what stands as {share: {padded: ...}}."""
    flat: Row = {}
    for name, value in row.items():
        inner = flattened(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{name} {part}".strip(): cell for part, cell in inner.items()}
    return flat


def words(key: str) -> str:
    """A key as a column's head."""
    return key.replace("_", " ")


def is_short(value: object) -> bool:
    """Whether a value fits in a cell."""
    if isinstance(value, list):
        return all(isinstance(part, int | float) for part in value)
    return not isinstance(value, dict)


def short(value: object) -> str:
    """A value with at most four digits that matter; numbers of a list behind each other."""
    if isinstance(value, list):
        return " ".join(map(short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def others() -> Iterable[str]:
    """Every other file of data, under the first line of the script that made it."""
    for path in sorted(DATA.glob("*.json")):
        name = path.stem
        if name in ("peers", "floor", "gpu"):
            continue
        found = load(name) or {}
        script = HERE / f"{name}.py"
        said = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) if script.exists() else None
        yield f"## {name.replace('_', ' ').capitalize()}"
        yield (said or "").split("\n\n")[0]
        if "machine" in found:
            yield machine_line(found)
        yield from plain_tables(
            {k: v for k, v in found.items() if k not in ("machine", "versions", "command")}
        )


def page() -> str:
    """docs/benchmarks.md."""
    peers, floor = load("peers"), load("floor")
    parts = [
        "# Benchmarks",
        HEAD,
        TERMS,
        "## Peers",
        *(peers_section(peers, floor) if peers else ["Not measured yet: `python benchmarks/peers.py`."]),
        "## Against the floor",
        *(floor_section(floor) if floor else ["Not measured yet: `python benchmarks/floor.py`."]),
        *others(),
        "## GPU",
        *gpu_section(load("gpu")),
    ]
    return "\n\n".join(reflowed(part) for part in parts if part) + "\n"


def reflowed(part: str) -> str:
    """Prose in lines of one width; tables and headings as they are."""
    return part if part.startswith(("|", "#")) else "\n".join(wrapped(part))


def readme(text: str) -> str:
    """README with its table made anew. ValueError where a mark is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{readme_part()}\n{END}{after}"


def main() -> int:
    """Write both."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}, and the table of {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
