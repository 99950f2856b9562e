"""The page in a browser: what a user does, and what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from typer.testing import CliRunner

import statecast.playground
from browser import resize, wait
from forecast_cases import CASES, STEPS
from statecast.cli.commands import app
from statecast.errors import ArgumentError, DataWarning, NotFittedError
from statecast.forecast.forecaster import Forecaster
from statecast.playground import write_page
from statecast.playground.description import described
from statecast.playground.page import page
from statecast.tables.dates import Calendar, Spacing
from statecast.tokens.forecaster import TokenForecaster

ASSETS = Path(statecast.playground.__file__).parent / "assets"
Y = [1.2, 1.5, 2.0]
OTHERS = ("ends", "poisson-analogues", "past")  # models beside the plain one


class Page:
    """A page that is open, as a user sees it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        self.open()

    def open(self, scene: Any = None) -> None:
        """Load the page, with a scene in its link."""
        self.driver.get("about:blank")
        link = "" if scene is None else f"#scene={quote(json.dumps(scene))}"
        self.driver.get(self.url + link)
        wait(self.driver, "return page !== null && page.charts[0].plot.status === 1")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing waits to be drawn."""
        wait(self.driver, "return !page.waits")
        self.run("return new Promise((done) => requestAnimationFrame(done))")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        ActionChains(self.driver, 0).send_keys(*keys).perform()
        self.settle()

    def click(self, selector: str) -> None:
        self.find(selector).click()
        self.settle()

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        field = self.find(selector)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(text or Keys.BACKSPACE)
        self.settle()

    def choose(self, selector: str, text: str) -> None:
        """Choose an entry of a menu."""
        Select(self.find(selector)).select_by_visible_text(text)
        self.settle()

    @property
    def y(self) -> list[Any]:
        return [row[0] for row in self.run("return page.scene.y")]

    @property
    def points(self) -> list[Any]:
        return self.all(".point")

    @property
    def focused(self) -> str | None:
        return self.driver.switch_to.active_element.get_attribute("aria-label")

    def table(self) -> dict[str, list[float]]:
        """The numbers of the table by step or date, as they are shown."""
        self.run("document.getElementById('table').open = true")
        wait(self.driver, "return document.querySelector('#table tbody') !== null")
        rows = self.run(
            "return [...document.querySelectorAll('#table tbody tr')].map("
            "(row) => [...row.children].map((cell) => cell.textContent))"
        )
        return {row[0]: [shown(cell) for cell in row[1:]] for row in rows}


def shown(cell: str) -> float:
    return float(cell.replace("−", "-").replace(",", ""))


def expected(f: Forecaster, y: list[Any], static: Any, until: int = STEPS) -> dict[str, Any]:
    """The forecast as a table of the page."""
    rows = [(0, step + 1, value) for step, value in enumerate(y) if value is not None]
    series = pl.DataFrame(rows, schema=["unique_id", "ds", "y"], orient="row") if rows else None
    table = pl.DataFrame([{"unique_id": 0, **static}])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # missing features, and steps beyond training
        found: Any = f.predict(series, table, until=until, level=[80, 95])
    columns = [f"statecast{each}" for each in ("", "-lo-80", "-hi-80", "-lo-95", "-hi-95")]
    return {str(row[0]): list(row[1:]) for row in found.select("ds", *columns).iter_rows()}


def check(page: Page, f: Forecaster, static: Any, until: int = STEPS) -> None:
    """The table is the forecast of ``predict`` to the digits that it shows."""
    found, wanted = page.table(), expected(f, page.y, static, until)
    assert list(found) == list(wanted)
    for step, numbers in found.items():
        np.testing.assert_allclose(numbers, wanted[step], atol=0.006, rtol=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Forecaster, str]]:
    """A function: the forecaster of a case, and the address of its page."""
    done: dict[str, tuple[Forecaster, str]] = {}

    def of(name: str) -> tuple[Forecaster, str]:
        if name not in done:
            path = tmp_path_factory.mktemp("page") / "page.html"
            f = CASES[name].fit()
            write_page(f, path)
            done[name] = f, path.as_uri()
        return done[name]

    return of


@pytest.fixture
def clean(chromium: Chrome) -> Iterator[Chrome]:
    """The browser, at the size of a desk, in which no page may write an error to the console."""
    resize(chromium, 1280, 900)
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    assert [each for each in chromium.get_log("browser") if each["level"] == "SEVERE"] == []


@pytest.fixture
def plain(made: Any, clean: Chrome) -> tuple[Forecaster, Page]:
    f, url = made("plain")
    return f, Page(clean, url)


def usual(page: Page) -> Any:
    return page.run("return page.scene.sides[0].static")


# -- forecasts --------------------------------------------------------------------------


def test_at_k_0_the_page_has_the_forecast_of_the_features(plain: Any) -> None:
    f, page = plain
    assert page.y == []
    check(page, f, usual(page))
    assert page.find("#state-title").text == "State before the first step"


def test_a_point_is_dragged_and_the_forecast_follows(plain: Any) -> None:
    f, page = plain
    page.open({"y": Y})
    page.run(
        "window.drawn = []; const draw = page.draw; page.draw = function () { draw.call(this);"
        "drawn.push([this.scene.y[1][0], this.forecasts[0].quantiles[0].at(-1), this.took]); }"
    )
    chain = ActionChains(page.driver, 50).click_and_hold(page.points[1])
    chain.move_by_offset(0, -40).pause(0.1).move_by_offset(30, 60).pause(0.1)
    chain.move_by_offset(20, 60).release().perform()
    page.settle()
    drawn = np.array(page.run("return drawn"))
    assert drawn[:, 0].max() > Y[1] > drawn[-1, 0]
    assert page.y == [Y[0], drawn[-1, 0], Y[2]]
    assert len({*drawn[:, 1]}) >= 3
    check(page, f, usual(page))


def test_points_are_added_and_removed_on_the_chart(plain: Any) -> None:
    f, page = plain
    over = page.find(".u-over")

    def click(step: int, share: float) -> None:
        left = page.run("return page.charts[0].plot.valToPos(arguments[0], 'x')", step)
        width, height = over.size["width"], over.size["height"]
        x, y = round(left - width / 2), round(height * (share - 0.5))
        ActionChains(page.driver, 0).move_to_element_with_offset(over, x, y).click().perform()
        page.settle()

    click(2, 0.5)  # step 1 is missing
    assert page.y[0] is None
    assert page.y[1] is not None
    assert len(page.points) == 1
    check(page, f, usual(page))
    click(1, 0.4)
    first = page.y[0]
    click(1, 0.6)  # the point of this step is moved
    assert page.y[0] < first
    assert len(page.points) == 2
    check(page, f, usual(page))
    ActionChains(page.driver, 0).double_click(page.points[1]).perform()
    page.settle()
    assert len(page.y) == 1
    page.click("#clear")
    assert page.y == []
    check(page, f, usual(page))


def test_the_keyboard_does_what_the_mouse_does(plain: Any) -> None:
    f, page = plain
    page.open({"y": Y})
    page.press(Keys.TAB)
    assert page.focused == "y at step 3"
    page.press(Keys.ARROW_LEFT)
    assert page.focused == "y at step 2"
    page.press(Keys.ARROW_UP)
    assert page.y[1] > Y[1]
    page.press(Keys.ARROW_DOWN, Keys.SHIFT, Keys.ARROW_DOWN)
    assert page.y[1] < Y[1]
    now = page.driver.switch_to.active_element
    assert float(now.get_attribute("aria-valuenow")) == page.y[1]
    check(page, f, usual(page))
    page.press(Keys.DELETE)
    assert page.y[1] is None
    assert page.focused == "y at step 1"
    check(page, f, usual(page))
    # All controls are reached by Tab, and typing into them changes the forecast.
    reached: set[str] = set()
    for _ in range(40):
        page.press(Keys.TAB)
        element = page.driver.switch_to.active_element
        name = element.get_attribute("id") or element.get_attribute("aria-label") or element.text
        if name in reached:
            break
        reached.add(name)
        if name == "static-level":
            page.press(Keys.CONTROL, "a")
            page.press("-0.75")
        if name == "level, slider":
            page.press(Keys.HOME)
            assert usual(page)["level"] < -1
        if name == "static-group":
            page.press("c")
    assert {
        "static-level",
        "static-group",
        "until",
        "show-paths",
        "show-alike",
        "fork",
        "share",
    } <= (reached)
    assert usual(page)["group"] == "c"
    check(page, f, usual(page))


def test_numbers_are_typed(plain: Any) -> None:
    f, page = plain
    page.click("#add")
    page.click("#add")
    assert len(page.y) == 2
    page.type("#points input[data-step='1']", "2.5")
    assert page.y[1] == 2.5
    check(page, f, usual(page))
    page.click("#points button[aria-label='Remove step 2']")
    assert len(page.y) == 1
    page.type("#until", "9")
    check(page, f, usual(page), 9)
    assert "beyond the longest training item" in page.find("#fault").text
    page.type("#until", "")
    assert page.find("#until").get_attribute("aria-invalid") == "true"
    page.type("#until", "5")
    assert not page.find("#fault").is_displayed()
    check(page, f, usual(page), 5)


def test_features_may_be_missing_or_new(plain: Any) -> None:
    f, page = plain
    page.open({"y": Y})
    page.click("input[aria-label='level is missing']")
    check(page, f, usual(page) | {"level": None})
    page.click("input[aria-label='level is missing']")
    for text, value in (("missing", None), ("another one", "(new)"), ("b", "b")):
        page.choose("#static-group", text)
        assert usual(page)["group"] == value
        check(page, f, usual(page))


def test_a_forecast_beside_another(plain: Any) -> None:
    f, page = plain
    page.open({"y": Y})
    alone, static = page.table(), usual(page)
    page.click("#fork")
    assert [each.text for each in page.all("#sides button")] == ["A", "B"]
    page.choose("#static-group", "c")
    both = page.table()
    assert {step: row[:5] for step, row in both.items()} == alone
    assert static["group"] != "c"
    wanted = expected(f, Y, static | {"group": "c"})
    for step, row in both.items():
        np.testing.assert_allclose(row[5:], wanted[step], atol=0.006, rtol=0)
    said = wait(page.driver, "const said = document.getElementById('said').textContent;"
        "return said.includes('B, ') && said")  # fmt: skip
    assert said.startswith("A, step 7: median ")
    page.click("#sides button:first-child")
    assert page.find("#static-group").get_attribute("value") == "0"
    page.click("#fork")
    assert page.table() == alone


# -- what else is shown -----------------------------------------------------------------


def test_paths_and_items_that_began_alike(plain: Any) -> None:
    _, page = plain
    page.open({"y": Y})

    def lines(name: str) -> int:
        return page.run(
            "const { plot, places } = page.charts[0];"
            "return plot.data.slice(places[arguments[0]], places[arguments[0]] + 12)"
            ".filter((each, i) => i < arguments[1] && each.some((value) => value !== null)).length",
            *(name, 12 if name == "alike" else 6),
        )

    assert lines("alike") == 12
    assert "began alike: " in page.find("#key").text
    page.click("#show-alike")
    assert lines("alike") == 0
    assert lines("a-paths") == 0
    page.click("#show-paths")
    assert lines("a-paths") == 6


def test_the_state_is_shown_for_the_step_under_the_pointer(plain: Any) -> None:
    _, page = plain
    page.open({"y": Y})
    assert page.find("#state-title").text == "State after step 3"
    names = [each.get_attribute("aria-label") for each in page.all("#strips canvas")]
    assert re.fullmatch(r"h: 2 members × 4 units, −?[\d.]+ to −?[\d.]+", names[0])
    assert names[1].startswith("c: 2 members")
    over, title = page.find(".u-over"), "document.getElementById('state-title')"
    ActionChains(page.driver, 0).move_to_element(over).perform()
    wait(page.driver, f"return {title}.textContent.includes('step 4')")
    assert page.find("#readout").text.startswith("Step 4: median ")
    ActionChains(page.driver, 0).move_to_element(page.find("#title")).perform()
    wait(page.driver, f"return {title}.textContent.includes('step 3')")


def test_a_link_holds_the_scene(plain: Any) -> None:
    _, page = plain
    page.open({"y": [*Y, None, 1.0], "until": 6, "paths": True, "alike": False})
    page.click("#fork")
    page.choose("#static-group", "b")
    link = wait(page.driver, "return location.hash.includes('%22b%22') && location.href")
    before, scene = page.table(), page.run("return page.scene")
    page.driver.get("about:blank")
    page.driver.get(link)
    wait(page.driver, "return page !== null")
    page.settle()
    assert page.run("return page.scene") == scene
    assert page.table() == before
    assert not page.find("#fault").is_displayed()


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("#scene=%7B", "all of it"),
        ("#scene=%E0", "all of it"),
        ('#scene={"y": ["a"]}', "y"),
        ('#scene={"y": [[1e999]]}', "y"),
        ('#scene={"until": -1}', "until"),
        ('#scene={"sides": [{"static": {"level": "high"}}]}', "static"),
        ('#scene={"sides": [{"static": {"group": "constructor"}}]}', "static"),
        ('#scene={"sides": 3, "y": {"0": 1}, "past": "x"}', None),
        ("#scene=null", None),
        ("#other", None),
    ],
)
def test_a_link_may_hold_anything(link: str, why: str | None, plain: Any) -> None:
    f, page = plain
    page.driver.get("about:blank")
    page.driver.get(page.url + quote(link, safe="#=%"))
    wait(page.driver, "return page !== null")
    page.settle()
    fault = page.find("#fault")
    assert fault.is_displayed() == (why is not None)
    if why is not None:
        assert f"cannot take: {why}." in fault.text
    check(page, f, usual(page))


@pytest.mark.parametrize(
    "name",
    ["targets-covariates", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)],
)
def test_pages_of_other_models(name: str, made: Any, clean: Chrome) -> None:
    f, url = made(name)
    page, targets = Page(clean, url), len(f.schema.targets)
    page.click("#show-paths")
    for _ in range(3):
        page.click("#add")
    assert len(page.points) == 3 * targets
    assert len(page.all(".chart")) == targets
    before = page.table()
    for covariates in ("future", "past"):
        details = page.find(f"#{covariates}")
        there = bool(getattr(f.schema, covariates).kinds)
        assert details.is_displayed() == there
        if not there:
            continue
        page.click(f"#{covariates} summary")
        rows = {"future": STEPS, "past": 3}[covariates]
        assert len(page.all(f"#{covariates} tbody tr")) == rows
        page.type(f"#{covariates} tr:last-child input", "5")
        assert page.table() != before
    if name == "ends":  # some paths end before the last step
        last = page.run("return page.paths[0][0].map((each) => Number.isNaN(each.at(-1)))")
        assert True in last
        assert False in last
    if name == "poisson-analogues":
        assert all(value == round(value) for value in page.y)


def test_steps_have_dates_and_closed_days_have_no_forecast(made: Any, clean: Chrome) -> None:
    f, url = made("past-closed-days")
    page = Page(clean, url)
    static = usual(page)
    first, y, visits = date(2024, 1, 4), [1.0, 1.4], [2.0, 3.0]  # Thursday and Friday
    assert len(page.table()) == STEPS  # without a date all steps have a forecast
    scene = {"y": y, "past": [{"visits": each} for each in visits], "until": STEPS + 2}
    page.open(scene | {"begin": first.isoformat()})
    days = [first + timedelta(days=1) * step for step in range(2)]
    series = pl.DataFrame({"unique_id": 0, "ds": days, "y": y, "visits": visits})
    with pytest.warns(DataWarning, match="beyond the longest training item"):
        found: Any = f.predict(
            series, pl.DataFrame([{"unique_id": 0, **static}]), until=STEPS + 2, level=[80, 95]
        )
    table = page.table()
    assert list(table) == [each.isoformat() for each in found["ds"]]
    assert len(table) == STEPS - 2  # without a weekend
    medians = [row[0] for row in table.values()]
    np.testing.assert_allclose(medians, found["statecast"], atol=0.006)
    assert page.find("#points th").text == "2024-01-04"
    page.run("page.look(2)")
    assert page.find("#readout").text == "2024-01-06: closed."
    for key in "01082024":  # a Monday; the page is drawn between two keys
        page.find("#begin").send_keys(key)
        page.settle()
    assert page.run("return page.scene.begin") == "2024-01-08"
    assert len(page.all("#table tbody tr")) == STEPS - 2
    page.open({"begin": "soon"})
    assert "cannot take: begin." in page.find("#fault").text


def test_dates_are_those_of_a_spacing(made: Any, clean: Chrome) -> None:
    """The dates of steps and whether they are closed, for spacings of every kind."""
    _, url = made("plain")
    page = Page(clean, url)
    rng = np.random.default_rng(0)
    for unit, count, day, clock, zone in (
        ("microseconds", 86_400_000_000, None, "none", None),
        ("microseconds", 3_600_000_000, None, "absolute", "Europe/Berlin"),
        ("microseconds", 7 * 86_400_000_000, None, "wall", "Europe/Berlin"),
        ("months", 1, None, "none", None),
        ("months", 1, 31, "none", None),
        ("months", 3, 30, "wall", "America/New_York"),
        ("months", 12, 29, "none", None),
    ):
        spacing, zoned = Spacing(unit, count, day, clock), zone if clock == "absolute" else None
        calendar = Calendar((6,), (3, 4), (24 * 2 + 9,), (7,))
        about = {"dates": spacing.to_config(), "closed": calendar.to_config(), "zone": zoned}
        for _ in range(5):
            minutes = 60 if clock == "absolute" else 1440
            begin = np.datetime64("2019-12-25T00", "us")
            begin = begin + rng.integers(0, 900) * np.timedelta64(minutes, "m")
            if day is not None:
                begin = begin.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
                begin = begin.astype("datetime64[us]")
            places = spacing.dates(np.full(60, begin), np.arange(1, 61))
            closed = calendar.closed(spacing.clock_of(places, zone))
            found = page.run(
                "const dates = new Dates(arguments[0]); const begin = dates.read(arguments[1]);"
                "const all = Array.from({ length: 60 }, (_, step) => dates.at(begin, step));"
                "return all.map((date) => [dates.write(date), dates.closed(date)]);",
                *(about, str(begin)),
            )
            assert [each[0] for each in found] == [str(each)[: len(found[0][0])] for each in places]
            assert [each[1] for each in found] == closed.tolist()


# -- everyone ---------------------------------------------------------------------------


def test_the_page_fits_a_phone(plain: Any) -> None:
    f, page = plain
    resize(page.driver, 360, 740)
    page.open({"y": Y})
    page.click("#fork")
    assert page.run("return document.documentElement.scrollWidth") == 360
    over = page.find(".u-over")
    assert over.size["width"] > 250
    for element in page.all("button, select, input[type=number], .point"):
        if element.is_displayed():
            assert element.size["height"] >= 32, element.get_attribute("outerHTML")
    # The chart stays in view while the features change.
    page.run("document.getElementById('fork').scrollIntoView({ block: 'end' })")
    box = page.run("return document.getElementById('charts').getBoundingClientRect().toJSON()")
    assert box["top"] >= 0
    assert box["bottom"] < 400
    page.click("#fork")
    check(page, f, usual(page))
    # A finger drags a point.
    page.run("scrollTo(0, 0)")
    point = page.points[2].rect
    x, y = (point[a] + point[b] / 2 for a, b in (("x", "width"), ("y", "height")))
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, move in (("touchStart", 0), ("touchMove", -20), ("touchMove", -40), ("touchEnd", 0)):
        touch = [] if kind == "touchEnd" else [{"x": x, "y": y + move}]
        page.driver.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": touch}
        )
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    page.settle()
    assert page.y[2] > Y[2]
    check(page, f, usual(page))


@pytest.mark.parametrize("name", ["plain", "targets-covariates"])
def test_every_control_has_a_name(name: str, made: Any, clean: Chrome) -> None:
    _, url = made(name)
    page = Page(clean, url)
    page.click("#add")
    page.click("#fork")
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.settle()
    tree = clean.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = {"button", "slider", "spinbutton", "combobox", "checkbox", "textbox", "image"}
    found = [each for each in tree if each.get("role", {}).get("value") in controls]
    assert len(found) > 15
    assert [each for each in found if not each.get("name", {}).get("value")] == []
    assert page.find("html").get_attribute("lang") == "en"


def test_the_forecast_is_said(plain: Any) -> None:
    _, page = plain
    page.open({"y": Y})
    said = wait(page.driver, "return document.getElementById('said').textContent")
    median, low, high = page.table()["7"][:3]
    numbers = [shown(each) for each in re.findall(r"−?\d+\.\d+", said)]
    np.testing.assert_allclose(numbers, [median, low, high], atol=0.051)
    assert page.find("#said").get_attribute("aria-live") == "polite"
    assert page.find(".chart").get_attribute("aria-label").startswith("Chart of y.")


def test_colours_have_contrast() -> None:
    """At least 4.5 to 1 for texts and 3 to 1 for lines, in both schemes (WCAG 2.2)."""

    def light(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted([light(one), light(other)])
        return (high + 0.05) / (low + 0.05)

    text = (ASSETS / "page.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", text, re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for back in ("back", "sheet"):
            for name in ("text", "quiet", "a", "b", "fault"):
                assert contrast(colours[name], colours[back]) >= 4.5, (name, back)
        assert contrast(colours["a"], colours["back"]) >= 3
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_dark_colours(plain: Any) -> None:
    _, page = plain
    back = "return getComputedStyle(document.body).backgroundColor"
    bright = page.run(back)
    resize(page.driver, 1280, 900, dark=True)
    wait(page.driver, f"{back} !== arguments[0]", bright)


# -- the file ---------------------------------------------------------------------------


def test_the_file_asks_for_nothing(made: Any, chromium: Chrome) -> None:
    f, url = made("plain")
    resize(chromium, 1280, 900)
    page = Page(chromium, url)
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    chromium.get_log("browser")
    asked = "return fetch(arguments[0]).then(() => 'there', (error) => error.name)"
    for address in ("http://127.0.0.1:9/", "https://example.com/", "data:text/plain,a"):
        assert page.run(asked, address) == "TypeError"
    refused = [each["message"] for each in chromium.get_log("browser")]
    assert len(refused) >= 3
    assert all("Content Security Policy" in each for each in refused[:3])
    text = page.run("return document.documentElement.outerHTML")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|@import|url\(""", text)
    assert page.run("return page.model.fingerprint") == f.fingerprint


