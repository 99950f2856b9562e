"""Steps that are dates: calendars, time zones, and columns that come back as they came."""

from __future__ import annotations

import datetime as dt
import warnings
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statecast.errors import DataError, ModelFileError
from statecast.tables.dates import Calendar, Form, Spacing, instant, known_zone, wall
from statecast.tables.schema import Schema

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

ZONES = [
    "Europe/Amsterdam",
    "America/New_York",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "America/Sao_Paulo",  # midnight was left out
    "Asia/Kolkata",
    "Pacific/Apia",  # a whole day was left out
    "UTC",
    "+05:30",
    "-03:00",
]


def table(items: list[Any], **more: Any) -> Any:
    """A pandas table of items, each a sequence of dates; y is the step."""
    ids = np.repeat(np.arange(len(items)), [len(dates) for dates in items])
    ds = pd.concat([pd.Series(dates) for dates in items], ignore_index=True)
    y = np.concatenate([np.arange(1.0, len(dates) + 1) for dates in items])
    return pd.DataFrame({"unique_id": ids, "ds": ds, "y": y, **more})


def forecast(schema: Schema, panel: Any, until: int) -> Any:
    return schema.output(panel.kind).table(
        {"statecast": np.zeros((panel.rows, until))},
        ids=panel.ids,
        known=panel.known,
        origin=panel.origin,
    )


# -- time zones --------------------------------------------------------------------------


@given(st.sampled_from(ZONES), st.integers(0, 1_000_000), st.integers(1, 200))
def test_clocks_are_those_of_zoneinfo(zone: str, first: int, apart: int) -> None:
    minutes = 60 * first + 17 * apart * np.arange(50)
    when = minutes.astype("datetime64[m]").astype("datetime64[us]")
    own: dt.tzinfo
    if zone[0] in "+-":
        own = dt.timezone(
            (1 if zone[0] == "+" else -1)
            * dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))
        )
    else:
        own = ZoneInfo(zone)
    aware = [t.replace(tzinfo=dt.UTC).astimezone(own) for t in when.tolist()]
    clock = np.array([t.replace(tzinfo=None) for t in aware], "datetime64[us]")
    np.testing.assert_array_equal(wall(when, zone), clock)
    # Of a time that comes twice it is the first, which is Python's fold of 0
    back = [t.replace(tzinfo=None).replace(tzinfo=own).astimezone(dt.UTC) for t in aware]
    back = np.array([t.replace(tzinfo=None) for t in back], "datetime64[us]")
    np.testing.assert_array_equal(instant(clock, zone), back)


@pytest.mark.parametrize("zone", [z for z in ZONES if "/" in z])
def test_times_that_the_clock_leaves_out_come_as_much_later(zone: str) -> None:
    hours = np.arange("2010-01-01", "2013-01-01", dtype="datetime64[h]").astype("datetime64[us]")
    found = instant(hours, zone)
    own = ZoneInfo(zone)
    expected = [
        t.replace(tzinfo=own).astimezone(dt.UTC).replace(tzinfo=None) for t in hours.tolist()
    ]
    np.testing.assert_array_equal(found, np.array(expected, "datetime64[us]"))
    nothing = np.array(["NaT", "2020-01-01"], "datetime64[us]")
    assert np.isnat(instant(nothing, zone)).tolist() == [True, False]
    assert np.isnat(wall(nothing, zone)).tolist() == [True, False]


def test_zones_that_are_none() -> None:
    assert [known_zone(z) for z in ("UTC", "Europe/Paris", "+02:00", "UTC-03:30")] == [True] * 4
    assert not known_zone("Europe/Atlantis")
    assert not known_zone("pytz.FixedOffset(120)")


# -- calendars against pandas ------------------------------------------------------------

CALENDARS = ["15min", "h", "6h", "D", "W", "MS", "ME", "QS", "QE", "YS", "YE", "2D", "2MS"]


