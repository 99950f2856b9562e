"""Public clients of the server, in an environment of their own: ``make clients``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import streams
from served import served
from statecast.sessions import Sessions

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "build" / "clients" / "bin"
pytestmark = pytest.mark.slow


def run(*words: str, folder: Path) -> str:
    """The output of a command of the environment."""
    assert CLIENTS.exists(), "run: make clients"
    command = [str(CLIENTS / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tritonclient_observes_and_forecasts(tmp_path: Path) -> None:
    with Sessions(streams.plain(), tmp_path / "items.db") as sessions, served(sessions) as client:
        script = str(Path(__file__).with_name("triton_client.py"))
        found = json.loads(run("python", script, str(client.port), folder=tmp_path))
        assert [found[name] for name in ("live", "ready", "model", "other")] == [True] * 3 + [False]
        assert found["extensions"] == ["binary_tensor_data"]
        assert found["inputs"] == ["y", "level", "group"]
        assert [each.pop("status") for each in found["observed"]] == [["new"], ["new"]]
        last = sessions.forecast("a/ä", h=3).drop("unique_id")
        assert found["observed"][1] == last.to_dict(as_series=False)
        expected = sessions.forecast("a/ä", until=6, level=[90]).select("statecast-lo-90", "ds")
        assert found["forecast"] == [expected.to_dict(as_series=False)] * 2
        assert found["error"][0] == "404"
        assert "'none'" in found["error"][1]
        assert sessions.history("a/ä")["y"].to_list() == [None, 51.5, 52.5]


def test_schemathesis_finds_what_is_described(tmp_path: Path) -> None:
    """No 5xx, and every answer has a status, a media type and a form of the description."""
    # A wrong body is also refused for its version (412), which is compared first or last.
    settings = '[checks.negative_data_rejection]\nexpected-statuses = ["4xx"]\n'
    (tmp_path / "schemathesis.toml").write_text(settings, encoding="utf-8")
    with Sessions(streams.covariates(), tmp_path / "items.db") as sessions, served(sessions) as on:
        run(
            "schemathesis",
            "run",
            f"http://127.0.0.1:{on.port}/openapi.json",
            "--phases=coverage,fuzzing",
            "--max-examples=100",
            "--request-timeout=20",
            "--generation-database=none",
            # Which values fit together is not in the description; 428 is its answer to no If-Match.
            "--exclude-checks=positive_data_acceptance,missing_required_header",
            "--exclude-path=/v1/batch",  # it cannot write lines of JSON
            "--no-color",
            folder=tmp_path,
        )
