"""The page of a server: items of its store, and their forecasts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

import streams
from browser import resize, wait
from served import Client, served
from statecast.sessions import Sessions
from streams import Stream

TOKEN = "a-token-of-this-test"
LEVELS = (0.5, 0.1, 0.9, 0.025, 0.975)  # of the columns of the page's table
pytestmark = pytest.mark.filterwarnings("ignore:(Static|Future) columns")


@pytest.fixture
def clean(chromium: Chrome) -> Iterator[Chrome]:
    resize(chromium, 1280, 900)
    chromium.get("about:blank")
    chromium.get_log("browser")
    yield chromium
    chromium.get("about:blank")  # so that this page asks no server that has ended
    faults = [each["message"] for each in chromium.get_log("browser") if each["level"] == "SEVERE"]
    # The browser itself writes each answer with a problem to the console.
    assert [each for each in faults if "Failed to load resource" not in each] == []


def find(driver: Chrome, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def show(driver: Chrome, item: str) -> None:
    field = find(driver, "#item")
    driver.execute_script("arguments[0].value = ''", field)
    field.send_keys(item)
    find(driver, "#live button").click()
    wait(
        driver,
        "const { live } = page; return live.item === arguments[0] && live.tag !== null",
        item,
    )
    wait(driver, "return !page.waits")


def check(driver: Chrome, client: Client, item: str, targets: int = 1) -> None:
    """The table of the page has the server's numbers, to the digits that it shows."""
    driver.execute_script("document.getElementById('table').open = true")
    wait(driver, "return document.querySelector('#table tbody') !== null")
    shown = driver.execute_script(
        "return [...document.querySelectorAll('#table tbody tr')].map((row) =>"
        "[...row.children].map((cell) => cell.textContent))"
    )
    first, until = (driver.execute_script(f"return page.{name}") for name in (
        "model.steps.first", "scene.until"))  # fmt: skip
    levels = ",".join(map(str, LEVELS))
    path = f"/forecast?until={until + first - 1}&quantiles={levels}"
    forecast = client.item("GET", item, path).json["forecast"]
    rows = {str(each["ds"])[:10]: each for each in forecast}
    assert shown
    assert {row[0] for row in shown} == {*rows}
    for row in shown:
        own, cells = rows[row[0]], row[1:]
        assert len(cells) == targets * len(LEVELS)
        for i, cell in enumerate(cells):
            title = "statecast" if targets == 1 else f"statecast-{['y', 'z'][i // len(LEVELS)]}"
            digits = len(cell.partition(".")[2])
            value = own[f"{title}-q-{LEVELS[i % len(LEVELS)]}"]
            assert cell.replace("−", "-").replace(",", "") == f"{value:.{digits}f}"


OTHERS = ("several", "covariates", "dated")


