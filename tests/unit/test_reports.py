"""Pages and charts: all that is given is shown, inside the picture; texts are texts; many points stay few."""

from __future__ import annotations

import html.parser
import math
import random
import re

import pytest

from crossfoot.reports.axes import Axis
from crossfoot.reports.chart import Bar, Point, Series, bars, chart
from crossfoot.reports.page import Both, Page, figures, heading, paragraph, table, verdict
from crossfoot.reports.text import joined
from crossfoot.reports.thinning import thinned_dots, thinned_line

ACROSS, UP = Axis("step"), Axis("loss")
EVIL = "<b>half</b> \"&'"


def _everything(name: str) -> str:
    line = Series(name, [Point(0, 1.0), Point(1, 2.0)])
    return (
        Page(name, lang="zh")
        .add(heading(name), paragraph(name), verdict("bad", name, name), table([name], [[name]], name))
        .add(figures(chart(name, Axis(name), Axis(name), [line], name), bars(name, [Bar(name, 1.0, name)])))
        .render()
    )


def test_a_page_is_well_formed_fetches_nothing_and_shows_texts_as_they_are() -> None:
    opened: list[str] = []
    shown: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag != "meta":
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            assert tag == "path"

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

        def handle_data(self, data: str) -> None:
            shown.append(data)

    page = _everything(EVIL)
    Reader().feed(page.removeprefix("<!doctype html>"))
    assert opened == []
    assert shown.count(EVIL) == 17 and '<html lang="zh">' in page
    assert not re.search(r"(src|href)=|url\(|@import|https?:", page)


def test_columns_of_numbers_stand_at_the_right_and_names_do_not() -> None:
    page = table(("run", "kind", "loss"), [("7b", "1 GPU", "0.5"), ("13b", "all", "-")])
    assert page.count('class="number"') == 3
    assert '<td>7b</td><td>1 GPU</td><td class="number">0.5</td>' in page


@pytest.mark.parametrize(
    ("axis", "values", "labels"),
    [
        (Axis("", has_zero=True), (3.0, 9.5), "0 2 4 6 8 10"),
        (Axis("", is_whole=True), (1.0, 3.0), "1 2 3"),
        (Axis("", is_whole=True), (10.0,), "5 10 15"),
        (Axis("", is_whole=True), (0.0,), "-1 0 1"),
        (Axis(""), (0.0, 0.3), "0.0 0.1 0.2 0.3"),
        (Axis(""), (0.25, 0.5), "0.25 0.30 0.35 0.40 0.45 0.50"),
        (Axis(""), (-5.0, 5.0), "-5.0 -2.5 0.0 2.5 5.0"),
        (Axis(""), (0.0, 123456.0), "0 25,000 50,000 75,000 100,000 125,000"),
        (Axis(""), (1e-5, 3e-5), "1e-05 1.5e-05 2e-05 2.5e-05 3e-05"),
        (Axis(""), (7.0, 7.0 + 1e-15), "2 4 6 8 10 12"),
        (Axis("", is_log=True), (1.0, 100.0, 0.0, -1.0), "1 2 5 10 20 50 100"),
        (Axis("", is_log=True), (4.0, 4.8), "4 4.2 4.4 4.6 4.8"),
        (Axis("", is_log=True), (1e-9, 1e9), "1e-09 1e-07 1e-05 0.001 0.1 10 1,000 100,000 1e+07 1e+09"),
        (Axis("", at=(1, 2, 5, 10, 11)), (1.0, 11.0), "1 2 5 10 11"),
    ],
)
def test_ticks_are_round_numbers_around_what_is_shown(
    axis: Axis, values: tuple[float, ...], labels: str
) -> None:
    scale = axis.scale(values, is_upright=True)
    assert scale is not None
    assert " ".join(label for _, label in scale.ticks) == labels
    assert all(0 <= scale.share(value) <= 1 for value in values if axis.shows(value))


def test_ticks_below_a_picture_lie_on_it_with_room_for_their_words() -> None:
    steps = Axis("step", is_whole=True).scale((1.0, 9999.0))
    assert steps is not None and [label for _, label in steps.ticks] == ["2,000", "4,000", "6,000", "8,000"]
    users = Axis("users", at=(1, 2, 1000, 1024)).scale((1.0, 1024.0))
    assert users is not None and [label for _, label in users.ticks] == ["1", "1,000"]


def _places(drawn: str, shape: str) -> list[tuple[int, int]]:
    (path,) = re.findall(rf'<path class="{shape} [^"]*" d="([^"]*)"', drawn)
    return [(int(x), int(y)) for x, y in re.findall(r"(-?\d+) (-?\d+)", path)]


@pytest.mark.parametrize("ys", [[0.0], [5.0, 5.0], [1e-9, 1e9], [-3.0, 4.0]])
@pytest.mark.parametrize("has_zero", [True, False])
def test_points_stay_inside_the_picture(ys: list[float], has_zero: bool) -> None:
    points = [Point(x, y) for x, y in enumerate(ys)]
    drawn = chart("t", ACROSS, Axis("", has_zero=has_zero), [Series("l", points)])
    places = _places(drawn, "dots")
    assert len(places) == len(ys)
    assert all(0 <= x <= 2000 and 0 <= y <= 1000 for x, y in places)


