"""The time that a run will still take is told once updates have shown it, and not by the prefill's cheap steps."""

import pytest

from lsp_fast.training.loop import train
from lsp_fast.training.pace import FIRST, Mark, duration_text, seconds_left


def test_the_rate_of_updates_decides_and_owed_ones_count():
    begun = Mark(100.0, 50, 2000)
    assert seconds_left(begun, Mark(105.0, 50 + FIRST - 1, 2050), 90, 450, 9.0) is None
    # 0.5 s an update, the steps between them included.
    assert seconds_left(begun, Mark(105.0, 60, 2050), 90, 450, 9.0) == pytest.approx(45)


def test_steps_to_come_are_added_where_updates_alone_were_seen():
    begun = Mark(100.0, 5, 2000)
    assert seconds_left(begun, Mark(110.0, 15, 2000), 185, 500, 0.01) == pytest.approx(185 + 5)
    assert seconds_left(begun, Mark(110.0, 15, 2000), 0, 0, 0.01) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "1 s"), (40.4, "40 s"), (59.7, "1 min"), (12 * 60 + 20, "12 min"), (3599, "1 h 0 min"), (7800, "2 h 10 min"),
     (47 * 3600, "47 h 0 min"), (9.2 * 86400, "9 days")],
)  # fmt: skip
def test_times_for_people(seconds, text):
    assert duration_text(seconds) == text


@pytest.fixture
def short(smoke):
    return lambda **values: smoke(
        task="gym:Pendulum-v1", collect__prefill=200, train__eval_every=10_000, train__checkpoint_every=100, **values
    )


def test_it_is_told_once_after_the_first_updates_and_on_a_resume(short, tmp_path, capsys):
    train(short(env_steps=200), tmp_path / "run")
    before = capsys.readouterr().err
    # No update, no estimate: tqdm's own would stand after a "<".
    assert "at this rate" not in before and "<" not in before and "200/200" in before
    fresh = tmp_path / "fresh"
    for steps in (700, 1050):
        train(short(env_steps=steps), fresh)
        shown = capsys.readouterr()
        assert shown.err.count(" at this rate") == 1 and "the run ends in about " in shown.err
        assert "at this rate" not in shown.out
    train(short(env_steps=1100), fresh, progress=False)
    assert capsys.readouterr().err == ""