@given(
    st.sampled_from(CALENDARS),
    st.sampled_from([None, "Europe/Amsterdam", "America/New_York", "America/Sao_Paulo", "UTC"]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(2, 40)), min_size=1, max_size=4),
    st.integers(1, 30),
    st.sampled_from(["2016-01-01", "2015-03-20", "2017-10-10"]),
)
def test_a_calendar_goes_on_as_that_of_pandas(
    freq: str, zone: str | None, items: list[tuple[int, int]], more: int, start: str
) -> None:
    grid = pd.date_range(start, periods=800, freq=freq)
    grid = grid[grid.year < 2100]  # up to there polars knows the changes of the clock
    items = [(first % (len(grid) - steps - more), steps) for first, steps in items]
    if zone is not None and freq in ("15min", "h"):
        grid = grid.tz_localize("UTC").tz_convert(zone)
    elif zone is not None:
        grid = grid.tz_localize(
            zone, ambiguous=np.ones(len(grid), bool), nonexistent="shift_forward"
        )
    if freq == "6h" and zone not in (None, "UTC"):
        return  # below a day it is absolute time that counts; see the test of shifts
    whole = [grid[first : first + steps + more] for first, steps in items]
    begun = table([dates[:steps] for dates, (_, steps) in zip(whole, items, strict=True)])
    if all(steps < 3 for _, steps in items) and "E" in freq:
        return  # 30 April and 30 June may go on by the 30th or by month ends
    schema = Schema.fit(begun)
    until = max(steps for _, steps in items) + more
    panel = schema.panel(begun)
    assert panel.known.tolist() == [steps for _, steps in items]
    made = forecast(schema, panel, until)
    assert made["ds"].dtype == begun["ds"].dtype
    for i, (first, steps) in enumerate(items):
        dates = grid[first + steps : first + until]
        own = made.loc[made["unique_id"] == i, "ds"]
        assert own[: len(dates)].tolist() == dates.tolist()
    truth = table(list(whole))
    assert len(made.merge(truth, on=["unique_id", "ds"])) >= more


# -- daylight saving ---------------------------------------------------------------------


def hourly(zone: str, start: str, hours: int) -> Any:
    return pd.date_range(start, periods=hours, freq="h", tz=zone)


@pytest.mark.parametrize("start", ["2024-10-26 12:00", "2024-03-30 12:00"])
@pytest.mark.parametrize("minutes", [60, 30, 180])
def test_hours_across_a_change_of_the_clock(start: str, minutes: int) -> None:
    dates = pd.date_range(start, periods=60, freq=f"{minutes}min", tz="Europe/Amsterdam")
    series = table([dates[:10], dates[4:40]])
    schema = Schema.fit(series)
    assert str(schema.spacing) == str(dt.timedelta(minutes=minutes))
    panel = schema.panel(series)
    assert panel.known.tolist() == [10, 36]
    made = forecast(schema, panel, 50)
    assert made.loc[made["unique_id"] == 0, "ds"].tolist() == dates[10:50].tolist()
    assert made.loc[made["unique_id"] == 1, "ds"].tolist() == dates[40:54].tolist()
    # Seen in another zone the instants are the same
    other = forecast(schema, schema.panel(series.assign(ds=series["ds"].dt.tz_convert("UTC"))), 50)
    assert str(other["ds"].dt.tz) == "UTC"
    assert (other["ds"] == made["ds"]).all()


def test_shifts_by_the_clock_below_a_day() -> None:
    day = pd.date_range("2024-10-25", periods=6, freq="D")
    clock = pd.DatetimeIndex([d + pd.Timedelta(hours=h) for d in day for h in (6, 18)])
    dates = clock.tz_localize("Europe/Amsterdam")
    schema = Schema.fit(table([dates[:9], dates[2:7]]))
    assert schema.spacing == Spacing("microseconds", 12 * 3_600_000_000, None, "wall")
    panel = schema.panel(table([dates[:3]]))
    assert forecast(schema, panel, 12)["ds"].tolist() == dates[3:12].tolist()


