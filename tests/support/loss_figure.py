"""Two loss curves on top of each other, as an SVG: the undisturbed run's, and the tormented one's."""

from __future__ import annotations

from pathlib import Path

from support.launching import ledger

WIDTH, HEIGHT, LEFT, TOP = 720, 360, 56, 44
INK, CALM, STORMY, LOST = "#444", "#9ec5e8", "#1a1a1a", "#d1495b"


def write_figure(path: Path, calm: Path, stormy: Path) -> None:
    """The calm curve is a broad band, the tormented one a thin line on it; lost steps are dots."""
    one, other = ledger(calm), ledger(stormy)
    last = {line["step"]: line for line in other}
    lost = [line for line in other if line is not last[line["step"]]]
    losses = [line["loss"] for line in (*one, *other)]
    low, high = min(losses), max(losses)

    def at(line: dict[str, float]) -> str:
        x = LEFT + (WIDTH - LEFT - 20) * line["step"] / max(1, len(one) - 1)
        y = TOP + (HEIGHT - TOP - 48) * (high - line["loss"]) / (high - low)
        return f"{x:.1f},{y:.1f}"

    def curve(lines: list[dict[str, float]], colour: str, width: float) -> str:
        points = " ".join(at(line) for line in lines)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>'

    def text(x: float, y: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{INK}">{words}</text>'

    attempts = len(list(stormy.glob("attempt-*")))
    counted = [last[step] for step in sorted(last)]
    begins = [
        line for line, before in zip(other[1:], other, strict=False) if line["attempt"] > before["attempt"]
    ]
    dots = [
        f'<circle cx="{x}" cy="{y}" r="2.5" fill="{LOST}"/>'
        for x, y in (at(line).split(",") for line in lost)
    ]
    floor = HEIGHT - 48
    ticks = [
        f'<line x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 8}" stroke="{LOST}"/>'
        for x, _ in (at(line).split(",") for line in begins)
    ]
    title = f"{attempts} attempts, {len(lost)} steps lost and computed again"
    path.write_text(
        "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
                'font-family="sans-serif" font-size="12">',
                f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
                f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{floor}" y2="{floor}" stroke="{INK}"/>',
                text(LEFT, 18, f"Loss of a run that nobody disturbed (broad) and of one with {title}"),
                text(
                    LEFT, 33, "red: a line of the ledger that was lost with a kill; a tick: an attempt begins"
                ),
                text(LEFT - 8, TOP + 4, f"{high:.2f}", "end"),
                text(LEFT - 8, floor, f"{low:.2f}", "end"),
                text(WIDTH - 20, floor + 24, f"step {len(one):,}", "end"),
                curve(one, CALM, 6),
                curve(counted, STORMY, 1.5),
                *dots,
                *ticks,
                "</svg>",
                "",
            ]
        ),
        encoding="utf-8",
    )