@pytest.mark.parametrize(
    "kind", ["plain", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
)
def test_items_of_the_store_are_shown_and_followed(
    kind: str, clean: Chrome, tmp_path: Path
) -> None:
    f = getattr(streams, kind)()
    with Sessions(f, tmp_path / "items.db") as sessions, served(sessions) as client:
        stream = Stream(f, 3)
        for number in (2, 1, 3):  # the first ones come late
            stream.observe(sessions, "A/b ?", number)
        stream.observe(sessions, "other", 1)
        if f.schema.future.kinds:  # the rest of the plan
            for number in range(4, f.schema.steps + 1):
                plan = {"promo": 0.5, "season": "a"}
                sessions.observe("A/b ?", stream.step(number), future=plan)
        clean.get(f"http://localhost:{client.port}/")
        wait(
            clean, "return page !== null && document.querySelectorAll('#items option').length === 2"
        )
        show(clean, "A/b ?")
        known = stream.items["A/b ?"]
        rows = [known.rows.get(step, [None]) for step in (1, 2, 3)]
        expected = [[None if v != v else v for v in row] for row in rows]
        while expected and all(each is None for each in expected[-1]):
            expected.pop()
        assert clean.execute_script("return page.scene.y") == expected
        check(clean, client, "A/b ?", len(f.schema.targets))
        # The page's own engine has the same forecast.
        ours = clean.execute_script(
            "const own = page.live.item; page.live.item = null; page.compute();"
            "const found = page.forecasts[0].quantiles.map((each) => Array.from(each));"
            "page.live.item = own; page.compute();"
            "return [found, page.forecasts[0].quantiles.map((each) => Array.from(each))]"
        )
        page, server = (np.array(each, float) for each in ours)
        np.testing.assert_allclose(page, server, rtol=1e-5, atol=1e-4)
        # A change of the item appears by itself.
        before = len(clean.execute_script("return page.scene.y"))
        values: Any = [52.0, 100.0] if len(f.schema.targets) > 1 else 52.0
        past: dict[str, Any] = {"past": {"visits": 0.5}} if f.schema.past.kinds else {}
        if kind != "covariates":
            sessions.observe("A/b ?", stream.step(5), values)
            wait(clean, "return page.scene.y.length === 5 && !page.waits")
            assert before < 5
            check(clean, client, "A/b ?", len(f.schema.targets))
        # Another forecast beside it keeps its features, and the item is followed.
        clean.execute_script("document.getElementById('fork').click()")
        wait(clean, "return page.scene.sides.length === 2 && !page.waits")
        if f.schema.static.kinds:
            clean.execute_script(
                "const menu = document.getElementById('static-group'); menu.value = '1';"
                "menu.dispatchEvent(new Event('change'))"
            )
            sessions.observe("A/b ?", stream.step(1), values, **past)
            wait(clean, "return page.scene.y[0][0] === 52 && !page.waits")
            assert clean.execute_script("return page.scene.sides[1].static.group") == "b"
        clean.execute_script("document.getElementById('fork').click()")
        wait(clean, "return page.scene.sides.length === 1 && !page.waits")
        # A change on the page is no longer the item of the server.
        clean.execute_script("document.getElementById('add').click()")
        wait(clean, "return page.live.item === null && !page.waits")
        assert "no longer" in find(clean, "#version").text
        # The link of an item shows it.
        show(clean, "other")
        lacks = "The server has no forecast." in find(clean, "#version").text
        assert lacks == (kind == "covariates")  # it has no plan
        link = wait(clean, "return location.hash === '#item=other' && location.href")
        clean.get("about:blank")
        clean.get(link)
        wait(clean, "return page !== null && page.live !== null && page.live.item === 'other'")


def test_the_page_asks_for_the_token(clean: Chrome, tmp_path: Path) -> None:
    f = streams.plain()
    with (
        Sessions(f, tmp_path / "items.db") as sessions,
        served(sessions, token=TOKEN) as client,
    ):
        sessions.observe("Ada", 1, 50.0, static={"level": 0.5, "group": "a"})
        stranger = Client(client.port)
        shell = stranger.ask("GET", "/")
        assert shell.status == 200
        assert shell.headers["content-type"] == "text/html; charset=utf-8"
        assert shell.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert b'id="model"' not in shell.data
        for path in ("/v1/playground", "/v1/items", "/v1/items/Ada"):
            assert stranger.ask("GET", path).status == 401
        clean.get(f"http://localhost:{client.port}/")
        wait(clean, "return !document.getElementById('gate').hidden")
        for text in ("another-token-of-a-test", TOKEN):
            assert clean.execute_script("return page") is None
            wait(clean, "return document.activeElement.id === 'token'")
            find(clean, "#token").send_keys(text)
            find(clean, "#gate button").click()
            if text != TOKEN:
                wait(clean, "return !document.getElementById('fault').hidden")
                assert find(clean, "#fault").text == "The server has another token."
        wait(clean, "return page !== null")
        assert not find(clean, "#gate").is_displayed()
        show(clean, "Ada")
        check(clean, client, "Ada")


def test_what_the_server_refuses_is_shown(clean: Chrome, tmp_path: Path) -> None:
    f = streams.plain()
    with Sessions(f, tmp_path / "items.db") as sessions, served(sessions) as client:
        clean.get(f"http://localhost:{client.port}/")
        wait(clean, "return page !== null")
        field = find(clean, "#item")
        field.send_keys("nobody")
        find(clean, "#live button").click()
        wait(clean, "return !document.getElementById('fault').hidden")
        assert "expected an item that was observed" in find(clean, "#fault").text
    # The server has stopped.
    clean.execute_script("page.live.item = 'nobody'")
    wait(clean, "return document.getElementById('fault').textContent.startsWith('The server does')")


def test_items_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("statecast.server.application"), "_IDS", 2)
    f = streams.plain()
    with Sessions(f, tmp_path / "items.db") as sessions, served(sessions) as client:
        assert client.ask("GET", "/v1/items").json == {"items": []}
        for item in ("c", "a", "e", "b", "d"):
            sessions.observe(item, 1, 50.0, static={"level": 0.5, "group": "a"})
        sessions.observe(7, 1, 50.0, static={"level": 0.5, "group": "a"})  # not reachable over HTTP
        found: list[str] = []
        for _ in range(4):
            after = f"?after={found[-1]}" if found else ""
            part = client.ask("GET", f"/v1/items{after}").json["items"]
            assert len(part) <= 2
            found += part
        assert found == ["a", "b", "c", "d", "e"]
        assert [*sessions.items(after="c")] == ["d", "e"]
        assert client.ask("GET", "/v1/items?before=a").status == 422


