"""The page of runs as Chromium shows it: no wider than a telephone or a screen, whole, and without a complaint."""

import json
import re
import shutil
import subprocess

import pytest
from report_pages import film, png, write_run

from lsp_fast.reports.report.page import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --virtual-time-budget=20000 "
    "--window-size=1700,1200 --dump-dom"
)
# What lies beyond the screen, unless it scrolls within itself; and what is there and does not show.
MEASURING = """<script>addEventListener("load", () => {
  const width = document.documentElement.clientWidth;
  const beyond = [...document.body.querySelectorAll("*")].filter(
    (e) => !e.closest(".scroll > *") && !e.closest("svg *") && e.getBoundingClientRect().right > width + 0.5);
  parent.postMessage({
    asked: innerWidth, width: document.documentElement.scrollWidth,
    beyond: beyond.map((e) => e.outerHTML.slice(0, 80)),
    broken: [...document.images].filter((e) => !e.naturalWidth).length
      + [...document.querySelectorAll("video")].filter((e) => e.error).length,
    narrow: [...document.querySelectorAll("th, td, dd, figcaption, li, p, h3, h4")].filter(
      (e) => e.getBoundingClientRect().height > 5 * e.getBoundingClientRect().width).length,
    charts: [...document.querySelectorAll("svg")].filter((e) => e.getBoundingClientRect().height > 50).length,
  }, "*");
});</script>"""


def looked_at(html, folder, widths):
    """What a browser finds in a page at some widths; and what it writes to the console."""
    policy = "script-src 'unsafe-inline'; default-src 'none'"
    (folder / "copy.html").write_text(html.replace("default-src 'none'", policy, 1).replace("</body>", MEASURING))
    # A window cannot be as narrow as a telephone; a frame can.
    frames = "".join(
        f'<iframe src="copy.html" width="{width}" height="900" frameborder="0"></iframe>' for width in widths
    )
    outer = (
        "<!DOCTYPE html><body><script>addEventListener('message', (e) => { const p = document.createElement('p'); "
        f"p.textContent = JSON.stringify(e.data); document.body.append(p); }});</script>{frames}"
    )
    (folder / "outer.html").write_text(outer)
    command = [CHROMIUM, *OPTIONS.split(), f"--user-data-dir={folder / 'profile'}", (folder / "outer.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = [json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
             for text in re.findall(r"<p>(.*?)</p>", done.stdout)]  # fmt: skip
    return {one["asked"]: one for one in found}, [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_page_on_a_telephone_and_on_a_screen(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", rows=8, seed=1)
    write_run(runs / "b", rows=8, algorithm="dreamer", model__deter=24)
    long = write_run(runs / ("a-very-long-name-of-a-folder-" * 5), label="without_a_place_to_break_" * 4, seed=3)
    write_run(runs / "copy", label="without_a_place_to_break_" * 4, seed=3)
    (long / "skills").mkdir()
    (long / "skills" / "skills.png").write_bytes(png(1280, 300))
    (long / "wide.png").write_bytes(png(700, 600))
    film(long / "skills" / "skills.mp4")
    html = report([runs], tmp_path / "r.html", title="x" * 200).path.read_text()
    found, console = looked_at(html, tmp_path, (360, 1280))
    assert not console
    for width in (360, 1280):
        one = found[width]
        assert one["width"] == width and one["beyond"] == [] and one["broken"] == one["narrow"] == 0
        assert one["charts"] == html.count("<svg") > 10


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_browser_would_find_what_is_wrong(tmp_path):
    html = (
        "<!DOCTYPE html><html><head><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src "
        "data:; style-src 'unsafe-inline'\"><meta charset=\"utf-8\">"
        '<title>x</title></head><body><div style="width: 600px">x</div>'
        '<img alt="x" src="data:image/png;base64,AAAA"><img alt="y" src="http://localhost:9/x.png">'
        "<script>console.error('boo')</script></body></html>"
    )  # fmt: skip
    found, console = looked_at(html, tmp_path, (360,))
    assert found[360]["width"] > 360 and found[360]["beyond"][0].startswith("<div") and found[360]["broken"] == 2
    assert any("boo" in line for line in console) and any("Content Security Policy" in line for line in console)
