"""The pictures of the README (`make pictures`): the findings' study A, and MLflow's page of a study on disk.

Needs chromium and chromedriver. Each is taken light and dark as WebP, and said in words on standard output.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import findings
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from ablate.reports.figures import draw_one
from ablate.reports.renderers import write
from ablate.studies.plan import load
from ablate.studies.ui import serve

PATIENCE = 600
LOADED = "return document.readyState == 'complete'"
EFFECTS = """
const box = document.querySelector('#effects .pair').getBoundingClientRect();
return [Math.floor(box.left), Math.floor(box.top), Math.ceil(box.width), Math.ceil(box.height)];
"""
CURVES = """
const title = [...document.querySelectorAll('*')].find(e => !e.children.length
    && ['pesq_wb', 'val/pesq_wb'].includes(e.textContent));
if (!title) return false;
let card = title;
while (card && !card.querySelector('.js-plotly-plot')) card = card.parentElement;
return Boolean(card) && card.querySelectorAll('.js-line').length >= CELLS;
"""
GROUPS = """
const all = [...document.querySelectorAll("*")];
const last = text => all.filter(e => e.textContent.trim().startsWith(text)).pop();
const top = Math.floor(last('Group by').getBoundingClientRect().top) - 8;
const style = document.createElement('style');
style.textContent = '.modebar-container { display: none }';  // it is shown only where no mouse can hover
document.head.append(style);
const left = Math.floor(last('Run Name').getBoundingClientRect().left) - 130;
return [left, top, innerWidth - left, 640];
"""
MLFLOW_SETTINGS = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('_mlflow_dark_mode_toggle_enabled', 'DARK');
"""


def browser() -> Any:
    """A headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise SystemExit("chromium and chromedriver are needed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    opened = webdriver.Chrome(options, Service(driver))
    opened.set_script_timeout(PATIENCE)
    opened.command_executor.client_config.timeout = PATIENCE
    return opened


def take(opened: Any, url: str, width: int, ready: str, clip: str, path: Path) -> None:
    """Two pictures of a part of a page, `path` with `-light` and with `-dark`.

    Args:
        width: of the window.
        ready: a script that says whether the page shows what it should.
        clip: a script that gives left, top, width and height of the part.
    """
    opened.set_window_size(width, 1200)
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        settings = "try {" + MLFLOW_SETTINGS.replace("DARK", str(scheme == "dark").lower()) + "} catch {}"
        opened.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": settings})
        opened.get("about:blank")
        opened.get(url)
        deadline = time.monotonic() + PATIENCE
        while not opened.execute_script(ready):
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} does not show what it should")
            time.sleep(0.5)
        time.sleep(2)
        part = dict(zip(("x", "y", "width", "height"), opened.execute_script(clip), strict=True))
        asked = {"format": "webp", "quality": 80, "clip": part | {"scale": 1}, "captureBeyondViewport": True}
        shot = opened.execute_cdp_cmd("Page.captureScreenshot", asked)
        path.with_name(f"{path.name}-{scheme}.webp").write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("study", nargs="?", help="default: the last one")
    options.add_argument("--root", type=Path, default=Path("ablate-runs"))
    options.add_argument("--output", type=Path, default=Path("docs/pictures"))
    given = options.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = findings.report("a")
    cells = load(given.root, given.study).cells
    opened = browser()
    try:
        with TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            write(found, "html", page)
            take(opened, page.as_uri(), 1080, LOADED, EFFECTS, given.output / "report")
        with serve(given.root, given.study, port=0) as window:
            ready = CURVES.replace("CELLS", str(len(cells)))
            take(opened, window.runs, 1500, ready, GROUPS, given.output / "mlflow")
    finally:
        opened.quit()
    for name in ("waterfall", "forest"):
        if (figure := draw_one(found, name)) is not None:
            print(figure.alternative)


if __name__ == "__main__":
    main()
