"""A model of plants, and a folder with its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from plants import (
    FIT,
    first_weeks,
    plant_tables,
    run,
    write_tables,
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model file, fitted on all plants."""
    folder = tmp_path_factory.mktemp("model")
    write_tables(folder, plant_tables())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, _, err = run(*FIT)
    assert code == 0, err
    return (folder / "new.safetensors").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: bytes, few_trees: None) -> Path:
    """The current folder: the model, the first three weeks, the static features, the folds."""
    given = plant_tables()
    write_tables(
        tmp_path, given | {"series": first_weeks(given["series"]), "whole": given["series"]}
    )
    (tmp_path / "model.safetensors").write_bytes(model)
    monkeypatch.chdir(tmp_path)
    return tmp_path
