"""A fan chart of Plotly has the content of that of matplotlib, and its file needs no network."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from browser import browser, resize, wait
from statecast.errors import ArgumentError, MissingExtraError
from statecast.plots import fan
from statecast.plots.charts import fan as of_tables
from statecast.plots.fans import Fan

pytest.importorskip("plotly")


def tables(ids: list[str], *, known: int = 3) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A forecast and a series of 8 steps."""
    step = np.arange(1, 9)
    rest = step[known:]
    forecast = [
        pl.DataFrame(
            {
                "unique_id": item,
                "ds": rest,
                "statecast": rest + 10.0 * row,
                "statecast-lo-80": rest + 10.0 * row - 1,
                "statecast-hi-80": rest + 10.0 * row + 2,
                "statecast-lo-95": rest + 10.0 * row - 3,
                "statecast-hi-95": rest + 10.0 * row + 4,
            }
        )
        for row, item in enumerate(ids)
    ]
    series = [
        pl.DataFrame({"unique_id": item, "ds": step, "y": step + 10.0 * row})
        for row, item in enumerate(ids)
    ]
    return pl.concat(forecast), pl.concat(series)


def numbers(values: Any) -> list[Any]:
    """The values of a trace; Plotly may keep arrays as base64."""
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return list(np.asarray(values).tolist())


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("dated", [False, True])
def test_it_has_the_content_of_the_static_one(
    known: int, dated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tables(["a", "b"], known=known)
    if dated:
        day = pl.date(2020, 1, 1).dt.offset_by((pl.col("ds") - 1).cast(pl.String) + "d")
        given = given[0].with_columns(ds=day), given[1].with_columns(ds=day)
    drawn: list[Fan] = []
    monkeypatch.setattr(
        "statecast.plots.charts.draw_fans", lambda fans, *_, **__: drawn.extend(fans)
    )
    of_tables(*given)
    figure = fan(*given, interactive=True, target_label="cm")
    for place, one in enumerate(drawn, 1):
        axis = "" if place == 1 else str(place)
        own = [trace for trace in figure.data if trace.xaxis == f"x{axis}"]
        found: dict[str, list[Any]] = {}
        for trace in own:
            found.setdefault(trace.legendgroup, []).append(trace)
        (median,) = found["median"]
        assert numbers(median.y) == one.median.tolist()
        assert [str(x) for x in median.x] == [str(x) for x in one.steps]
        for level, (low, high) in one.intervals.items():
            lower, upper = found[f"{level:g} %"]
            assert (numbers(lower.y), numbers(upper.y)) == (low.tolist(), high.tolist())
            assert upper.fill == "tonexty"
        for name, points in (("known", one.known), ("truth", one.truth)):
            assert (name in found) == bool(len(points[0]))
            if name in found:
                assert numbers(found[name][0].y) == points[1].tolist()
        assert ("prefix ends" in found) == (one.ends is not None)
        if one.ends is not None:
            assert [str(x) for x in found["prefix ends"][0].x] == [str(one.ends)] * 2
    named = [trace for trace in figure.data if trace.showlegend]
    named.sort(key=lambda trace: trace.legendrank)
    wanted = ["known", "truth", "median", "80 %", "95 %", "prefix ends"]
    skipped = set() if known else {"known", "prefix ends"} if dated else {"known"}
    assert [trace.name for trace in named] == [name for name in wanted if name not in skipped]
    assert figure.layout.yaxis.title.text == "cm"
    assert [note.text for note in figure.layout.annotations] == ["<b>a</b>", "<b>b</b>"]


def test_other_values_and_a_missing_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match="interactive"):
        of_tables(*tables(["a"]), interactive="yes")  # type: ignore[call-overload]
    monkeypatch.setitem(sys.modules, "plotly.subplots", None)
    with pytest.raises(MissingExtraError, match=r"statecast\[interactive\]"):
        fan(*tables(["a"]), interactive=True)


EVIL = '<script>document.title = "evil"</script><img src=x onerror="document.title=\'evil\'">'


@pytest.mark.slow
def test_the_file_works_alone_and_runs_nothing_of_an_id(tmp_path: Path) -> None:
    path = tmp_path / "fan.html"
    figure = fan(*tables([EVIL, "b", "$x$"]), interactive=True, target_label=EVIL)
    figure.write_html(path)
    assert path.stat().st_size < 6e6
    with browser() as driver:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
            "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0,
        })  # fmt: skip
        resize(driver, 1200, 500)
        driver.get(path.as_uri())
        wait(driver, "return document.querySelectorAll('.scatterlayer .trace').length > 15")
        asked = driver.execute_script(
            "return performance.getEntriesByType('resource').map((each) => each.name)"
        )
        assert [url for url in asked if re.match("https?:", url)] == []
        assert driver.title != "evil"
        severe = [each for each in driver.get_log("browser") if each["level"] == "SEVERE"]
        assert severe == []
        driver.save_screenshot(str(tmp_path / "fan.png"))
