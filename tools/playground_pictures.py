"""The pictures of the playground in docs/: a page in a browser, at three sizes.

    python tools/playground_pictures.py [--folder docs] [--quick]

It fits a forecaster to the growth study, writes its page, and takes the pictures with chromium
(``apt-get install chromium chromium-driver``). ``--quick`` fits a small forecaster, to try the
script.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By

from statecast import Forecaster
from statecast.data import growth
from statecast.playground import write_page

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from browser import browser, resize, wait  # noqa: E402

NONE = Image.Dither.NONE
HEIGHTS = [75.4, 79.2, 82.6, None, 88.1]  # in cm, at the first visits
SCENES: dict[str, Any] = {
    "girl": {"sides": [{"static": {"sex": "F"}}], "paths": True},
    "both": {"sides": [{"static": {"sex": "F"}}, {"static": {"sex": "M"}}], "alike": False},
}
# By the name of the file: the scene, the size of the window, and whether the colours are dark.
PICTURES = {
    "playground": ("girl", 1200, 760, False),
    "playground-dark": ("both", 1200, 760, True),
    "playground-phone": ("girl", 360, 780, False),
}


def fitted(*, quick: bool) -> Forecaster:
    series, static, _ = growth()
    series = series.select("unique_id", visit="ds", height="y")
    small = {"units": 4, "ensemble": 2, "epochs": 2} if quick else {}
    f = Forecaster(step_col="visit", target_col="height", **small)
    return f.fit(series, static, verbose=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "how_to")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as driver:
        page = Path(folder) / "page.html"
        write_page(fitted(quick=given.quick), page)
        for name, (scene, width, height, dark) in PICTURES.items():
            resize(driver, width, height, dark=dark, scale=2)
            text = json.dumps({"y": HEIGHTS, **SCENES[scene]})
            driver.get("about:blank")
            driver.get(f"{page.as_uri()}#scene={quote(text)}")
            wait(driver, "return page !== null && !page.waits")
            if width > 500:  # the pointer is at a visit of the forecast
                over = driver.find_element(By.CSS_SELECTOR, ".u-over")
                ActionChains(driver, 0).move_to_element_with_offset(over, 100, 60).perform()
            driver.execute_async_script("setTimeout(arguments[0], 500)")
            picture = Image.open(BytesIO(driver.get_screenshot_as_png()))
            path = given.folder / f"{name}.png"
            few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=NONE)
            few.save(path, optimize=True)
            print(f"Wrote {path}.")


if __name__ == "__main__":
    main()