def test_days_of_one_clock_shown_on_another() -> None:
    days = pd.date_range("2024-03-20 23:00", periods=20, freq="D", tz="UTC")
    dates = days.tz_convert("Europe/Amsterdam")  # midnight, and after the change one o'clock
    schema = Schema.fit(table([dates[:15]]))
    assert schema.spacing == Spacing("microseconds", 86_400_000_000, None, "absolute")
    assert (
        forecast(schema, schema.panel(table([dates[:3]])), 20)["ds"].tolist() == dates[3:].tolist()
    )


def test_each_table_of_days_counts_on_its_own_clock() -> None:
    days = pd.date_range("2024-10-20", periods=20, freq="D")
    schema = Schema.fit(table([days.tz_localize("Europe/Amsterdam")]))
    there = days.tz_localize("America/New_York")  # where the clock changes a week later
    made = forecast(schema, schema.panel(table([there[:5]])), 20)
    assert made["ds"].tolist() == there[5:].tolist()


def test_a_clock_without_a_zone_that_is_set_back_is_said() -> None:
    dates = hourly("Europe/Amsterdam", "2024-10-26 12:00", 24).tz_localize(None)
    with pytest.raises(DataError, match="time zone, or in UTC"):
        Schema.fit(table([dates]))


def test_dates_with_and_without_a_zone_are_not_mixed() -> None:
    aware, naive = hourly("UTC", "2024-01-01", 9), hourly("UTC", "2024-01-01", 9).tz_localize(None)
    with pytest.raises(DataError, match="expected dates with a time zone, as in fit"):
        Schema.fit(table([aware])).panel(table([naive]))
    with pytest.raises(DataError, match="expected dates without a time zone, as in fit"):
        Schema.fit(table([naive])).panel(table([aware]))
    mixed = pd.Series([*aware.to_pydatetime()[:4], *naive.to_pydatetime()[4:]], dtype=object)
    with pytest.raises(DataError, match="a whole number from 1, or a date"):
        Schema.fit(pd.DataFrame({"unique_id": 1, "ds": mixed, "y": 1.0}))


def test_an_off_grid_hour_is_said_on_the_clock_of_its_zone() -> None:
    dates = hourly("Europe/Amsterdam", "2024-07-01", 9).tolist()
    dates[5] += pd.Timedelta(minutes=7)
    with pytest.raises(DataError, match=r"2024-07-01T05:07 \(Europe/Amsterdam\)"):
        Schema.fit(table([pd.Series(dates)]))


# -- the grid is that of most dates ------------------------------------------------------


@pytest.mark.parametrize("freq", ["h", "D", "W", "MS", "ME", "QE", "YS"])
@given(st.integers(0, 9), st.integers(0, 11), st.booleans())
def test_the_item_of_a_single_date_off_the_grid_is_named(freq, item, at, later) -> None:
    grid = pd.date_range("2015-01-31", periods=40, freq=freq)
    items = [list(grid[2 * i : 2 * i + 12]) for i in range(10)]
    items[item][at] += pd.Timedelta(minutes=20 if freq == "h" else 60 * 24 * 3) * (
        1 if later else -1
    )
    if (freq in ("D", "W") and at) or freq == "D":
        items[item][at] += pd.Timedelta(hours=5)
    with pytest.raises(DataError) as error:
        Schema.fit(table(items))
    assert error.value.item == item