def test_names_are_texts(made: Any, clean: Chrome, tmp_path: Path) -> None:
    """Names of columns and categories, and ids, are shown as they are."""
    f, _ = made("plain")
    model = described(f)
    bad = "</script><script>page = 'taken'</script><b>{script}"
    model["static"]["numeric"][0]["name"] = bad
    model["static"]["categorical"][0]["codes"] = {bad: 2, "__proto__": 3, "constructor": 4}
    model["targets"][0]["name"] = bad
    model["items"] = [bad for _ in model["items"]]
    path = tmp_path / "page.html"
    path.write_text(page(model), encoding="utf-8")
    opened = Page(clean, path.as_uri())
    assert opened.find("#title").text == f"Forecasts of {bad}"
    texts = [each.text for each in opened.all("#features option")]
    assert texts == [bad, "__proto__", "constructor", "another one", "missing"]
    assert opened.all("b") == []
    assert bad in opened.find("#key").text


def test_what_is_refused(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, _ = made("plain")
    path = tmp_path / "page.html"
    with pytest.raises(ArgumentError, match="received a TokenForecaster, whose sequences have no"):
        write_page(TokenForecaster(), path)
    with pytest.raises(ArgumentError, match="model: expected a Forecaster; received a str"):
        write_page("model.safetensors", path)
    with pytest.raises(NotFittedError):
        write_page(Forecaster(), path)
    with pytest.raises(ArgumentError, match="cannot be written"):
        write_page(f, tmp_path / "none" / "page.html")
    monkeypatch.setattr("statecast.playground.description.MOST_BYTES", 2**10)
    with pytest.raises(ArgumentError, match=r"expected at most 0 MiB.*analogues=False"):
        write_page(f, path)
    assert not path.exists()


def test_the_command(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f, url = made("plain")
    monkeypatch.chdir(tmp_path)
    f.save("model.safetensors")
    done = CliRunner().invoke(app, ["playground", "model.safetensors", "--out", "page.html"])
    assert done.exit_code == 0, done.output
    written = Path("page.html").read_text(encoding="utf-8")
    assert written == Path(url.removeprefix("file://")).read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["playground", "model.safetensors", "--out", "none/page.html"])
    assert done.exit_code == 2


@pytest.mark.slow
def test_the_pictures_of_the_documentation_can_be_made_again(clean: Chrome, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "playground_pictures.py"
    command = [sys.executable, str(script), "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = script.parents[1] / "docs" / "how_to"
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in folder.glob("playground*.png")}
