"""The site is built as ``make docs`` builds it, and looked at in a browser.

Pictures of some pages are left in ``build/site``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains

from browser import browser, resize, wait
from test_reference import PUBLIC, found

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "docs"  # of `make docs`, so that executed pages are executed once
PICTURES = ROOT / "build" / "site"
TUTORIALS = ["claims_triangle", "kept_state", "opening_night", "ungauged_basin"]
LOOKED_AT = [
    "index.html",
    "tutorials/opening_night.html",
    "how_to/tables.html",
    "explanation/forecast.html",
    "api/forecaster.html",
    "measured.html",
    "decisions/README.html",
]


@pytest.fixture(scope="module")
def site() -> Path:
    """The folder of the built site."""
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", str(BUILD / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", str(BUILD / "html")],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "MPLBACKEND"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / "html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with browser() as driver:
        yield driver


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "search"):
            self.loaded.append(given.get("href", ""))
        elif "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def broken(pages: dict[Path, Page]) -> list[str]:
    """The links and loaded files of pages that lead nowhere."""
    wrong = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = not target.exists()
            if not missing and parts.fragment and target in pages:
                missing = unquote(parts.fragment) not in pages[target].ids
            if missing:
                wrong.append(f"{path.name}: {link}")
    return wrong


def test_links_lead_somewhere(pages: dict[Path, Page]) -> None:
    assert len(pages) > 80
    assert broken(pages) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    first = tmp_path / "a.html"
    first.write_text('<p id="x"><a href="#x"><a href="#y"><a href="b.html"><img src="c.png">')
    assert broken({first: Page(first)}) == ["a.html: #y", "a.html: b.html", "a.html: c.png"]


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for each in page.loaded:
            assert not urlsplit(each).netloc, f"{path.name} loads {each}"


def test_the_site_is_small(site: Path) -> None:
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 15e6


def test_every_public_name_is_on_the_site(pages: dict[Path, Page]) -> None:
    ids = {each for page in pages.values() for each in page.ids if each.startswith("statecast.")}
    for name, thing in PUBLIC.items():
        places = [each for each in ids if each.endswith(f".{name.rpartition('.')[2]}")]
        assert any(found(each) is thing for each in places), name


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_is_a_notebook_that_was_executed(site: Path, name: str) -> None:
    notebook = json.loads((site / "tutorials" / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    kinds = {kind for cell in cells for out in cell["outputs"] for kind in out.get("data", ())}
    assert "image/png" in kinds
    texts = [out["data"].get("text/plain", "") for cell in cells for out in cell["outputs"]
             if "data" in out and "image/png" not in out["data"]]  # fmt: skip
    assert not any("<Figure" in "".join(text) for text in texts), "a chart that is not shown"


# -- in a browser --------------------------------------------------------------------------------

# The least contrast of texts, by WCAG 2: 4.5, and 3 for large ones.
CONTRAST = """
const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const parts = text => text.match(/[\\d.]+/g).map(Number);
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const found = parts(getComputedStyle(e).backgroundColor);
    if (found.length < 4 || found[3] > 0.5) return found;
  }
  return [255, 255, 255];
}
const wrong = [];
for (const e of document.body.querySelectorAll("*")) {
  const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join("");
  if (!text || !e.checkVisibility({visibilityProperty: true}) || e.closest("svg")) continue;
  const style = getComputedStyle(e), size = parseFloat(style.fontSize);
  const [a, b] = [light(parts(style.color)), light(ground(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
  if (ratio >= (large ? 3 : 4.5)) continue;
  wrong.push([ratio.toFixed(2), e.tagName, text.slice(0, 40), style.color]);
}
return wrong;
"""


def opened(chromium: Chrome, site: Path, page: str) -> None:
    chromium.get((site / page).as_uri())
    wait(chromium, "return document.readyState === 'complete'")


@pytest.mark.parametrize("page", LOOKED_AT)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_have_contrast(site: Path, chromium: Chrome, page: str, dark: bool) -> None:
    resize(chromium, 1280, 900, dark=dark)
    opened(chromium, site, page)
    ground = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", ground)[0]) < 128) == dark
    assert chromium.execute_script(CONTRAST) == []


def test_text_without_contrast_is_found(site: Path, chromium: Chrome) -> None:
    resize(chromium, 1280, 900)
    opened(chromium, site, "index.html")
    chromium.execute_script("document.querySelector('h1 + p > em').style.color = '#aaa'")
    assert len(chromium.execute_script(CONTRAST)) == 1


def test_pages_make_no_errors_and_no_requests(site: Path, chromium: Chrome) -> None:
    resize(chromium, 1280, 900)
    chromium.get_log("browser")
    for page in LOOKED_AT:
        opened(chromium, site, page)
        script = "return performance.getEntriesByType('resource').map(each => each.name)"
        for name in chromium.execute_script(script):
            assert name.startswith(("file:", "data:")), name
        assert chromium.get_log("browser") == [], page


def test_no_page_is_wider_than_a_phone(
    site: Path, chromium: Chrome, pages: dict[Path, Page]
) -> None:
    resize(chromium, 390, 844)
    wide = {}
    for path in pages:
        opened(chromium, site, str(path.relative_to(site)))
        width = chromium.execute_script("return document.documentElement.scrollWidth")
        if width > 390:
            wide[path.name] = width
    assert wide == {}


@pytest.mark.parametrize("word", ["calibration", "take_control", "ungauged", "Redis"])
def test_the_search_finds_a_word(site: Path, chromium: Chrome, word: str) -> None:
    resize(chromium, 1280, 900)
    chromium.get((site / "search.html").as_uri() + f"?q={word}")
    script = "return [...document.querySelectorAll('#search-results li a')].map(a => a.href)"
    for each in wait(chromium, script):
        assert Path(unquote(urlsplit(each).path)).exists(), each


FOCUSED = """
const e = document.activeElement, style = getComputedStyle(e);
const seen = style.outlineStyle !== "none" || style.boxShadow !== "none" || e.name === "q";
return [e.name || e.href || e.tagName, seen];
"""


def test_the_keyboard_reaches_the_search_and_the_links(site: Path, chromium: Chrome) -> None:
    resize(chromium, 1280, 900)
    opened(chromium, site, "index.html")
    reached = []
    for _ in range(8):
        ActionChains(chromium).send_keys(Keys.TAB).perform()
        reached.append(chromium.execute_script(FOCUSED))
    names = [name for name, _ in reached]
    assert "q" in names
    assert any(name.endswith("tutorials/index.html") for name in names), names
    assert all(visible for _, visible in reached), reached
    box = chromium.find_element("name", "q")
    box.send_keys("calibration", Keys.ENTER)
    assert wait(chromium, "return document.querySelectorAll('#search-results li').length")


@pytest.mark.parametrize(
    ("name", "page", "width", "height", "dark"),
    [
        ("landing", "index.html", 1280, 1400, False),
        ("landing-dark", "index.html", 1280, 1400, True),
        ("landing-phone", "index.html", 390, 844, False),
        ("tutorial", "tutorials/opening_night.html", 1280, 3000, False),
        ("tutorial-dark", "tutorials/opening_night.html", 1280, 3000, True),
        ("tutorial-phone", "tutorials/opening_night.html", 390, 844, False),
        ("gallery", "gallery.html", 1280, 3000, False),
        ("reference", "api/forecaster.html", 1280, 1600, False),
        ("search", "search.html?q=calibration", 1280, 900, False),
    ],
)
def test_pictures_of_pages(
    site: Path, chromium: Chrome, name: str, page: str, width: int, height: int, dark: bool
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    resize(chromium, width, height, dark=dark)
    chromium.get(f"{site.as_uri()}/{page}")
    wait(chromium, "return document.images.length >= 0 && document.readyState === 'complete'")
    if "?q=" in page:
        wait(chromium, "return document.querySelectorAll('#search-results li').length")
    assert chromium.save_screenshot(str(PICTURES / f"{name}.png"))
