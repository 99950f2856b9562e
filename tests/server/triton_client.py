"""What tritonclient is answered, as JSON: run in the environment of ``make clients``."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import numpy as np

http = importlib.import_module("tritonclient.http")
utils = importlib.import_module("tritonclient.utils")


def tensor(name: str, value: float | str, binary: bool) -> Any:
    kind, dtype = ("BYTES", object) if isinstance(value, str) else ("FP64", float)
    made = http.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array([value], dtype), binary_data=binary)
    return made


def columns(found: Any) -> dict[str, list[Any]]:
    names = [each["name"] for each in found.get_response()["outputs"]]
    cells = {name: found.as_numpy(name).tolist() for name in names}
    # Text is bytes if it was sent as bytes.
    return {
        name: [cell.decode() if isinstance(cell, bytes) else cell for cell in column]
        for name, column in cells.items()
    }


def main() -> None:
    client = http.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}")
    said: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model": client.is_model_ready("statecast"),
        "other": client.is_model_ready("other"),
        "extensions": client.get_server_metadata()["extensions"],
        "inputs": [each["name"] for each in client.get_model_metadata("statecast")["inputs"]],
        "observed": [],
        "forecast": [],
    }
    for step, binary in ((1, True), (2, False)):
        inputs = [tensor("y", 50.5 + step, binary), tensor("level", 0.5, binary)]
        inputs.append(tensor("group", "a", binary))
        parameters = {"item": "a/ä", "step": step, "h": 3}
        found = client.infer("statecast", inputs, request_id="7", parameters=parameters)
        said["observed"].append(columns(found))
    for binary in (True, False):
        outputs = [
            http.InferRequestedOutput(name, binary_data=binary)
            for name in ("statecast-lo-90", "ds")
        ]
        parameters = {"item": "a/ä", "until": 6, "level": 90}
        found = client.infer("statecast", [], outputs=outputs, parameters=parameters)
        said["forecast"].append(columns(found))
    try:
        client.infer("statecast", [], parameters={"item": "none", "h": 1})
    except utils.InferenceServerException as error:
        said["error"] = [error.status(), error.message()]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
