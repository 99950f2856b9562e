"""An example of each command, for its help; tests run them on the tables of the growth study."""

from __future__ import annotations

_NEW = "model.safetensors new.csv new-static.csv"

EXAMPLES: dict[str, tuple[str, ...]] = {
    "fit": ("statecast fit series.csv static.csv --out model.safetensors",),
    "forecast": (
        f"statecast forecast {_NEW} --until 31 --level 80,95 --out forecast.csv",
        "statecast forecast model.safetensors --state state.safetensors --h 4",
    ),
    "total": (f"statecast total {_NEW} --until 31 --by sex --out totals.csv",),
    "simulate": (
        f"statecast simulate {_NEW} --until 31 --paths 100 --out paths.csv",
        f"statecast simulate {_NEW} --until 31 --time-to 150",
    ),
    "state": (f"statecast state {_NEW} --out state.safetensors",),
    "update": (
        "statecast update model.safetensors state.safetensors later.csv --out newer.safetensors",
    ),
    "serve": ("statecast serve model.safetensors --store items.db",),
    "score": ("statecast score tokens.safetensors words.csv languages.csv --known 2",),
    "rank": ("statecast rank tokens.safetensors words.csv languages.csv --best 3",),
    "explain": (f"statecast explain {_NEW} --until 31 --out why.csv",),
    "evaluate": (
        "statecast evaluate series.csv static.csv --folds folds.csv --known 0,3 --plot scores.png",
    ),
    "report": ("statecast report model.safetensors held.csv held-static.csv --out report.html",),
    "plot": (
        "statecast plot forecast.csv held.csv --out fan.png",
        "statecast plot forecast.csv held.csv --out fan.html",
    ),
    "export": ("statecast export model.safetensors model-onnx",),
    "playground": ("statecast playground model.safetensors --out page.html",),
    "info": ("statecast info model.safetensors",),
    "demo": ("statecast demo --out statecast-demo",),
}

START = f"""\
Statecast forecasts the rest of a sequence from what an item is and how it began.

Try it with data that is part of it, which takes about two minutes:

  statecast demo

With tables of yours, CSV or Parquet (SERIES: unique_id, ds, y; STATIC: unique_id and features):

  {EXAMPLES["evaluate"][0].partition(" --folds")[0]}
      how good forecasts of new items are, beside simple methods
  {EXAMPLES["fit"][0]}
      train a model and write it to a file
  {EXAMPLES["forecast"][0].partition(" --level")[0]}
      forecast new items from their first steps
  {EXAMPLES["report"][0]}
      a page about the model, for others

statecast --help lists all commands. statecast COMMAND --help describes one, with an example.
statecast --install-completion makes the Tab key complete commands and options in your shell."""


def example(command: str) -> str:
    """Return the end of the help of a command."""
    # The first line keeps click from joining the others.
    return "\n".join(["\b", "Example:", *(f"  {line}" for line in EXAMPLES[command])])
