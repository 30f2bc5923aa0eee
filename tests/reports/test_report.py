"""The page of runs: what it says, that it is whole and safe, and how it looks in a browser."""

import base64
import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from report_pages import HEALTH, Page, film, png, write_run

import lsp_fast
from lsp_fast.cli import main, parse
from lsp_fast.config import ALGORITHMS, PRESETS, Config, make_config, replace
from lsp_fast.errors import LspFastError
from lsp_fast.reports.plot import plot
from lsp_fast.reports.report import svg
from lsp_fast.reports.report.command import go_on
from lsp_fast.reports.report.health import QUESTIONS, Band, blind_std, judged
from lsp_fast.reports.report.page import report

ROOT = Path(__file__).parents[2]
MEASURES = {measure.name: measure for measures in QUESTIONS.values() for measure in measures}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods, of one two seeds; two tasks; a folder without a run, and one whose metrics are damaged."""
    folder = tmp_path_factory.mktemp("many") / "runs"
    write_run(folder / "a", rows=8)
    write_run(folder / "b", (30.0, 60.0), rows=8, seed=1)
    write_run(folder / "c", (50.0, None), rows=8, algorithm="dreamer", health={"skill/information": None})
    write_run(folder / "d", (70.0,), rows=8, task="hopper_hop", env_steps=9000, skill__beta=0.7)
    (folder / "a" / "skills").mkdir()
    (folder / "a" / "skills" / "skills.png").write_bytes(png())
    (folder / "empty").mkdir()
    broken = write_run(folder / "broken", seed=5)
    (broken / "metrics.jsonl").write_text('{"env_steps": 10, "eval/ret\n{"env_steps": 20, "eval/return": 1.0}\n')
    return folder


@pytest.fixture(scope="module")
def shown(runs):
    """Their page."""
    result = report([runs], runs.parent / "report.html")
    return Page(result.path.read_text()), result


def page_of(folder, tmp_path, **options):
    result = report([folder], tmp_path / "report.html", **options)
    return Page(result.path.read_text()), result


def test_a_page_says_what_plot_says_and_more(runs, shown, tmp_path):
    page, result = shown
    drawn = plot([runs], tmp_path / "curve.png")
    cells = [cell for final in drawn.table for cell in final.cells()]
    assert page.text("td")[: len(cells)] == cells
    assert page.text("h1") == page.text("title") == ["4 runs of hopper_hop, walker_walk"]
    assert page.text("h2") == ["What to know first", "Learning curves", "Scores", "Health", "What differs", "Runs"]
    notes = page.text("li")
    assert all(any(" ".join(line.split()) in note for note in notes) for line in drawn.warnings)
    assert any("broken/metrics.jsonl is damaged" in note for note in notes)
    assert "hopper_hop lsp, seed 0 is not finished: it came to 2,000 of 9,000 environment steps." in notes
    assert {f"run-{i}" for i in range(4)} <= page.ids and result.runs == 4
    captions = page.text("figcaption")
    assert captions[:3] == ["hopper_hop", "walker_walk", "all tasks"] and "lsp (2 seeds)" in notes
    assert str(result) == f"page {runs.parent / 'report.html'} ({result.size / 1000:.0f} kB, 4 runs)"


def test_a_page_is_whole_without_anything_else(shown):
    page, result = shown
    html = result.path.read_text()
    assert not re.search(r"https?:|//[a-z]|@import|<script|<iframe|<object|<base|srcset", html)
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    loaded = [a[name] for _, a in page.elements for name in ("src", "data", "poster") if name in a]
    assert loaded and all(source.startswith("data:") for source in loaded)
    links = [a["href"] for tag, a in page.elements if "href" in a and tag != "link"]
    assert all(link[0] != "#" or link[1:] in page.ids for link in links)
    labelled = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert set(labelled) <= page.ids
    assert all(a["alt"] for a in page.of("img")) and all(a.get("role") == "img" for a in page.of("svg"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels.count(1) == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    [policy] = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_names_are_texts_and_never_html(tmp_path):
    bad = "<script>alert(1)</script>\"'&$x^$"
    folder = write_run(tmp_path / "runs" / "<b>'\"&", label=bad, task="gym:<i>x</i>")
    (folder / "<img src=x>.png").write_bytes(png())
    (folder / "no<br>.png").write_text("no picture")
    scores = tmp_path / "runs" / "s.json"
    scores.write_text(json.dumps([{"task": "_<u>", "method": bad, "seed": "<s>", "xs": [1, 2], "ys": [1.0, 2.0]}]))
    reference = tmp_path / "r.json"
    reference.write_text(json.dumps([{"task": "_<u>", "method": "<q>", "seed": 0, "xs": [1], "ys": [1.0]}]))
    result = report([folder, scores], tmp_path / "r.html", [reference], title=bad)
    html = result.path.read_text()
    page = Page(html)
    assert not re.search(r"<(script|b|i|u|s|q|br)\b[^>]*>", html) and len(page.of("img")) == 1
    assert page.text("h1") == [bad] and f"{bad} (1 seed)" in page.text("li")
    assert "<q>, reference (1 seed)" in page.text("li")
    assert any("no<br>.png is no image/png" in note for note in page.text("li"))


def test_the_same_runs_give_the_same_page_whatever_their_order(runs, tmp_path):
    first = report([runs / "a", runs / "b"], tmp_path / "1.html").path.read_bytes()
    assert report([runs / "b", runs / "a", runs / "b"], tmp_path / "2.html").path.read_bytes() == first


# Health


def config_with(**values):
    return replace(Config(), {name.replace("__", "."): value for name, value in values.items()})


@pytest.mark.parametrize(
    ("name", "row", "values", "text", "verdict"),
    [
        ("world_model/reward_error", {"behavior/task_reward": -0.2}, {}, "0.1", "good"),
        ("world_model/reward_error", {"behavior/task_reward": 0.02}, {}, "1", "bad"),
        ("world_model/reward_error", {"behavior/task_reward": 0.04}, {}, "0.5", "between"),
        ("world_model/kl", {}, {}, "5", "good"),
        ("world_model/kl", {}, {"model__free_nats": 6.0}, "5", "bad"),
        ("world_model/observation_nll", {}, {}, "-3", None),
        ("behavior/value_abs_max", {}, {}, "0.3", "good"),
        ("behavior/value_abs_max", {"behavior/reward_abs_max": 0.1}, {}, "3", "bad"),
        ("behavior/saturation", {"behavior/saturation": 0.4}, {}, "0.4", "good"),
        ("behavior/saturation", {"behavior/saturation": 0.6}, {}, "0.6", "between"),
        ("behavior/saturation", {}, {}, "0.95", "bad"),
        ("skill/action_spread", {}, {}, "0.5", "good"),
        ("skill/action_spread", {"skill/action_spread": 0.05}, {}, "0.05", "bad"),
        ("skill/information", {}, {}, "1.4", "good"),
        ("skill/information", {"skill/information": 0}, {}, "0", "bad"),
        ("skill/beta", {"skill/beta": 0.3}, {}, "0.3", None),
        ("skill/beta", {"skill/beta": 0.3}, {"skill__beta_kind": "gradient"}, "0.3", "good"),
        ("skill/beta", {"skill/beta": 0.5}, {"skill__beta_kind": "gradient"}, "0.5", "bad"),
        ("planner/gain", {"planner/gain_error": 0.01}, {}, "0.1 ± 0.004 %", "good"),
        ("planner/gain", {}, {}, "0.1 ± 0.09 %", "bad"),
        ("planner/gain", {"planner/gain": -1.0, "planner/gain_error": 0.01}, {}, "-1 ± 0.004 %", "bad"),
        ("planner/elite_overlap", {}, {}, "0.3", "bad"),
        ("planner/elite_overlap", {"planner/elite_overlap": 0.8}, {}, "0.8", "good"),
        ("planner/elite_overlap", {}, {"planner__rollouts": "mean"}, "0.3", None),
        ("planner/std", {}, {}, "0.4", "bad"),
        ("planner/std", {"planner/std": 0.2}, {}, "0.2", "good"),
        ("planner/std", {}, {"planner__std_min": 0.3}, "0.4", None),
        ("hiro/relabelled", {"hiro/relabelled": 0.5}, {}, "0.5", None),
    ],
)
def test_a_number_is_judged_as_the_page_on_metrics_says(name, row, values, text, verdict):
    state = judged(MEASURES[name], [{**HEALTH, **row}] * 6, config_with(**values))
    assert (state.text, state.verdict) == (text, verdict)


def test_only_the_newest_rows_count_and_only_numbers():
    kl, rows = MEASURES["world_model/kl"], [{"world_model/kl": value} for value in (99, 1, 2, 3, 4, 5)]
    odd = [{"world_model/kl": value} for value in (None, "7", True, float("nan"))]
    assert judged(kl, rows + odd, Config()).value == 3
    assert judged(kl, odd, Config()) is None
    assert judged(kl, rows, None).verdict is None
    # Nothing to divide by, and nothing that can be earned.
    assert judged(MEASURES["planner/gain"], [{"planner/gain": 1.0, "planner/gain_error": 0.0}], Config()) is None
    huge = [{"planner/gain": 1.0, "planner/gain_error": 1e300}] * 2
    assert judged(MEASURES["planner/gain"], huge, Config()).verdict == "bad"
    endless = config_with(behavior__gamma=1.0)
    assert judged(MEASURES["behavior/value_abs_max"], [HEALTH], endless) is None


def test_the_words_are_those_of_the_page_on_metrics():
    told = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        for name in re.findall(r"`([^`]+)`", cells[0]) if line.startswith("|") else []:
            told[name] = [re.sub(r" \(\[[^]]*\]\([^)]*\)\)", "", cell) for cell in cells[1:]]
    headings = re.findall(r"^## (.*)", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert [question for question in headings if question in QUESTIONS] == list(QUESTIONS)
    for name, measure in MEASURES.items():
        assert [measure.meaning, measure.good, measure.bad, measure.remedy] == told[name]


def test_elites_chosen_blindly_narrow_the_spread():
    assert blind_std(4, 4) == pytest.approx(0.405, abs=1e-3)  # docs/metrics.md
    draws = np.random.default_rng(0).standard_normal((100_000, 7)).std(1).mean()
    assert blind_std(7, 1) == pytest.approx(draws, rel=0.01)
    assert blind_std(1, 4) == 0


def test_a_page_shows_health_over_time_and_names_what_is_bad(shown):
    page, _ = shown
    assert "behavior-saturation" in page.ids
    assert [text for text in page.text("h3") if text in QUESTIONS] == list(QUESTIONS)[:4]
    bad = [text for text in page.text("p") if text.startswith("Bad: ")]
    assert len(bad) == 4 and "behavior/saturation (0.95), planner/gain (0.1 ± 0.09 %)" in bad[0]
    # A row for each run; of one whose number was never finite there is none.
    assert page.text("td").count("1.4 good") == 3 and page.text("td").count("0.95 bad") == 4


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("higher", [False, True])
def test_a_band_lies_where_the_number_is_good(log, higher):
    line = svg.Line([0, 1], [0.1, 10.0], "#1f77b4")
    found = svg.health([line], Band(2.0, 1.0, higher) if higher else Band(1.0, 2.0, higher), "x", log=log).svg
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--(good|bad)\)', found)
    heights = {kind: np.mean([float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]) for path, kind in paths}
    assert len(heights) == 2 and (heights["good"] < heights["bad"]) == higher  # SVG counts downwards


def test_a_long_line_is_drawn_of_means():
    line = svg.Line(list(range(10_000)), [float(i % 2) for i in range(10_000)], "#1f77b4")
    assert len(svg.health([line], None, "x").svg) < 20_000


# Differences, and how to go on


def test_a_table_of_what_differs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"a{seed}", seed=seed, train__log_every=100 + seed)
        write_run(tmp_path / "runs" / f"t{seed}", seed=seed, task="hopper_hop")
    write_run(tmp_path / "runs" / "b", label="strong", skill__beta=0.9, train__overlap=True)
    page, _ = page_of(tmp_path / "runs", tmp_path)
    headings = page.text("th")
    at = headings.index("value")
    columns = ["lsp hopper_hop, walker_walk seeds 0, 1", "strong walker_walk seed 0"]
    assert headings[at:] == ["value", *columns, "train.overlap", "skill.beta"]
    assert page.text("td")[-4:] == ["no", "yes", "0.1", "0.9"]
    assert [a.get("class") for a in page.of("td")][-4:] == [None, "other", None, "other"]


def test_runs_that_would_be_called_alike_are_told_apart_by_their_folders(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "runs" / name)
    write_run(tmp_path / "runs" / "c", seed=1)
    page, _ = page_of(tmp_path / "runs", tmp_path)
    labels = [a["aria-label"] for a in page.of("article")]
    alike = [f"walker_walk lsp, seed 0 ({tmp_path / 'runs' / name})" for name in ("a", "b")]
    assert labels == [*alike, "walker_walk lsp, seed 1"]


def test_runs_that_share_everything_differ_in_nothing(tmp_path):
    write_run(tmp_path / "runs" / "a")
    page, _ = page_of(tmp_path / "runs", tmp_path)
    assert "All runs have the same configuration, tasks and seeds apart." in page.text("p")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_command_goes_on_with_the_run(preset, algorithm):
    config = make_config(preset, algorithm, task="gym:my tasks:X-v0", seed=7, label="it's -new", model__deter=24)
    config = replace(config, {"train.overlap": not config.train.overlap, "train.cuda_graph": False, "label": "-l"})
    words = shlex.split(go_on(config, Path("a folder/x")))
    command = parse(words[1:])
    assert words[:2] == ["lsp-fast", "train"] and command.config == config and command.logdir == Path("a folder/x")


def test_the_page_goes_on_with_a_run_that_was_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--preset smoke --device cpu --backend reference --train.eval-every 500 --logdir runs/x"
    assert main(f"train --env-steps 1000 {options}".split()) == 0
    page = Page(report([Path("runs")], Path("r.html")).path.read_text())
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts["lsp_fast"] == lsp_fast.__version__ and facts["torch"] == torch.__version__
    assert facts["device"].startswith("cpu (") and facts["preset"] == "smoke"
    [command] = page.text("pre")
    assert main(shlex.split(command.replace("--env-steps 1000", "--env-steps 1010"))[1:]) == 0
    assert main(["report", "runs", "--out", "r.html", "--title", "Mine"]) == 0
    assert "page r.html (" in capsys.readouterr().out
    page = Page(Path("r.html").read_text())
    assert page.text("h1") == ["Mine"] and "1,010 of 1,010" in page.text("dd")


def test_a_run_of_another_version_is_shown_as_far_as_it_can_be(tmp_path):
    folder = write_run(tmp_path / "runs" / "a")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "later": 1}))
    page, _ = page_of(tmp_path / "runs", tmp_path)
    assert not page.text("pre") and any("of another version" in text for text in page.text("p"))
    assert "2,000 of 2,000" in page.text("dd") and not any("good" in text for text in page.text("td"))


@pytest.mark.parametrize("content", ["", "[1]", "[" * 100_000, '{"device": 3}'])
def test_what_says_the_versions_may_be_damaged(tmp_path, content):
    folder = write_run(tmp_path / "runs" / "a", device="cpu")
    (folder / "made_with.json").write_text(content)
    page, _ = page_of(tmp_path / "runs", tmp_path)
    assert ("3" if "device" in content else "cpu") in page.text("dd")


def test_seconds_are_those_of_all_starts(tmp_path):
    folder = write_run(tmp_path / "runs" / "a")
    rows = [{"env_steps": i, "seconds": s} for i, s in enumerate([60, 3600, 5, 3605], 1)]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    page, _ = page_of(tmp_path / "runs", tmp_path)
    assert "2 h 00 min" in page.text("dd")


# Pictures and videos


def test_videos_and_pictures_lie_within_the_page(tmp_path):
    folder = write_run(tmp_path / "runs" / "a run")
    for name in ("skills", "images", "checkpoints"):
        (folder / name).mkdir()
    (folder / "skills" / "skills.png").write_bytes(png(1280, 300))
    (folder / "skills" / "skills.gif").write_bytes(b"GIF89a" + bytes(20))
    film(folder / "skills" / "skills.mp4")
    (folder / "checkpoints" / "not.png").write_bytes(png())
    (folder / "learning_curve.png").write_bytes(png())
    for steps in (500, 1000):
        (folder / "images" / f"open_loop_{steps:09d}.png").write_bytes(png(height=steps // 10))
    page, result = page_of(tmp_path / "runs", tmp_path)
    [newest, skills] = page.of("img")
    assert (newest["width"], newest["height"], newest["src"][:22]) == ("40", "100", "data:image/png;base64,")
    assert skills["class"] == "wide" and skills["alt"].startswith("walker_walk lsp, seed 0: skills held")
    assert "open_loop, at 1,000 environment steps" in page.text("figcaption")
    assert "skills.gif" not in result.path.read_text()
    [video] = page.of("video")
    assert base64.b64decode(video["src"].partition(",")[2]) == (folder / "skills" / "skills.mp4").read_bytes()
    assert (video["width"], video["height"]) == ("160", "64") and "controls" in video and "autoplay" not in video
    [link] = [a["href"] for a in page.of("a") if "/" in a["href"]]
    assert link == "runs/a%20run/images/open_loop_000000500.png"


def test_what_the_page_has_no_room_for_is_said_and_linked(tmp_path):
    folder = write_run(tmp_path / "runs" / "a")
    (folder / "small.png").write_bytes(png())
    for name in ("one.png", "other.png"):  # of which there is room for one
        (folder / name).write_bytes(png(130, 130, noise=True))
    (folder / "large.png").write_bytes(png(200, 200, noise=True))
    (tmp_path / "pages").mkdir()
    result = report([folder], tmp_path / "pages" / "r.html", megabytes=0.1)
    page = Page(result.path.read_text())
    assert len(page.of("img")) == 2 and result.size < 400_000
    [said] = [text for text in result.warnings if "beyond 0.1 MB" in text]
    assert "large.png (12" in said and "other.png (5" in said and "small.png" not in said and "one.png" not in said
    assert any(a["href"] == "../runs/a/large.png" for a in page.of("a"))
    assert not Page(report([folder], tmp_path / "r.html", megabytes=0).path.read_text()).of("img")


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("r.pdf", {}, "a page's name ends with .html"),
        ("r", {}, "a page's name ends with .html"),
        ("no/r.html", {}, "does not exist; make it or name another"),
        ("folder.html", {}, "Is a directory"),
        ("r.html", {"megabytes": -1}, "-1 megabytes: must be at least 0"),
        ("r.html", {"megabytes": float("nan")}, "nan megabytes: must be"),
        ("r.html", {"paths": []}, "nothing to draw"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused(runs, tmp_path, out, options, message):
    (tmp_path / "folder.html").mkdir()
    there = set(tmp_path.rglob("*"))
    with pytest.raises(LspFastError, match=message):
        report(options.pop("paths", [runs / "a"]), tmp_path / out, **options)
    assert set(tmp_path.rglob("*")) == there


def test_a_page_needs_no_torch():
    code = "import sys, lsp_fast.reports.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_dark_colours_are_lighter():
    assert svg.light("#000000") == "#666666" and svg.light("#ffffff") == "#ffffff"


@pytest.mark.slow
def test_a_page_of_24_runs_stays_small(tmp_path):
    for task in ("walker_walk", "hopper_hop", "cheetah_run", "walker_run"):
        for method in ("lsp", "dreamer"):
            for seed in range(3):
                folder = tmp_path / "runs" / f"{task}-{method}-{seed}"
                ys = [float(i + seed) for i in range(100)]
                write_run(folder, ys, rows=1000, task=task, algorithm=method, seed=seed)
                (folder / "picture.png").write_bytes(png(500, 500, noise=True))
    _, result = page_of(tmp_path / "runs", tmp_path)
    assert 7e6 < result.size < 10e6 and result.runs == 24
