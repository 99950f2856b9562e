"""The page of a report: its words, what it escapes, and how it looks in a browser."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from browser import browser, resize
from curves import curve_tables
from plants import COLUMNS, refused, run
from plants import SMALL as SMALL_OPTIONS
from statecast.errors import ArgumentError, MissingExtraError
from statecast.forecast.forecaster import Forecaster
from statecast.report import Assessment, assess, write_report
from statecast.report.page import page

pytestmark = pytest.mark.usefixtures("few_trees")

SMALL: dict[str, Any] = {"units": 4, "ensemble": 2, "epochs": 2}

EVIL = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title='evil'\">"


def tables(rows: int, first: int, seed: int) -> list[pl.DataFrame]:
    """Items with names that a page must not run, and a static feature with such a name."""
    name = pl.format("{} $x_{}$ {}", pl.lit(EVIL), pl.col("unique_id") + first, pl.lit("&amp;"))
    series, static = curve_tables(rows, seed)
    return [
        series.with_columns(unique_id=name).rename({"y": f"y{EVIL}"}),
        static.with_columns(unique_id=name).rename({"group": EVIL}),
    ]


@pytest.fixture(scope="module")
def evil() -> Assessment:
    f = Forecaster(**SMALL, target_col=f"y{EVIL}").fit(*tables(72, 0, 0), verbose=0)
    series, static = tables(20, 100, 5)
    static = static.with_columns(pl.lit(f"new {EVIL}").alias(EVIL))
    return assess(f, series, static, known=[0, 2], verbose=0)


class Reader(HTMLParser):
    """Checks that elements are closed, and notes elements, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_of_the_user_is_an_element(evil: Assessment) -> None:
    found = Reader(page(evil, EVIL))
    assert not {"script", "img", "link", "iframe", "object"} & {*found.elements}
    assert [name for name, _ in found.attributes if name.startswith("on")] == []
    addresses = [v for name, v in found.attributes if name in ("src", "href", "xlink:href")]
    assert all(str(address).startswith("#") for address in addresses)
    assert EVIL in found.text  # it is written, as text
    assert "&amp;" in found.text


def test_it_has_all_that_belongs_in_it(evil: Assessment) -> None:
    text = " ".join(Reader(page(evil)).text.split())
    for words in (
        "Summary",
        "The 80 % intervals contain",
        "steps after the prefix",
        "nearest neighbours",
        "The worst",
        "The best",
        "Influence of the static features",
        "None of their ids is among those of the training items.",
        "fingerprint",
        evil.model.fingerprint,
        "steps 1 to 8",
        "a simple method: a linear regression",
    ):
        assert words in text, words
    assert "class='warning'" in page(evil)  # of the new category


def test_items_of_training_are_the_first_thing_that_it_says() -> None:
    f = Forecaster(**SMALL).fit(*curve_tables(72), verbose=0)
    found = assess(f, *curve_tables(72), known=[1], verbose=0)
    text = Reader(page(found)).text
    assert "The training items include 72 of the 72 items" in text
    assert text.index("72 of the 72 items") < text.index("median forecast")


def test_a_report_of_several_targets_and_few_items(tmp_path: Path) -> None:
    import numpy as np

    y = np.random.default_rng(0).normal(size=(40, 6, 2)).cumsum(axis=1) + 20
    f = Forecaster(**SMALL, target_col=["a", "b"]).fit(y[:30], verbose=0)
    for rows in (1, 3):
        found = assess(f, y[30 : 30 + rows], known=[0, 5], verbose=0)
        text = Reader(page(found)).text
        assert "Scores of a" in text
        assert "Scores of b" in text
        assert "no static features" in text
        assert text.count("1 items") == 0
        assert ("1 item with " in text) == (rows == 1)


def test_a_missing_extra_and_a_wrong_path(
    evil: Assessment, tmp_path: Path, monkeypatch: Any
) -> None:
    with pytest.raises(ArgumentError):
        write_report(evil, tmp_path / "nowhere" / "report.html")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"statecast\[plots\]"):
        write_report(evil, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rows, first in (("old", 72, 0), ("new", 20, 100)):
        series, static = curve_tables(rows, first)
        change = pl.col("unique_id") + first
        columns = {"unique_id": "plant", "ds": "week", "y": "height"}
        series.with_columns(change).rename(columns).write_csv(f"{name}.csv")
        static.with_columns(change).rename({"unique_id": "plant"}).write_csv(f"{name}-static.csv")
    fit = ["fit", "old.csv", "old-static.csv", *COLUMNS, *SMALL_OPTIONS, "--out", "m.safetensors"]
    assert run(*fit, "--quiet") == (0, "", "")
    ask = ["report", "m.safetensors", "new.csv", "new-static.csv", "--out", "report.html"]
    code, out, err = run(
        *ask, "--known", "0,3", "--until", "6", "--level", "50,90", "--title", "A & B"
    )
    assert (code, out) == (0, "")
    assert "Forecast from k = 3" in err
    assert err.splitlines()[-1] == "Wrote report.html."
    text = Path("report.html").read_text()
    assert "<h1>A &amp; B</h1>" in text
    assert "90 %" in Reader(text).text
    Path("report.html").unlink()
    assert run(*ask, "--quiet") == (0, "", "")
    assert Path("report.html").exists()
    assert "report.pdf" in refused(tmp_path, *ask[:-1], "report.pdf")
    assert "known" in refused(tmp_path, *ask[:-1], "other.html", "--known", "0,x")


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_in_a_browser_it_asks_for_nothing_and_runs_nothing(
    evil: Assessment, tmp_path: Path, dark: bool
) -> None:
    path = tmp_path / "report.html"
    write_report(evil, path, title="Growth")
    with browser() as driver:
        for width in (1100, 400):
            resize(driver, width, 900, dark=dark)
            driver.get(path.as_uri())
            assert driver.title == "Growth"
            asked = driver.execute_script("return performance.getEntriesByType('resource').length")
            assert asked == 0
            wide = driver.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width
            driver.save_screenshot(str(tmp_path / f"report-{width}.png"))
        assert driver.get_log("browser") == []
        charts = driver.execute_script(
            "return [...document.querySelectorAll('figure svg')].map((each) => "
            "[each.clientWidth, each.clientHeight, each.querySelectorAll('path').length])"
        )
        assert len(charts) >= 5
        assert all(min(chart) > 5 for chart in charts)
        seen = driver.execute_script(
            "const style = getComputedStyle(document.body);"
            "return [style.color, style.backgroundColor]"
        )
        light = [sum(map(int, re.findall(r"\d+", each)[:3])) for each in seen]
        assert (light[0] > light[1]) == dark
