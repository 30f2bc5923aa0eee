"""Curves: a panel a task, from metrics alone and beside published scores; and the table that comes with them."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lsp_fast.cli import main
from lsp_fast.config import make_config, to_dict
from lsp_fast.errors import LspFastError
from lsp_fast.reports.figures import learning_curves
from lsp_fast.reports.plot import plot
from lsp_fast.reports.scores import read_scores


def row(xs, ys, task="t", method="m", seed=0):
    return {"task": task, "method": method, "seed": seed, "xs": xs, "ys": ys}


@pytest.mark.parametrize(
    ("rows", "panels"),
    [
        ([], 1),
        ([row([1, 2], [0.0, 1.0])], 1),
        ([row([1, 2], [0.0, None]), row([1], [1.0], seed=1)], 1),
        ([row([], [])], 1),
        ([row([1], [1.0], method="a"), row([1], [2.0], method="b"), row([3], [1.0], task="u")], 2),
    ],
)
def test_curves_are_drawn_in_a_panel_for_each_task(tmp_path, rows, panels):
    (tmp_path / "a.json").write_text(json.dumps(rows[:1]))
    (tmp_path / "b.json").write_text(json.dumps(rows[1:]))
    path = learning_curves(read_scores([tmp_path / "a.json", tmp_path / "b.json"]), tmp_path / "curve.png")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    [width] = struct.unpack(">I", content[16:20])
    assert width == 660 * panels


# The command: runs from their metrics alone


NAN = pytest.approx(np.nan, nan_ok=True)


def write_run(folder, xs, ys, tail="", **config):
    """A run's folder as training leaves it, without checkpoints."""
    folder.mkdir(parents=True)
    made = to_dict(make_config("smoke", task=config.pop("task", "walker_walk"), **config))
    (folder / "config.json").write_text(json.dumps(made))
    rows = [{"env_steps": 10, "updates": 0}, *({"env_steps": x, "eval/return": y} for x, y in zip(xs, ys, strict=True))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one method, the second killed while it wrote a line; another method; another task; a young run."""
    folder = tmp_path / "runs"
    write_run(folder / "a", [10, 20], [1.0, 2.0])
    write_run(folder / "deep" / "b", [10, 20], [3.0, 6.0], seed=1, tail='{"env_steps": 30, "eval/re')
    write_run(folder / "c", [10, 20], [5.0, None], algorithm="dreamer")
    write_run(folder / "d", [10], [7.0], task="hopper_hop")
    write_run(folder / "young", [], [], seed=2)
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The figure that was drawn last."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    return figures


def test_a_folder_of_runs_becomes_a_table_and_a_panel_for_each_task(runs, tmp_path, drawn):
    out = tmp_path / "figure.png"
    result = plot([runs], out)
    assert [final[:8] for final in result.table] == [
        ("hopper_hop", "lsp", 1, 10, 7.0, None, 7.0, None),
        ("walker_walk", "dreamer", 1, 20, NAN, None, NAN, None),
        ("walker_walk", "lsp", 2, 20, 4.0, (2.0, 6.0), 4.0, (2.0, 6.0)),
        ("all tasks", "lsp", 1, None, None, None, pytest.approx((7.0 + 2.0) / 2 / 1000), None),
    ]
    young, *pooled = result.warnings
    assert "young has no evaluations yet" in young
    assert pooled == [
        "walker_walk dreamer: there is no mean, as what seed 0 returned at 20 is not finite",
        "all tasks: dreamer is left out, as it has no run of hopper_hop",
        "all tasks lsp: seeds left out, as not every task has them: 1 of walker_walk",
        "all tasks lsp: the tasks end at 10, 20 environment steps; each counts with its own last common evaluation",
    ]
    lines = str(result).splitlines()
    assert lines[3] == "walker_walk  lsp      2      20                 4.0 [2.0, 6.0]              4.0 [2.0, 6.0]"
    assert re.fullmatch(r"all tasks +lsp +1 +- +- +0.00[45]", lines[4])
    assert "the most that an episode of dm_control returns" in lines[6] and str(out) in lines[-1]
    hop, walk, pool = drawn[-1].axes
    assert pool.get_title() == "all tasks"
    assert (hop.get_title(), walk.get_title()) == ("hopper_hop", "walker_walk")
    assert [t.get_text() for t in walk.get_legend().get_texts()] == ["dreamer (1 seed)", "lsp (2 seeds)"]
    # A band for two seeds, none for one.
    assert len(walk.collections) == 1 and len(hop.collections) == 0
    one, first, second, mean = walk.lines
    assert first.get_linewidth() == second.get_linewidth() < mean.get_linewidth() == one.get_linewidth()
    assert first.get_color() == second.get_color() == mean.get_color() != one.get_color()
    # One colour per method, in every panel.
    assert hop.lines[0].get_color() == mean.get_color()


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_same_files_give_the_same_figure_whatever_their_order(runs, tmp_path, suffix):
    first, second = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    plot([runs / "a", runs / "deep", runs / "c"], first)
    # The runs of `deep` come twice.
    plot([runs / "c", runs / "deep" / "b", runs / "deep", runs / "a"], second)
    assert first.read_bytes() == second.read_bytes()
    assert b"CreationDate" not in first.read_bytes() and b"dc:date" not in first.read_bytes()


def test_panels_wrap_and_what_is_left_over_stays_blank(tmp_path, drawn):
    learning_curves([row([1], [1.0], task=task) for task in "abcd"], tmp_path / "a.png")
    assert [axis.get_title() for axis in drawn[-1].axes if axis.get_visible()] == list("abcd")
    assert drawn[-1].axes[0].get_subplotspec().get_geometry()[:2] == (2, 3)


def test_scores_files_are_drawn_too(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps([row([1, 2], [0.0, 4.0]), row([1, 2], [2.0, 6.0], seed=1)]))
    assert plot([tmp_path / "scores.json"], tmp_path / "a.png").table == [
        ("t", "m", 2, 2, 5.0, (4.0, 6.0), 5.0, (4.0, 6.0), None)
    ]


@pytest.mark.parametrize("module", ["reports.scores", "reports.statistics", "reports.figures", "reports.plot"])
def test_plotting_imports_neither_torch_nor_rliable(module):
    code = (
        f"import sys, lsp_fast.{module}; sys.exit(bool({{'torch', 'rliable', 'pandas', 'scipy'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def write_scores(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_all_tasks_get_a_line_for_each_method_and_the_last_panel(tmp_path, drawn):
    rows = [
        row([10, 20, x], [y, 10 * y, 100 * y + seed], task, method, seed)
        for task, x in (("a", 40), ("b", 30), ("c", 40))
        for method, y in (("lsp", 1.0), ("dreamer", 2.0))
        for seed in range(3)
    ]
    rows += [row([10], [1.0], "a", "hiro")]
    references = write_scores(tmp_path / "references.json", [row([10, 40], [1.0, 2.0], task, "d4pg") for task in "abc"])
    files = [write_scores(tmp_path / f"{i}.json", rows[i::2]) for i in range(2)]
    result = plot(files, tmp_path / "a.png", [references])
    dreamer, lsp = [final for final in result.table if final.task == "all tasks"]
    # Nine returns of 100, 101, 102: two left out at each end.
    assert (lsp.method, lsp.seeds, lsp.mean, lsp.iqm) == ("lsp", 3, None, pytest.approx(0.101))
    assert (dreamer.method, dreamer.iqm) == ("dreamer", pytest.approx(0.201))
    assert 0.1 <= lsp.iqm_interval[0] < 0.101 < lsp.iqm_interval[1] <= 0.102
    assert "all tasks: hiro is left out, as it has no run of b, c" in result.warnings
    panel = drawn[-1].axes[3]
    assert (panel.get_title(), panel.get_ylabel()) == ("all tasks", "IQM of return / 1000")
    assert [axis.get_visible() for axis in drawn[-1].axes] == [True] * 4 + [False] * 2
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    assert labels == ["dreamer (3 tasks, 3 seeds)", "lsp (3 tasks, 3 seeds)"]
    # 30 and 40 are not common to all runs.
    assert [list(line.get_xdata()) for line in panel.lines] == [[10, 20]] * 2 and len(panel.collections) == 2
    np.testing.assert_allclose([line.get_ydata() for line in panel.lines], [[0.002, 0.02], [0.001, 0.01]])
    assert panel.lines[1].get_color() == next(
        line.get_color() for line in drawn[-1].axes[0].lines if line.get_label() == "lsp (3 seeds)"
    )
    # The same rows give the same table and the same file, to the byte.
    again = plot(files[::-1], tmp_path / "b.png", [references])
    assert again.table == result.table and again.warnings == result.warnings
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_runs_of_different_lengths_are_compared_at_equal_steps(tmp_path, drawn, capsys):
    rows = [row([10, 20, 40], [1.0, 2.0, 900.0], task, "lsp") for task in "ab"]
    rows += [row([10, 20], [3.0, 4.0], task, "dreamer") for task in "ab"] + [row([30], [5.0], "a", "late")]
    references = write_scores(tmp_path / "references.json", [row([0, 15, 30], [0.0, 6.0, 7.0], "a", "d4pg")])
    scores = write_scores(tmp_path / "scores.json", rows)
    result = plot([scores], tmp_path / "a.png", [references], at=20)
    assert [(final.task, final.method, final.env_steps, final.mean, final.iqm) for final in result.table] == [
        ("a", "dreamer", 20, 4.0, 4.0),
        ("a", "lsp", 20, 2.0, 2.0),
        ("a", "d4pg (reference)", 15, 6.0, None),
        ("b", "dreamer", 20, 4.0, 4.0),
        ("b", "lsp", 20, 2.0, 2.0),
        ("all tasks", "dreamer", 20, None, pytest.approx(0.004)),
        ("all tasks", "lsp", 20, None, pytest.approx(0.002)),
    ]
    assert result.warnings == [
        f"a late, seed 0 ({scores}) is not compared: no evaluation at or before 20 environment steps"
    ]
    # A task's panel shows everything, that of all tasks what was compared.
    a, _, pooled = drawn[-1].axes
    assert [list(line.get_xdata()) for line in a.lines if "lsp" in str(line.get_label())] == [[10, 20, 40]]
    assert [list(line.get_xdata()) for line in pooled.lines] == [[10, 20]] * 2
    with pytest.raises(LspFastError, match="at or before 9 environment steps; the first lies at 10"):
        plot([scores], tmp_path / "b.png", at=9)
    assert not (tmp_path / "b.png").exists()
    short = write_scores(tmp_path / "short.json", [row([10], [5.0], "a", "hiro")])
    result = plot([scores, short], tmp_path / "a.png", at=20)
    assert "a: compared are evaluations at 10, 20 environment steps, the last at or before 20" in result.warnings
    assert main(["plot", str(scores), "--out", str(tmp_path / "a.png"), "--at", "20"]) == 0
    table = capsys.readouterr().out
    assert " 20 " in table and " 40 " not in table


def test_the_table_says_the_first_steps_to_a_return(tmp_path, drawn, capsys):
    rows = [row([10, 20, 30], [1.0, 9.0, 4.0], "a", "falls"), row([10, 20], [1.0, 2.0], "a", "never")]
    rows += [row([10, 20, 30], ys, "a", "mean", seed) for seed, ys in enumerate(([9.0, 3.0, 5.0], [0.0, 6.0, None]))]
    references = write_scores(tmp_path / "references.json", [row([0, 15, 900], [0.0, 4.6, 7.0], "a", "d4pg")])
    scores = write_scores(tmp_path / "scores.json", rows)
    result = plot([scores], tmp_path / "a.png", [references], reach=4.5)
    assert {final.method: final.reached for final in result.table} == {
        "falls": 20, "never": None, "mean": 10, "d4pg (reference)": 15,
    }  # fmt: skip
    assert main(["plot", str(scores), "--out", str(tmp_path / "a.png"), "--reach", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("steps to 5") and [line.split()[-1] for line in lines[1:4]] == ["20", "-", "-"]
    assert all(final.reached is None for final in plot([scores], tmp_path / "a.png").table)


def test_tasks_without_a_common_scale_are_left_out(tmp_path, drawn):
    rows = [row([10], [100.0], task) for task in ("a", "b", "gym:HalfCheetah-v5")]
    result = plot([write_scores(tmp_path / "three.json", rows)], tmp_path / "a.png")
    assert result.table[-1][:8] == ("all tasks", "m", 1, 10, None, None, pytest.approx(0.1), None)
    left_out = "all tasks: gym:HalfCheetah-v5 is left out, as its returns have no common scale"
    assert result.warnings == [left_out]
    # One task alone is no aggregate.
    result = plot([write_scores(tmp_path / "two.json", rows[1:])], tmp_path / "a.png")
    assert [final.task for final in result.table] == ["b", "gym:HalfCheetah-v5"] and result.warnings == [left_out]
    assert len(drawn[-1].axes) == 2


def test_of_unequal_seeds_those_of_every_task_count(tmp_path, drawn):
    rows = [row([10], [100.0 * seed], "a", seed=seed) for seed in (1, 2, 3)]
    rows += [row([10], [100.0 * seed], "b", seed=seed) for seed in (2, 3, 4)]
    # Seed 3 is there twice; whichever file comes first, the same one counts.
    files = [
        write_scores(tmp_path / "rows.json", rows),
        write_scores(tmp_path / "b.json", [row([10], [900.0], "b", seed=3)]),
    ]
    result = plot(files, tmp_path / "a.png")
    assert plot(files[::-1], tmp_path / "a.png").table == result.table
    assert result.table[-1][:4] == ("all tasks", "m", 2, 10) and result.table[-1].iqm == pytest.approx(0.25)
    assert result.warnings[-1] == "all tasks m: seeds left out, as not every task has them: 1 of a; 3, 4 of b"
    rows = [row([10], [1.0], "a"), row([10], [1.0], "b", seed=1)]
    result = plot([write_scores(tmp_path / "rows.json", rows)], tmp_path / "a.png")
    assert len(result.table) == len(drawn[-1].axes) == 2
    assert result.warnings == ["all tasks m: no seed was run on every task; left out"]


def test_all_tasks_without_common_evaluations(tmp_path, drawn):
    rows = [row([x], [500.0], task) for task, x in (("a", 10), ("b", 20))]
    result = plot([write_scores(tmp_path / "rows.json", rows)], tmp_path / "a.png")
    assert result.table[-1][:8] == ("all tasks", "m", 1, None, None, None, 0.5, None)
    assert result.warnings[-1] == "all tasks m: its runs share no evaluation; there is no curve"
    assert len(drawn[-1].axes) == 2
    rows += [row([30], [500.0], "a", seed=1), row([20], [None], "b", seed=1)]
    result = plot([write_scores(tmp_path / "rows.json", rows)], tmp_path / "a.png")
    assert len(result.table) == 2 and result.warnings[-1] == "all tasks m: the seeds of a share no evaluation; left out"
    # A null score is a gap in the curve, and no number in the table.
    rows = [row([10, 20], [500.0, y], task, seed=seed) for task in "ab" for seed, y in ((0, None), (1, 400.0))]
    result = plot([write_scores(tmp_path / "rows.json", rows)], tmp_path / "a.png")
    assert result.table[-1].iqm == NAN and "nan [nan, nan]" in str(result)
    np.testing.assert_array_equal(drawn[-1].axes[2].lines[0].get_ydata(), [0.5, np.nan])
    assert "a m: there is no mean, as what seed 0 returned at 20 is not finite" in result.warnings
    rows = [row([10, 20], [1.0, 2.0]), row([10, 20, 30], [1.0, 2.0, None], seed=1)]
    result = plot([write_scores(tmp_path / "rows.json", rows)], tmp_path / "a.png")
    assert result.table[0].mean == 2.0 and not any("no mean" in warning for warning in result.warnings)


@pytest.mark.parametrize("error", [ImportError("no such module"), TypeError("deprecate_kwarg()")])
def test_without_rliable_several_seeds_are_refused_with_the_remedy(tmp_path, monkeypatch, error):
    class Broken:
        def find_spec(self, name, *_):
            if name.startswith("rliable"):
                raise error

    for name in [name for name in sys.modules if name.startswith("rliable")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    rows = [row([1], [1.0], seed=seed) for seed in (0, 1)]
    # One seed needs nothing of it.
    plot([write_scores(tmp_path / "one.json", rows[:1])], tmp_path / "one.png")
    with pytest.raises(LspFastError, match=r"pip install rliable") as caught:
        plot([write_scores(tmp_path / "two.json", rows)], tmp_path / "two.png")
    assert str(error) in str(caught.value) and not (tmp_path / "two.png").exists()


def test_runs_that_differ_in_more_than_the_seed_are_named(tmp_path):
    a = write_run(tmp_path / "a", [10, 20], [1.0, 2.0])
    b = write_run(tmp_path / "b", [10, 30], [1.0, 2.0], seed=1, skill__beta=0.3)
    c = write_run(tmp_path / "c", [10, 30], [1.0, 2.0], seed=1, skill__beta=0.3)
    out = tmp_path / "a.png"
    assert plot([b], out).warnings == []
    assert plot([a, write_run(tmp_path / "e", [10, 20], [0.0, 0.0], seed=7)], out).warnings == []
    same, differing, ends = plot([a, b, c], out).warnings
    assert same == f"walker_walk lsp: seed 1 is there 2 times and counts as so many seeds: {b}, {c}"
    assert differing.splitlines()[1:] == [f"  skill.beta: 0.1 in {a}; 0.3 in {b}, {c}"]
    assert "20, 30" in ends and "the mean ends at 10" in ends
    d = write_run(tmp_path / "d", [40], [1.0], seed=5)
    result = plot([a, d], out)
    assert "there is no mean" in result.warnings[-1] and result.table[0].mean is None


def test_seeds_of_a_transfer_have_sources_of_their_own(tmp_path):
    out = tmp_path / "a.png"

    def seeds(name, *sources):
        return [
            write_run(tmp_path / f"{name}-{i}", [10], [1.0], seed=i, transfer__source=str(source))
            for i, source in enumerate(sources)
        ]

    walk = [write_run(tmp_path / f"walk-{i}", [10], [1.0], seed=i + 5) for i in range(2)]
    run = write_run(tmp_path / "run", [10], [1.0], task="walker_run")
    assert plot(seeds("named", *walk), out).warnings == []
    # Of a folder that is gone the name alone is left.
    assert plot(seeds("nameless", "gone/stand-0", "gone/stand-1"), out).warnings == []
    [alarm] = plot(seeds("mixed", walk[0], run), out).warnings
    assert 'transfer.source: "walker_walk lsp" in' in alarm and '"walker_run lsp" in' in alarm


def test_what_decides_nothing_may_differ_between_seeds(tmp_path):
    a = write_run(tmp_path / "a", [10], [1.0], threads=1, max_minutes=5.0)
    b = write_run(tmp_path / "b", [10], [1.0], seed=1, threads=2, train__log_every=50)
    assert plot([a, b], tmp_path / "a.png").warnings == []


def test_references_are_cut_where_ours_end(tmp_path, drawn):
    run = write_run(tmp_path / "run", [1000, 2000], [1.0, 2.0])
    reference = [
        # These seeds share no xs: at 500 the first one's last point is that at 0, at 10,000 the second's that at 500.
        row([0, 10_000], [0.0, 100.0], "dmc_walker_walk", "dreamer"),
        row([500, 10_500], [15.0, 115.0], "dmc_walker_walk", "dreamer", 1),
        row([1_000_000], [900.0], "walker_walk", "d4pg"),
        row([1000, 1500], [3.0, None], "walker_walk", "early"),
        row([1000], [900.0], "dmc_cheetah_run", "dreamer"),
    ]
    (tmp_path / "ref.json").write_text(json.dumps(reference))
    result = plot([run], tmp_path / "a.png", [tmp_path / "ref.json"])
    [axis] = drawn[-1].axes
    _, level, dashed, early = axis.lines
    assert axis.get_xlim() == (0, pytest.approx(2100))
    assert {line.get_linestyle() for line in (level, dashed, early)} == {"--"}
    assert set(level.get_ydata()) == {900.0} and level.get_label() == "d4pg, reference (1 seed): 900 at 1,000,000"
    np.testing.assert_allclose(dashed.get_xdata(), [500, 2100])
    np.testing.assert_allclose(dashed.get_ydata(), [7.5, 7.5 + 50 * 1600 / 9500])  # a line between points
    assert dashed.get_label() == "dreamer, reference (2 seeds): 58 at 10,000"
    assert early.get_xdata().tolist() == [1000]
    assert {final.method: (final.env_steps, final.mean) for final in result.table[1:]} == {
        "d4pg (reference)": (1_000_000, 900.0),
        "dreamer (reference)": (500, 7.5),  # the last published point, not one in between
        "early (reference)": (1000, 3.0),
    }


def test_references_without_our_tasks_and_methods_of_one_name_in_two_files(tmp_path):
    run = write_run(tmp_path / "run", [1000], [1.0])
    for name, task in (("one", "walker_walk"), ("two", "walker_walk"), ("three", "hopper_hop")):
        (tmp_path / f"{name}.json").write_text(json.dumps([row([1000], [9.0], task, "dreamer")]))
    one, two, three = (tmp_path / f"{name}.json" for name in ("one", "two", "three"))
    methods = {(final.method, final.seeds) for final in plot([run], tmp_path / "a.png", [one, two]).table[1:]}
    assert methods == {(f"dreamer of {one} (reference)", 1), (f"dreamer of {two} (reference)", 1)}
    assert plot([run], tmp_path / "a.png", [three]).warnings == ["the references have none of these tasks: walker_walk"]


def test_returns_below_zero_are_in_the_picture(tmp_path, drawn):
    plot([write_run(tmp_path / "run", [1000, 2000], [-1500.0, -200.0])], tmp_path / "a.png")
    assert drawn[-1].axes[0].get_ylim()[0] < -1500


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"paths": ["nowhere"]}, "nowhere does not exist"),
        ({"paths": ["runs/young"]}, "young has no evaluations yet; let the run go on"),
        ({"paths": ["empty"]}, "empty holds no run"),
        ({"paths": ["damaged"]}, "line 1 of damaged/metrics.jsonl is damaged"),
        ({"paths": ["nobody"]}, "nobody/config.json is not a run's configuration"),
        ({"paths": ["nobody/metrics.jsonl"]}, "nobody/metrics.jsonl is not JSON"),
        ({"paths": ["none.json"]}, "none.json holds no evaluations"),
        ({"paths": []}, "nothing to draw"),
        ({"references": ["nowhere.json"]}, "nowhere.json cannot be read"),
        ({"references": ["nobody/config.json"]}, "nobody/config.json is not a list of scores"),
        ({"references": ["uneven.json"]}, "uneven.json is not a list of scores"),
        ({"out": "figure.xyz"}, "figure.xyz: its suffix must be one of .jpg, "),
        ({"out": "figure"}, "figure: its suffix must be one of"),
        ({"out": "nowhere/figure.png"}, "nowhere does not exist"),
        ({"out": "folder.png"}, "cannot write folder.png: Is a directory"),
    ],
)
def test_what_cannot_be_drawn_is_named_and_nothing_is_written(options, named, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "damaged", "nobody", "folder.png"):
        (tmp_path / folder).mkdir()
    write_run(tmp_path / "other", [1], [1.0])
    (tmp_path / "damaged" / "config.json").write_bytes((tmp_path / "other" / "config.json").read_bytes())
    (tmp_path / "damaged" / "metrics.jsonl").write_text('{"env_st\n{"env_steps": 5, "eval/return": 1.0}\n')
    (tmp_path / "nobody" / "config.json").write_text("{}")
    (tmp_path / "nobody" / "metrics.jsonl").write_text('{"env_steps": 5}\n{}\n')
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "uneven.json").write_text(json.dumps([row([1, 2], [1.0])]))
    before = sorted(tmp_path.rglob("*"))
    made = {"paths": ["runs"], "out": "figure.png", "references": [], **options}
    with pytest.raises(LspFastError, match=re.escape(named)):
        plot([Path(p) for p in made["paths"]], Path(made["out"]), [Path(p) for p in made["references"]])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_brings_nothing_is_left_out_among_others(runs, tmp_path, monkeypatch):
    """`plot runs/*`: a run without an evaluation yet, and the picture that a sweep leaves there."""
    monkeypatch.chdir(tmp_path)
    (runs / "learning_curves.png").write_bytes(b"")
    result = plot(sorted(runs.iterdir()), tmp_path / "all.png")
    assert result.path.exists() and {final.task for final in result.table} >= {"hopper_hop", "walker_walk"}
    left = [text for text in result.warnings if text.startswith("left out: ")]
    assert len(left) == 2 and "is a picture" in left[0] and "young has no evaluations yet" in left[1]