def test_nothing_to_show_is_no_figure() -> None:
    assert chart("t", ACROSS, UP, [Series("l", [])]) == "" == figures(bars("t", []))
    assert chart("t", ACROSS, UP, [Series("l", [Point(1, math.nan)])]) == ""
    assert chart("t", ACROSS, Axis("", is_log=True), [Series("l", [Point(1, 0.0)])]) == ""


def test_a_line_has_a_gap_where_there_is_no_number() -> None:
    ys = [1.0, 2.0, math.nan, 3.0, 1.0, math.inf]
    drawn = chart("t", ACROSS, UP, [Series("l", [Point(x, y) for x, y in enumerate(ys)])])
    path, _ = re.findall(r'<path class="line c0" d="([^"]*)"', drawn)  # the other one: of the legend
    assert path.count("M") == 2 and path.count("L") == 2


def test_intervals_are_a_band_of_a_line_and_strokes_of_dots() -> None:
    points = [Point(0, 1.0, 0.0, 2.0), Point(1, 1.0), Point(2, 2.0, 1.0, 4.0)]
    band = _places(chart("t", ACROSS, UP, [Series("l", points)]), "band")
    assert band == [(0, 500), (2000, 0), (2000, 750), (0, 1000)]
    drawn = chart("t", ACROSS, UP, [Series("l", points, "dots", colour=11)])
    assert re.findall(r'class="whisker c3" d="([^"]*)"', drawn) == ["M0 1000V500M2000 750V0"]


def test_bars_begin_at_0_and_the_longest_interval_fits() -> None:
    drawn = bars("t", [Bar("a", 2.0, "two", 1.0, 4.0), Bar("b", -1.0, "less"), Bar("c", 4.0, "four")])
    assert re.findall(r"M0 0H(\d+)V8H0z", drawn) == ["1000", "0", "2000"]
    assert re.findall(r"M(\d+) 4H(\d+)", drawn) == [("500", "2000")]
    assert "0H0V" in bars("t", [Bar("a", 0.0, "none")])


def test_ten_thousand_points_keep_their_peaks_and_stay_small() -> None:
    random.seed(3)
    points = [Point(x, random.random()) for x in range(10_000)]
    points[7003] = Point(7003, 9.0)
    points[1234] = Point(1234, 0.5, -3.0, 0.6)
    thin = thinned_line(points, lambda point: (point.x / 10_000, point.y / 9))
    assert thin[0] == points[0] and thin[-1] == points[-1] and thin == sorted(thin)
    assert points[7003] in thin and points[1234] in thin and len(thin) < 1200
    cloud = [Point(random.random(), random.random()) for _ in range(20_000)]
    cells = {(int(p.x * 250), int(p.y * 125)) for p in cloud}
    assert len(thinned_dots(cloud, lambda point: (point.x, point.y))) == len(cells) < 20_000
    charts = [chart("t", ACROSS, UP, [Series("l", points)]) for _ in range(9)]
    dots = chart("t", ACROSS, UP, [Series("l", cloud[:10_000], "dots")])
    assert len(Page("t").add(figures(*charts, dots)).render()) < 300_000


def _bilingual(en: str, zh: str) -> str:
    both = Both(en, zh)
    line = Series(both, [Point(0, 1.0), Point(1, 2.0)])
    drawn = chart(both, Axis(both), Axis(both), [line], both), bars(both, [Bar(both, 1.0, both)], both)
    return (
        Page(both)
        .add(heading(both), paragraph(both), verdict("bad", both, both), table([both], [[both]], both))
        .add(figures(*drawn))
        .render()
    )


def test_a_page_in_two_languages_shows_each_text_in_both_and_has_a_switch() -> None:
    page = _bilingual("loss <&", "损失 <&")
    english = page.count("<span lang=en>loss &lt;&amp;</span>")
    assert english == page.count("<span lang=zh-CN>损失 &lt;&amp;</span>") == 17
    assert page.count("损失") == 17, "an attribute, and what the browser calls the page, is in one language"
    assert page.count("loss &lt;&amp;") == 19
    inputs = re.findall(r'<input [^>]*id="(\w+)"( checked)?>', page)
    assert inputs == [("en", " checked"), ("zh", "")], "without a script it is English"
    assert page.index("<input") < page.index("<h1>"), "what is hidden follows the switch"
    assert "<input" not in _everything("plain")


def test_numbers_in_two_languages_stand_at_the_right_too() -> None:
    page = table(("run", "steps"), [("a", Both("3 of 10", "10 步中的 3 步"))])
    assert page.count('class="number"') == 2


def test_texts_are_joined_in_both_languages_and_stay_one_where_they_are_one() -> None:
    assert joined(["a", Both("b", "乙")], ", ", "、") == Both("a, b", "a、乙")
    assert joined(["1", "2"], " ", " ") == "1 2"
    assert joined(["1", "2"]) == Both("1, 2", "1，2")
