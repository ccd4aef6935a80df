from __future__ import annotations

import io
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

from ablate.reports.listening import listening, spectrogram
from ablate.reports.renderers import write

LOADING = {"src", "href", "action", "data", "poster", "srcset", "formaction"}


class Page(HTMLParser):
    """Collects what a page would load, its ids, and images without words."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.anchors, self.speechless, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in LOADING and not v.startswith("#")]
        self.anchors += [v[1:] for k, v in attrs if k in LOADING and v.startswith("#")]
        if "id" in values:
            self.ids.append(values["id"])
        if (tag == "img" and not values.get("alt")) or (tag == "svg" and not values.get("aria-label")):
            self.speechless.append(attrs)


@pytest.fixture(scope="module")
def text(report):
    out = io.StringIO()
    write(report, "html", out)
    return out.getvalue()


def test_the_page_loads_nothing_from_outside(text):
    page = Page(text)
    assert {load.split(":")[0] for load in page.loads} == {"data"}
    assert "http" not in re.sub("http-equiv", "", text)
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert "script" not in page.tags
    assert "default-src 'none'" in unescape(text)


def test_ids_are_unique_and_links_lead_somewhere(text):
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.anchors) <= set(page.ids)


def test_every_figure_has_words(text):
    page = Page(text)
    assert page.speechless == []
    assert page.tags.count("svg") == 7


def test_sections_are_there(text):
    plain = re.sub(r"\s+", " ", re.sub("<[^>]+>", "", text))
    for part in (
        "Gap bsrnn - mbsnet",
        "By signal-to-noise ratio",
        "By noise",
        "By speaker",
        "steps to it",
        "MACs per second of audio",
        "peak memory",
        "published, not measured here",
        "SEMamba",
        "AB012",
        "waived",
        "0123456789ab",
        "Secondary: the pooled crossed model",
        "How to read this",
    ):
        assert part in plain, part


def test_players_for_the_fixed_utterances(report, text):
    groups, note = listening(report)
    assert note == ""
    assert len(groups) == 2
    labels = [clip.label for clip in groups[0].clips]
    assert labels[:4] == ["noisy", "clean", "bsrnn", "base"]
    assert len(labels) == 2 + 9
    assert groups[0].clips[2].score.startswith("PESQ-WB 2.")
    assert text.count("<audio") == 2 * 11


def test_sounds_beyond_the_budget_are_named(report):
    groups, note = listening(report, budget=300_000)
    assert [clip.label for clip in groups[0].clips][:2] == ["noisy", "clean"]
    assert len(groups[0].clips) < 11
    assert note.startswith("Left out to keep the page small: ")


def test_spectrogram_is_a_small_picture():
    import numpy as np
    from PIL import Image

    time = np.arange(16000) / 16000
    picture = Image.open(io.BytesIO(spectrogram(np.sin(2 * np.pi * 1000 * time).astype(np.float32))))
    pixels = np.asarray(picture)
    assert pixels.shape[0] == 128
    assert abs(int(pixels.mean(1).argmax()) - 128 * (1 - 1000 / 8000)) <= 2


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Run headless Chromium with some arguments; everything but the page itself is out of its reach."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(*arguments):
        fixed = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
        away = "--host-resolver-rules=MAP * ~NOTFOUND"
        command = [found, *fixed, away, f"--user-data-dir={profile}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=180)

    return run


def complaints(done):
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it_without_complaint(browser, text, tmp_path, width):
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(text)
    done = browser(f"--screenshot={picture}", f"--window-size={width},2400", page.as_uri())
    assert picture.stat().st_size > 50_000
    assert complaints(done) == []


@pytest.mark.slow
def test_a_page_that_asks_for_more_than_itself_would_be_noticed(browser, text, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt="x"></main>'))
    assert "Content Security Policy" in "".join(complaints(browser("--dump-dom", page.as_uri())))


@pytest.mark.slow
def test_the_page_fits_a_phone(browser, text, tmp_path):
    probe = (
        "<script>document.documentElement.dataset.over ="
        " [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&"
        " e.getBoundingClientRect().right > window.innerWidth + 1).length;"
        "document.documentElement.dataset.width = window.innerWidth</script></body>"
    )
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page = tmp_path / "probe.html"
    page.write_text(open_page.replace("</body>", probe))
    done = browser("--dump-dom", "--window-size=390,900", page.as_uri())
    assert int(re.search(r'data-width="(\d+)"', done.stdout).group(1)) <= 520
    assert re.search(r'data-over="(\d+)"', done.stdout).group(1) == "0"