def test_an_item_is_what_is_in_effect(tmp_path: Path) -> None:
    f = streams.plain()
    with Sessions(f, tmp_path / "items.db") as sessions, served(sessions) as client:
        sessions.observe("Ada", 2, 51.0, static={"level": 0.5, "group": "a"})
        sessions.observe("Ada", 1, 49.0)
        sessions.observe("Ada", 2, 50.5)
        found = client.item("GET", "Ada")
        assert found.json == {
            "item": "Ada",
            "series": [{"ds": 1, "y": 49.0}, {"ds": 2, "y": 50.5}],
            "static": [{"level": 0.5, "group": "a"}],
            "future": [],
        }
        tag = found.headers["etag"]
        assert client.item("GET", "Ada", If_None_Match=tag).status == 304
        sessions.observe("Ada", 3, 52.0)
        assert client.item("GET", "Ada", If_None_Match=tag).status == 200
        assert client.item("GET", "Bea").status == 404
        sessions.set_state("Ada", sessions.state("Ada"))
        assert client.item("GET", "Ada").status == 422  # the observations before it are not known


def test_what_is_shown_is_followed_after_an_answer_of_404(clean: Chrome, tmp_path: Path) -> None:
    f, x = streams.plain(), {"level": 0.5, "group": "a"}
    with Sessions(f, tmp_path / "items.db") as sessions, served(sessions) as client:
        sessions.observe("keep", 1, 50.0, static=x)
        clean.get(f"http://localhost:{client.port}/")
        wait(clean, "return page !== null")
        show(clean, "keep")
        field = find(clean, "#item")
        field.clear()
        field.send_keys("nobody")
        # The button is pressed while the server is asked whether the item has changed.
        clean.execute_script("page.live.again(); document.querySelector('#live button').click()")
        wait(clean, "return !document.getElementById('fault').hidden")
        sessions.observe("keep", 2, 51.0)
        wait(clean, "return page.scene.y.length === 2 && !page.waits")
        assert "nobody" in find(clean, "#fault").text  # it is still to be read
        # An item that is deleted and made again is shown again.
        sessions.delete("keep")
        wait(clean, "return document.getElementById('fault').textContent.includes('keep')")
        sessions.observe("keep", 1, 45.0, static=x)
        wait(clean, "return page.scene.y.length === 1 && page.scene.y[0][0] === 45")
