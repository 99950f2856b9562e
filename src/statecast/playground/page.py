"""``write_page``: a fitted model as one HTML file that forecasts in the browser.

The page consists of the files in ``assets/``. Its content security policy allows its own script and
style by their digests, and no request to any address.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
from functools import cache
from importlib.resources import files
from typing import Any

from statecast.files import write_whole
from statecast.playground.description import described

_SCRIPTS = ("uplot/uPlot.iife.min.js", "engine.js", "page.js")
_SERVED = (*_SCRIPTS, "live.js")
_STYLES = ("uplot/uPlot.min.css", "page.css")


def write_page(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted model as one HTML file that forecasts in the browser.

    The file needs no server and no network. It has the weights of the model and, if the model has
    analogues, the values and the ids of the training items. The how-to
    page "The playground" describes it.

    Parameters
    ----------
    model : Forecaster
        Fitted.
    path : str or path
        The file, which is replaced if it exists. It is written completely or not at all.

    Raises
    ------
    ArgumentError
        A forecaster of tokens, or another object; a model with more than 64 MiB of arrays; a path
        that cannot be written to.
    NotFittedError
        The model is not fitted.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from statecast import Forecaster
    >>> from statecast.playground import write_page
    >>> Y = np.random.default_rng(0).normal(size=(20, 6)).cumsum(axis=1)
    >>> f = Forecaster(units=4, ensemble=2, epochs=1).fit(Y, verbose=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_page(f, f"{folder}/page.html")
    """
    write_whole(path, page(described(model)).encode())


def page(description: dict[str, Any] | None) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    description : dict or None
        From ``described``. None: the page of a server, which asks the server for it.
    """
    script = _joined(_SCRIPTS if description is not None else _SERVED)
    style = _joined(_STYLES)
    connect = "'none'" if description is not None else "'self'"
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; "
        f"img-src data:; connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    model = ""
    if description is not None:
        # In a script element nothing but "</script" and "<!--" has a meaning.
        text = json.dumps(description, allow_nan=False, ensure_ascii=False).replace("<", "\\u003c")
        model = f'<script type="application/json" id="model">{text}</script>'
    parts = {"policy": html.escape(policy), "style": style, "model": model, "script": script}
    return re.sub(r"\{(\w+)\}", lambda place: parts[place[1]], _asset("page.html"))


@cache
def _asset(name: str) -> str:
    return (files("statecast.playground") / "assets" / name).read_text(encoding="utf-8")


def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(map(_asset, names))


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