def on_the(day: int, first: dt.date, steps: int, months: int = 1) -> list[dt.date]:
    """Dates on a day of the month, or on the last one of shorter months."""
    out = []
    for i in range(steps):
        month = first.year * 12 + first.month - 1 + i * months
        last = (dt.date((month + 1) // 12, (month + 1) % 12 + 1, 1) - dt.timedelta(1)).day
        out.append(dt.date(month // 12, month % 12 + 1, min(day, last)))
    return out


@pytest.mark.parametrize("day", [28, 29, 30, 31])
@pytest.mark.parametrize("year", [2023, 2024])
def test_an_item_launched_at_the_end_of_february(day: int, year: int) -> None:
    others = [on_the(day, dt.date(year - 1, month, 1), 14) for month in range(1, 8)]
    launched = on_the(day, dt.date(year, 2, 1), 6)
    schema = Schema.fit(table([*others, launched]))
    panel = schema.panel(table([launched[:1]]))
    assert forecast(schema, panel, 6)["ds"].tolist() == launched[1:]
    # Training need not have had one
    schema = Schema.fit(table(others))
    assert schema.panel(table([launched])).known.tolist() == [6]


def test_items_keep_days_of_their_own() -> None:
    items = [on_the(day, dt.date(2023, month, 1), 15) for day, month in ((5, 1), (30, 3), (17, 2))]
    schema = Schema.fit(table(items))
    assert schema.panel(table(items)).known.tolist() == [15, 15, 15]
    new = on_the(11, dt.date(2024, 1, 1), 9)
    assert forecast(schema, schema.panel(table([new[:2]])), 9)["ds"].tolist() == new[2:]


# -- columns come back as they came ------------------------------------------------------

_DAYS = pd.date_range("2024-02-26", periods=8, freq="D")
_ZONED = _DAYS.tz_localize("Europe/Amsterdam")
FORMS: dict[str, Any] = {
    **{f"pandas {unit}": _DAYS.as_unit(unit).to_series() for unit in ("s", "ms", "us", "ns")},
    **{f"pandas {unit} zoned": _ZONED.as_unit(unit).to_series() for unit in ("s", "ns")},
    "pandas offset": _DAYS.tz_localize("+05:30").to_series(),
    "pandas Arrow": _DAYS.to_series().astype("timestamp[ms][pyarrow]"),
    "pandas Arrow zoned": _ZONED.to_series().astype("timestamp[ms, tz=Europe/Amsterdam][pyarrow]"),
    "pandas Arrow date": pd.Series(_DAYS.date).astype("date32[pyarrow]"),
    "pandas dates": pd.Series(_DAYS.date, dtype=object),
    "pandas datetimes": pd.Series(_DAYS.to_pydatetime(), dtype=object),
    "pandas zoned datetimes": pd.Series(_ZONED.to_pydatetime(), dtype=object),
    "pandas text": pd.Series(_DAYS.strftime("%Y-%m-%d")),
    "pandas months": pd.Series(pd.date_range("2024-01-01", periods=8, freq="MS").strftime("%Y-%m")),
    "pandas minutes": pd.Series(_DAYS.strftime("%Y-%m-%d %H:%M")),
    "pandas int8": pd.Series(range(1, 9), dtype="int8"),
    "pandas Int64": pd.Series(range(1, 9), dtype="Int64"),
    "pandas float": pd.Series(range(1, 9), dtype=float),
    "pandas Float32": pd.Series(range(1, 9), dtype="Float32"),
    **{f"polars {unit}": pl.Series(_DAYS).dt.cast_time_unit(unit) for unit in ("ms", "us", "ns")},
    "polars zoned": pl.Series(_ZONED).dt.cast_time_unit("ms"),
    "polars Date": pl.Series(_DAYS).cast(pl.Date),
    "polars text": pl.Series(_DAYS.strftime("%Y-%m-%dT%H:%M:%S").tolist()),
    **{f"polars {t}": pl.Series(range(1, 9), dtype=t) for t in (pl.Float64, pl.Float32, pl.UInt8)},
    "arrow date": pa.array(_DAYS.date),
    "arrow s": pa.array(_DAYS, pa.timestamp("s")),
    "arrow zoned": pa.array(_ZONED, pa.timestamp("ms", "Europe/Amsterdam")),
    "arrow offset": pa.array(_ZONED, pa.timestamp("us", "+02:00")),
    "arrow float": pa.array(np.arange(1.0, 9.0)),
    "arrow int16": pa.array(range(1, 9), pa.int16()),
}


@pytest.mark.parametrize("form", FORMS)
def test_steps_come_back_in_their_own_dtype_and_join(form: str) -> None:
    ds = FORMS[form]
    data = {"unique_id": np.ones(8, np.int64), "ds": ds, "y": np.arange(8.0)}
    if form.startswith("pandas"):
        whole = pd.DataFrame(data | {"ds": ds.reset_index(drop=True)})
        begun, dtype = whole[:5], lambda made: made["ds"].dtype
    elif form.startswith("polars"):
        whole = pl.DataFrame(data)
        begun, dtype = whole[:5], lambda made: made["ds"].dtype
    else:
        whole = pa.table(data)
        begun, dtype = whole[:5], lambda made: made["ds"].type
    schema = Schema.fit(whole)
    again = Schema.from_config(*schema.to_config())
    panel = again.panel(begun)
    made = forecast(again, panel, 8)
    expected = dtype(whole)
    if form in ("pandas Int64", "pandas Float32"):
        expected = expected.numpy_dtype  # the same numbers, which pandas joins
    assert dtype(made) == expected
    if form.startswith("pandas"):
        joined = made.merge(whole, on=["unique_id", "ds"])
    elif form.startswith("polars"):
        joined = made.join(whole, on=["unique_id", "ds"])
    else:
        joined = made.join(whole, ["unique_id", "ds"], join_type="inner").to_pylist()
    assert len(joined) == 3
    # A state has no table: what fit had comes back
    other = forecast(again, again.new_rows(begun, [1]), 8)
    assert dtype(other) == dtype(made)


def test_a_step_that_its_small_dtype_cannot_hold() -> None:
    series = pl.DataFrame({"unique_id": 1, "ds": pl.Series([1, 2], dtype=pl.Int8), "y": [1.0, 2.0]})
    schema = Schema.fit(series)
    made = forecast(schema, schema.panel(series), 130)
    assert made["ds"].to_list() == list(range(3, 131))


def test_what_cannot_be_kept_is_refused() -> None:
    finer = pd.Series(pd.DatetimeIndex(["2024-01-01", "2024-01-02 00:00:00.000000001"]))
    with pytest.raises(DataError, match="whole microseconds"):
        Schema.fit(pd.DataFrame({"unique_id": 1, "ds": finer, "y": 1.0}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pa.array([0, 1], pa.timestamp("us", "Nowhere/Town"))
        with pytest.raises((DataError, pa.ArrowInvalid)):
            Schema.fit(pa.table({"unique_id": [1, 1], "ds": ds, "y": [1.0, 2.0]}))


@pytest.mark.parametrize(
    "change",
    [
        {"type": "String"},
        {"unit": "h"},
        {"cells": "pickled"},
        {"zone": "Europe/Atlantis"},
        {"zone": 3},
        {"separator": "-"},
        {"unit": []},
    ],
)
def test_a_spoilt_form_is_refused(change: dict[str, Any]) -> None:
    form = Form("Datetime", "ms", "Europe/Amsterdam")
    assert Form.from_config(form.to_config()) == form
    with pytest.raises(ModelFileError):
        Form.from_config(form.to_config() | change)


# -- what is never observed ----------------------------------------------------------------


def hours_of(items: int, days: int, keep: Any, freq: str = "h", seed: int = 0) -> Any:
    """Items launched on different days, observed at the dates that ``keep`` keeps."""
    rng = np.random.default_rng(seed)
    steps = days * (24 if freq == "h" else 1)
    grid = pd.date_range("2024-03-04", periods=steps + 7 * (24 if freq == "h" else 1), freq=freq)
    begun = rng.integers(0, 7, items) * (24 if freq == "h" else 1)
    dates = [grid[first : first + steps] for first in begun]
    return table([own[keep(own)] for own in dates])


SHOPS: dict[str, tuple[Any, str, str]] = {
    "six days": (lambda d: d.weekday < 6, "D", "Sundays"),
    "working days": (lambda d: d.weekday < 5, "D", "Saturdays, Sundays"),
    "office hours": (
        lambda d: (d.weekday < 5) & (d.hour >= 9) & (d.hour < 17),
        "h",
        "Saturdays, Sundays, 0:00 to 8:59, 17:00 to 23:59 of every day",
    ),
    "half Saturdays": (
        lambda d: (d.weekday < 5) & (d.hour > 6) | (d.weekday == 5) & (d.hour > 6) & (d.hour < 12),
        "h",
        "Sundays, 0:00 to 6:59 of every day, Saturdays 12:00 to 23:59",
    ),
    "always": (lambda d: d.weekday < 9, "D", ""),
}


@pytest.mark.parametrize("shop", SHOPS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_slots_that_are_never_observed_are_closed(shop: str, missing: float) -> None:
    keep, freq, said = SHOPS[shop]
    series = hours_of(12, 28, keep, freq)
    gone = np.random.default_rng(1).random(len(series)) < missing
    schema = Schema.fit(series[~gone])
    assert str(schema.calendar) == said
    assert bool(schema.calendar) == bool(said)
    again = Schema.from_config(*schema.to_config())
    assert again.calendar == schema.calendar
    begun = series.groupby("unique_id").head(3)
    panel = again.panel(begun)
    made = forecast(again, panel, 60)
    clock = pd.DatetimeIndex(made["ds"])
    assert keep(clock).all()
    for item, dates in begun.groupby("unique_id")["ds"]:
        whole = pd.date_range(dates.min(), periods=60, freq=freq)
        ahead = whole[keep(whole) & (whole > dates.max())]
        assert made.loc[made["unique_id"] == item, "ds"].tolist() == ahead.tolist()


def test_closed_hours_are_those_of_the_clock() -> None:
    keep = lambda d: (d.hour >= 9) & (d.hour < 17)  # noqa: E731
    series = hours_of(9, 28, keep)  # the clock changes on 31 March
    series["ds"] = series["ds"].dt.tz_localize("Europe/Amsterdam")
    schema = Schema.fit(series)
    assert str(schema.calendar) == "0:00 to 8:59, 17:00 to 23:59 of every day"
    made = forecast(schema, schema.panel(series.groupby("unique_id").head(2)), 24 * 30)
    clock = pd.DatetimeIndex(made["ds"])
    assert set(clock.hour) == set(range(9, 17))
    assert {t.utcoffset() for t in made["ds"]} == {dt.timedelta(hours=1), dt.timedelta(hours=2)}


def test_closed_months() -> None:
    grid = pd.date_range("2018-01-01", periods=48, freq="MS")
    items = [grid[first : first + 30] for first in (0, 5, 9, 14)]
    schema = Schema.fit(table([d[~d.month.isin([7, 8])] for d in items]))
    assert str(schema.calendar) == "July, August"
    made = forecast(schema, schema.panel(table([grid[:2]])), 24)
    assert not set(pd.DatetimeIndex(made["ds"]).month) & {7, 8}


def test_what_was_passed_too_seldom_is_not_closed() -> None:
    week = pd.date_range("2024-03-04", periods=7, freq="D")
    assert not Schema.fit(table([week[:6]] * 3)).calendar  # no Sunday was passed
    once = pd.date_range("2024-03-04", periods=9, freq="D")
    assert not Schema.fit(table([once[once.weekday < 6]] * 50)).calendar  # a single one, by all
    year = pd.date_range("2024-01-01", periods=366, freq="D")
    assert not Schema.fit(table([year[year.month != 5]] * 9)).calendar  # an outage, perhaps
    sparse = pd.date_range("2024-03-04", periods=40, freq="D")
    seen = np.random.default_rng(2).random(40) < 0.2
    seen[[0, 1, 39]] = True
    kept = sparse[seen & (sparse.weekday < 6)]
    assert not Schema.fit(table([kept])).calendar  # gaps at random would miss five Sundays


def test_tokens_and_numbers_have_no_calendar() -> None:
    series = hours_of(5, 28, lambda d: d.weekday < 6, "D")
    assert not Schema.fit(series.assign(y="a"), tokens=True).calendar
    steps = series.assign(ds=series.groupby("unique_id")["ds"].rank().astype(int))
    assert not Schema.fit(steps).calendar


@pytest.mark.parametrize(
    "change", [{"weekdays": [7]}, {"hours": "9"}, {"months": [0.0]}, {"weekdays": [*range(7)]}]
)
def test_a_spoilt_calendar_is_refused(change: dict[str, Any]) -> None:
    calendar = Calendar(weekdays=(6,), week_hours=(3,))
    assert Calendar.from_config(calendar.to_config()) == calendar
    with pytest.raises(ModelFileError):
        Calendar.from_config(calendar.to_config() | change)
