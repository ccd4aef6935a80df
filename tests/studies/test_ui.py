"""The MLflow UI in a real browser, on a study that was mirrored; screenshots go to `test-output/`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablate.models.errors import InputError
from ablate.studies.tracking import connect, default_uri, mirror
from ablate.studies.ui import Pages, _free_port, serve

SHOTS = Path(__file__).parents[2] / "test-output"
TABLE = """| effect | PESQ | 95 % interval | verdict |
|---|---|---|---|
| gap | -0.38 | -0.50 to -0.26 | confirmed |
| direction | -0.05 | -0.20 to +0.10 | undecided |
| *unexplained* | -0.33 | -0.49 to -0.17 | |
"""


def test_a_taken_port_is_refused_or_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is in use"):
            _free_port(port)
    assert _free_port(0) not in {0, port}


def test_nothing_mirrored_says_what_to_do(toy: Any) -> None:
    with pytest.raises(InputError, match="ablate sync"), serve(toy.root):
        pass


@pytest.fixture(scope="module")
def window(
    tmp_path_factory: pytest.TempPathFactory, study_on_disk: Any, schema: Path
) -> Iterator[tuple[Pages, Path]]:
    """What `ablate ui` prints, and the root it shows."""
    root = tmp_path_factory.mktemp("ui") / "root"
    study = study_on_disk(root, "direction-study", cells=3)
    for cell, seed in study.slots():
        study.complete(cell, seed, audio=True)
    (study.folder / "report").mkdir()
    (study.folder / "report" / "table.md").write_text(TABLE)
    shutil.copyfile(schema, root / "mlflow.db")
    assert mirror(root, study.name)
    code = "from ablate.reports.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, "ui", study.name, "--root", str(root), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        runs = process.stdout.readline().decode().strip()
        assert runs.startswith("http://127.0.0.1:"), process.communicate()[1]
        yield Pages(runs.split("/#")[0], runs, process), root
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(300)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver are missing (apt-get install chromium chromium-driver)")
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("disable-dev-shm-usage", "window-size=1500,1300", f"user-data-dir={profile}"),
    ):
        options.add_argument(f"--{flag}")
    opened = webdriver.Chrome(options, Service(driver))
    yield opened
    opened.quit()


def see(browser: Any, url: str, shot: str, ready: Callable[[], Any]) -> Any:
    """Open a page afresh, wait until it shows what it should, and keep a picture of it."""
    browser.get("about:blank")
    browser.get(url)
    SHOTS.mkdir(exist_ok=True)
    deadline = time.monotonic() + 300
    try:
        while not (found := ready()):
            assert time.monotonic() < deadline, f"{url} shows only: {body(browser)[:2000]}"
            time.sleep(0.3)
        time.sleep(1.5)
        return found
    finally:
        browser.save_screenshot(str(SHOTS / f"{shot}.png"))


def body(browser: Any) -> str:
    return browser.execute_script("return document.body ? document.body.innerText : ''")


@pytest.mark.slow
def test_experiment_list(browser: Any, window: tuple[Pages, Path]) -> None:
    url = f"{window[0].server}/#/experiments?workflowType=machine_learning"
    see(browser, url, "mlflow-experiments", lambda: "direction-study" in body(browser))


CURVES = """
const title = [...document.querySelectorAll('*')].find(e => !e.children.length && e.textContent === 'pesq_wb'
    || !e.children.length && e.textContent === 'val/pesq_wb');
if (!title) return 0;
let card = title;
while (card && !card.querySelector('.js-plotly-plot')) card = card.parentElement;
if (!card) return 0;
return card.querySelectorAll('.js-line').length;
"""


@pytest.mark.slow
def test_runs_page_has_a_pesq_curve_for_each_cell(browser: Any, window: tuple[Pages, Path]) -> None:
    drawn = lambda: browser.execute_script(CURVES) >= 3  # noqa: E731
    see(browser, window[0].runs, "mlflow-grouped-pesq", drawn)
    text = body(browser)
    assert "Group: baseline" in text
    assert "Group by: cell" in text


@pytest.mark.slow
def test_parent_note_has_table_and_working_link(browser: Any, window: tuple[Pages, Path]) -> None:
    opened, root = window
    client = connect(default_uri(root))
    (parent,) = client.search_runs(["1"], "tags.`ablate.kind` = 'study'")
    url = f"{opened.server}/#/experiments/1/runs/{parent.info.run_id}?workflowType=machine_learning"
    see(browser, url, "mlflow-parent", lambda: "unexplained" in body(browser))
    (link,) = browser.find_elements("partial link text", "Compare these runs")
    target = link.get_attribute("href")
    see(browser, target, "mlflow-parent-link", lambda: "Comparing 6 Runs" in body(browser))


@pytest.mark.slow
def test_child_run_audio_figure_and_scores(browser: Any, window: tuple[Pages, Path]) -> None:
    opened, root = window
    client = connect(default_uri(root))
    (child,) = client.search_runs(["1"], "tags.`ablate.cell` = 'baseline' and tags.`ablate.seed` = '1'")
    page = f"{opened.server}/#/experiments/1/runs/{child.info.run_id}"
    see(
        browser, f"{page}?workflowType=machine_learning", "mlflow-run", lambda: "val/pesq_wb" in body(browser)
    )
    playable = """
        const hosts = [...document.querySelectorAll('*')].filter(e => e.shadowRoot);
        const roots = [document, ...hosts.map(e => e.shadowRoot)];
        return roots.flatMap(r => [...r.querySelectorAll('audio')]).some(a => a.duration > 0.9);
    """
    audio = f"{page}/artifacts/audio/p1_001-enhanced.wav"
    see(browser, audio, "mlflow-audio", lambda: browser.execute_script(playable))
    see(browser, f"{page}/artifacts/scores.csv", "mlflow-scores", lambda: "p2_001" in body(browser))


@pytest.mark.slow
def test_interrupt_ends_command_and_server(window: tuple[Pages, Path]) -> None:
    opened, _ = window
    assert urllib.request.urlopen(f"{opened.server}/health", timeout=10).status == 200
    assert opened.process is not None
    opened.process.send_signal(signal.SIGINT)
    assert opened.process.wait(300) == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{opened.server}/health", timeout=5)
