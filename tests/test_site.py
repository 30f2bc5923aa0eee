"""The documentation builds as a site, where every link leads somewhere, and nothing is fetched from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_page_is_there(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"index", "benchmarks", "experiments"} <= {path.stem for path in site.glob("*.html")}


def test_every_page_stands_in_the_navigation(site):
    text = (ROOT / "mkdocs.yml").read_text()
    assert not [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}" not in text]


def test_links_within_the_site_lead_to_files(site):
    """MkDocs checks links between pages; these are those that the hook has made, too."""
    for page in site.glob("*.html"):
        links = re.findall(r'(?:href|src)="([^"#?]+)', page.read_text())
        for link in (link for link in links if ":" not in link):
            assert (site / link.lstrip("/")).exists(), (page.name, link)
    assert (site / "files/benchmarks/results/protocol_100k.png").stat().st_size > 10_000


def test_nothing_comes_from_elsewhere(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="https?:', text), page.name
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]+href="https?:', text), page.name


def test_the_api_is_told_from_the_docstrings(site):
    text = (site / "api.html").read_text()
    for name in ("lsp_fast.config.make.make_config", "lsp_fast.evaluate.load", "lsp_fast.ops.lambda_return"):
        assert f'id="{name}' in text
    assert "Raises:" in text and "config.json" not in text.split("<h1")[0]
