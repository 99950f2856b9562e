"""``write_report``: an assessment of a model as one HTML file.

The file has no script, and its content security policy allows none and no request to any address.
Charts are SVG. The page is light or dark as the reader's system is.
"""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np

from statecast.evaluate.cross_validation import OURS
from statecast.evaluate.scores import Scores
from statecast.files import write_whole
from statecast.plots.calibration import draw_calibration, draw_horizons
from statecast.plots.curves import scores as draw_scores
from statecast.plots.fans import draw_fans
from statecast.plots.frame import need_matplotlib
from statecast.report.assessment import Assessment, Findings, Item

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_WARNINGS = 20


def write_report(assessment: Assessment, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Write an assessment as one HTML file.

    It begins with a summary in plain words. Then come the scores by prefix length and by horizon
    beside those of the baselines, the calibration, the best and the worst items, the influence of
    the static features, the warnings about the data, and the settings. The file needs no network,
    has no script, and is light or dark as the reader's system is.

    Parameters
    ----------
    assessment : Assessment
        From ``assess``.
    path : str or path
        The file, which is replaced if it exists. It is written completely or not at all.
    title : str
        The title; by default the names of the targets.

    Raises
    ------
    ArgumentError
        A path that cannot be written to.
    MissingExtraError
        matplotlib is not installed: ``pip install 'statecast[plots]'``.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.report import assess, write_report
    >>> Y = np.random.default_rng(0).normal(size=(28, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y[:20], verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(assess(f, Y[20:], known=[1, 3], verbose=0), f"{folder}/report.html")
    """
    write_whole(path, page(assessment, title).encode())


def page(found: Assessment, title: str = "") -> str:
    """Return the report as HTML; the arguments are those of ``write_report``."""
    need_matplotlib()
    names = ", ".join(each.target for each in found.findings)
    title = title or f"Forecasts of {names}"
    body = [f"<header><h1>{_text(title)}</h1><p class='soft'>{_about(found)}</p></header>"]
    body += [_section("Summary", *_summary(found))]
    for each in found.findings:
        of = f" of {each.target}" if len(found.findings) > 1 else ""
        body += [
            _section(f"Scores{of}", *_scores(each, found)),
            _section(f"Calibration{of}", *_calibration(each, found)),
            _section(f"Best and worst items{of}", *_items(each, found)),
            _section(f"Influence of the static features{of}", *_influence(each)),
        ]
    body += [_section("Data", *_data(found)), _section("Model", *_model(found))]
    body += [_section("Words", *_words())]
    parts = {
        "policy": html.escape(_POLICY),
        "title": _text(title),
        "style": _asset("report.css"),
        "body": "\n".join(body),
    }
    return re.sub(r"\{(\w+)\}", lambda place: parts[place[1]], _asset("report.html"))


@cache
def _asset(name: str) -> str:
    return (files("statecast.report") / "assets" / name).read_text(encoding="utf-8")


# -- the parts of the page ---------------------------------------------------------------------


def _about(found: Assessment) -> str:
    model = found.model.schema
    return _text(
        f"{_count(found.items, 'item')} with {_count(found.values, 'value')}, {_span(found)}. "
        f"Written on {date.today():%d %B %Y} by Statecast {version('statecast')}, with a model of "
        f"{_count(model.items, 'training item')}."
    )


def _span(found: Assessment) -> str:
    kind = "from" if found.model.schema.spacing is not None else "steps"
    return f"{kind} {found.first} to {found.last}"


def _summary(found: Assessment) -> Iterator[str]:
    """What a reader who reads nothing else should know, in plain sentences."""
    if found.trained:
        yield _box(
            f"The training items include {found.trained:,} of the {_count(found.items, 'item')}, "
            "by their ids. The scores are too good: new items are forecast with larger errors.",
            "fault",
        )
    several = len(found.findings) > 1
    lines = []
    for each in found.findings:
        of = f"{each.target}: " if several else ""
        lines += [of + line for line in _verdicts(each, found)]
    yield "<ul class='summary'>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _verdicts(each: Findings, found: Assessment) -> Iterator[str]:
    scores, k = each.scores, found.shown
    row, best = scores[OURS, k], scores.best(k, "crps")
    yield (
        f"From {_steps(k)} the median forecast is off by {_percent(row.wape)} of the size of the "
        "values."
    )
    if best is not None:
        yield _compared(scores, k, best.method)
    if "mean curve" in scores.methods:
        useful = scores.useful()
        yield (
            "At the longest prefix it is not better than the mean of the training items, beyond "
            "chance."
            if useful is None
            else "It is better than the mean of the training items, beyond chance, from "
            f"k\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{useful} on."
        )
    yield _covered(each)
    if each.influence.get(k):
        name, size = max(each.influence[k].items(), key=lambda pair: pair[1])
        if size > 0:
            yield (
                f"The static feature with the most influence is {name}: without it the forecast "
                f"changes by {_percent(size / each.size)} of the size of the values."
            )
    if each.worst:
        worst = each.worst[0]
        yield (
            f"The worst forecast is that of item {_id(worst)}, with a CRPS of "
            f"{_percent(worst.crps)}."
        )


def _compared(scores: Scores, k: int, other: str) -> str:
    skill, ends = scores.skill(k, "crps"), scores.skill_interval(k, "crps")
    if skill is None or not math.isfinite(skill):
        return f"The best simple method is {other}."
    what = f"{_percent(abs(skill))} {'better' if skill >= 0 else 'worse'} than"
    chance = ""
    if ends is not None:
        sure = ends[0] > 0 or ends[1] < 0
        chance = ", beyond chance" if sure else "; the difference is within chance"
    return f"Its CRPS is {what} that of the best simple method, {other}{chance}."


def _covered(each: Findings) -> str:
    share, low, high = each.coverage
    text = f"The 80 % intervals contain {_percent(share)} of the values"
    if not math.isfinite(low):
        return f"{text}."
    span = f" (95 % interval over items: {_percent(low)} to {_percent(high)})"
    if low <= 0.8 <= high:
        return f"{text}{span}, as they should."
    if share < 0.8:
        return f"{text}{span}: they are too narrow."
    return (
        f"{text}{span}: they are wide. Of counts, each end has a probability of its own, so that "
        "more than 80 % is expected."
    )


def _scores(each: Findings, found: Assessment) -> Iterator[str]:
    yield _note(
        "Error of the median forecast (WAPE) and of the whole distribution (CRPS), as shares of "
        "the size of the values. Smaller is better. The intervals are from a bootstrap over items."
    )
    yield _figure(draw_scores(each.scores), "WAPE and CRPS by the number of known steps")
    scores, rows = each.scores, []
    for k in scores.known:
        for row in (row for row in scores.rows if row.known == k):
            ends = scores.interval(row.method, k, "crps")
            rows.append(
                [
                    str(k),
                    row.method,
                    f"{row.wape:.4f}",
                    f"{row.crps:.4f}",
                    "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}",
                    "" if row.coverage is None else _percent(row.coverage),
                    f"{row.items:,}",
                    f"{row.values:,}",
                ]
            )
    head = ["k", "method", "WAPE", "CRPS", "95 % interval", "in 80 %", "items", "values"]
    yield _details("All scores", _table(head, rows, left=(1,), bold=OURS))
    curves = {
        k: {
            method: _crps(sums)
            for (method, own), sums in each.horizons.items()
            if own == k and np.isfinite(_crps(sums)).any()
        }
        for k in scores.known
    }
    curves = {k: lines for k, lines in curves.items() if OURS in lines}
    if curves:
        yield _figure(draw_horizons(curves, OURS), "CRPS by the number of steps after the prefix")
    for note in found.notes:
        yield _note(note)
    if len(scores.methods) > 1:
        covariates = (
            " They have no covariates; the forecaster has some." if scores.covariates else ""
        )
        yield _note(
            "The simple methods were fitted to the values of the training items that are in the "
            f"model file.{covariates}"
        )


def _crps(sums: np.ndarray) -> np.ndarray:
    """The CRPS by horizon from the sums of ``sums_of``; NaN where all values are 0, or none is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 0] > 0, sums[:, 2] / sums[:, 0], np.nan)


def _calibration(each: Findings, found: Assessment) -> Iterator[str]:
    yield _note(
        "Left: the share of the values in each tenth of their predictive distribution. Bars of "
        "one height (dashed) are right; high bars at both ends mean intervals that are too narrow, "
        "and high bars in the middle too wide ones. Right: the share of the values within the "
        "intervals, by the number of steps after the prefix; the bands have 95 % of the shares of "
        "calibrated forecasts, if values were independent. All prefix lengths together."
    )
    yield _figure(draw_calibration(each.histogram, each.inside), "Calibration")
    rows = []
    for level in sorted(each.inside):
        within, values = each.inside[level].sum(axis=0)
        rows.append([f"{level:g} %", _percent(within / values), f"{values:,.0f}"])
    yield _table(["interval", "contains", "values"], rows)


def _items(each: Findings, found: Assessment) -> Iterator[str]:
    yield _note(f"Forecasts from {_steps(found.shown)}, by the CRPS of the item.")
    label = "date" if found.model.schema.spacing is not None else found.model.schema.step_col
    label = "step" if label == "ds" else label
    for what, items in (("worst", each.worst), ("best", each.best)):
        if items:
            chart = draw_fans([item.fan for item in items], label, each.target)
            yield f"<h3>The {what}</h3>" + _figure(chart, f"The {what} items")
    rows = [
        [what, item.name, f"{item.crps:.4f}", _percent(item.coverage)]
        for what, items in (("worst", each.worst), ("best", each.best))
        for item in items
    ]
    yield _table(["", "item", "CRPS", "in 80 %"], rows, left=(0, 1))


def _influence(each: Findings) -> Iterator[str]:
    if not any(each.influence.values()):
        yield _note("The model has no static features.")
        return
    yield _note(
        "The mean absolute change of the median forecast if a feature is replaced by its mean, or "
        "by a new category, with all else unchanged. It describes the forecasts, and is not a "
        "causal effect. Features with the same information share their influence."
    )
    most = max(size for found in each.influence.values() for size in found.values()) or 1.0
    for k, found in each.influence.items():
        rows = []
        for name, size in sorted(found.items(), key=lambda pair: -pair[1])[:30]:
            bar = f"<span class='bar' style='width:{100 * size / most:.1f}%'></span>"
            rows.append(
                f"<tr><th scope='row'>{_text(name)}</th><td>{_text(_number(size))}</td>"
                f"<td>{_text(_percent(size / each.size))}</td><td class='bars'>{bar}</td></tr>"
            )
        head = "".join(
            f"<th scope='col'>{_text(name)}</th>"
            for name in ("feature", f"change of {each.target}", "of the values' size", "")
        )
        yield (
            f"<h3>From {_text(_steps(k))}</h3><div class='scrolled'><table class='influence'>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )


def _data(found: Assessment) -> Iterator[str]:
    if found.trained is None:
        known = (
            "Whether these items were in training is not known: the model file has no ids of "
            "training items, or the items are rows of arrays."
        )
    elif found.trained:
        known = f"{found.trained:,} of them were in training."
    else:
        known = "None of their ids is among those of the training items."
    yield _pairs(
        [
            ("items", f"{found.items:,}. {known}"),
            ("values", f"{found.values:,}"),
            ("range", _span(found)),
            ("the longest item", f"{found.longest:,} steps"),
        ]
    )
    if not found.warnings:
        yield _note("There are no warnings about the data.")
    for text in found.warnings[:_MOST_WARNINGS]:
        yield _box(text, "warning")
    if len(found.warnings) > _MOST_WARNINGS:
        yield _note(f"{len(found.warnings) - _MOST_WARNINGS:,} further warnings are left out.")


def _model(found: Assessment) -> Iterator[str]:
    model = found.model
    schema = model.schema
    settings = {"head": model.settings.head} | model.settings.changed
    features = [f"{name} ({kind})" for name, kind in schema.static.kinds.items()]
    yield _pairs(
        [
            ("training items", f"{schema.items:,}, of up to {schema.steps:,} steps"),
            ("static features", ", ".join(features) or "none"),
            ("future covariates", ", ".join(schema.future.kinds) or "none"),
            ("past covariates", ", ".join(schema.past.kinds) or "none"),
            *((f"setting {name}", str(value)) for name, value in settings.items()),
            ("other settings", "the defaults"),
            ("fingerprint", model.fingerprint),
        ]
    )


def _words() -> Iterator[str]:
    yield _pairs(
        [
            ("item", "one sequence of values, such as a product, a patient or a show"),
            ("k", "the number of known first steps of an item, from which the rest is forecast"),
            ("WAPE", "the sum of the absolute errors of the median, divided by the sum of the "
                "absolute values"),
            ("CRPS", "the same of the whole predictive distribution, as the mean weighted quantile "
                "loss at the levels 0.1 to 0.9; of a forecast of one value it is the WAPE"),
            ("80 % interval", "should contain 80 % of the values of new items"),
            ("bootstrap", "a score is computed again and again, each time of as many items, drawn "
                "at random with replacement; how far it varies is its uncertainty"),
            ("beyond chance", "the 95 % interval of a bootstrap over items does not contain 0"),
            ("last value", "a simple method: the last known value of the item"),
            ("mean curve", "a simple method: the mean of the training items at each step"),
            ("ridge", "a simple method: a linear regression on the known values and the static "
                "features, with a penalty on large weights"),
            ("nearest neighbours", "a simple method: the rest of those training items that began "
                "most like this one"),
        ]
    )  # fmt: skip


# -- HTML --------------------------------------------------------------------------------------


def _text(text: object) -> str:
    """A text of the user as HTML."""
    return html.escape(str(text))


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n" + "\n".join(parts) + "</section>"


def _note(text: str) -> str:
    return f"<p class='soft'>{_text(text)}</p>"


def _box(text: str, kind: str) -> str:
    return f"<p class='{kind}' role='note'>{_text(text)}</p>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in pairs)
    return f"<dl>{rows}</dl>"


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: tuple[int, ...] = (), bold: str = ""
) -> str:
    """A table; the columns ``left`` are texts, and rows with the cell ``bold`` are bold."""

    def cells(tag: str, row: Sequence[str]) -> str:
        of = dict.fromkeys(left, " class='left'")
        return "".join(f"<{tag}{of.get(i, '')}>{_text(c)}</{tag}>" for i, c in enumerate(row))

    body = "".join(
        f"<tr{' class=bold' * (bold != '' and bold in row)}>{cells('td', row)}</tr>" for row in rows
    )
    return (
        f"<div class='scrolled'><table><thead><tr>{cells('th', head)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(figure: Figure, label: str) -> str:
    """A chart as SVG within the page, in the page's colours."""
    import matplotlib

    buffer = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "statecast"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    # The names of groups, such as axes_1, would be in the page several times.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the style sets them
    width = 96 * float(figure.get_figwidth())
    return (
        f"<figure tabindex='0' style='max-width:{width:.0f}px'>"
        f"{head} role='img' aria-label='{_text(label)}'>{rest}</figure>"
    )


# -- words and numbers ---------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _steps(k: int) -> str:
    return {0: "the static features alone (k = 0)", 1: "1 known step"}.get(k, f"{k} known steps")


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "-"
    size = 100 * abs(share)
    number = f"{100 * share:.0f}" if size >= 10 else f"{100 * share:.1f}"
    return f"{number}\N{NO-BREAK SPACE}%"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _id(item: Item) -> str:
    return item.name if len(item.name) <= 60 else f"{item.name[:57]}..."
