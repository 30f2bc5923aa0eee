"""A writer that fails, hangs or asks to exit keeps no run from anything."""

import threading
import time

import numpy as np
import pytest

from lsp_fast.media import Video
from lsp_fast.storage.writers import LogWriter, guarded
from lsp_fast.storage.writers.guarded import Guarded, told, without_secrets

CALLS = "opening", "scalars", "picture", "video", "sync", "finish"


class Fails(LogWriter):
    """Raises in one of its calls."""

    def __init__(self, call, error=None):
        self.call, self.error, self.made = call, error or ValueError("no room for 7\nand more"), []
        self._do("opening")

    def _do(self, call):
        self.made.append(call)
        if call == self.call:
            try:
                raise KeyError("the cause")
            except KeyError as cause:
                raise self.error from cause

    def scalars(self, env_steps, row):
        self._do("scalars")

    def picture(self, env_steps, name, pixels):
        self._do("picture")

    def video(self, env_steps, name, video):
        self._do("video")

    def sync(self):
        self._do("sync")

    def finish(self, outcome):
        self._do("finish")


def everything(writer):
    frame = np.zeros((2, 2, 3), np.uint8)
    for _ in range(3):
        writer.scalars(1, {"x": 1.0})
        writer.picture(1, "p", frame)
        writer.video(1, "v", Video([frame]))
        writer.sync()
    writer.finish("finished")
    writer.wait(10)


@pytest.mark.parametrize("call", CALLS)
def test_what_it_raises_in_any_call_is_said_once_with_its_cause(call):
    with pytest.warns(UserWarning) as warned:
        everything(Guarded("mine", lambda: Fails(call)))
    [warning] = warned
    said = str(warning.message)
    assert said.startswith(f"--log mine is left out, and the run goes on: {call} (test_guarded.py, line ")
    assert said.endswith("): ValueError: no room for 7, caused by KeyError: 'the cause'")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_not_even_an_exit_ends_the_run(error):
    with pytest.warns(UserWarning, match=f"sync .*{type(error).__name__}"):
        everything(Guarded("mine", lambda: Fails("sync", error)))


def test_one_that_failed_is_closed_and_asked_no_more():
    writers = []
    with pytest.warns(UserWarning):
        everything(Guarded("mine", lambda: (writers.append(Fails("picture")), writers[0])[1]))
    assert writers[0].made == ["opening", "scalars", "picture", "finish"]


def test_all_calls_come_in_order_on_one_thread_of_its_own():
    seen = []

    class Watched(Fails):
        def _do(self, call):
            seen.append((call, threading.get_ident()))

    everything(Guarded("mine", lambda: Watched("none")))
    assert [call for call, _ in seen] == ["opening", *("scalars", "picture", "video", "sync") * 3, "finish"]
    assert len({thread for _, thread in seen}) == 1 and seen[0][1] != threading.get_ident()


def test_a_row_is_what_it_was_when_it_was_handed_over():
    rows, begin = [], threading.Event()

    class Slow(LogWriter):
        def scalars(self, env_steps, row):
            begin.wait()
            rows.append(row)

    writer, row = Guarded("mine", Slow), {"x": 1.0}
    writer.scalars(1, row)
    row["x"] = 2.0
    begin.set()
    writer.finish("finished")
    writer.wait(10)
    assert rows == [{"x": 1.0}]


@pytest.fixture
def hanging():
    """A writer that does not come back from the call that it is told, before `release` is set."""
    release = threading.Event()

    def make(call):
        class Hangs(Fails):
            def _do(self, now):
                make.calls.append(now)
                if now == call:
                    release.wait()

        return Guarded("mine", lambda: Hangs("none"))

    make.release, make.calls = release, []
    yield make
    release.set()


@pytest.mark.parametrize("call", CALLS[:-1])
def test_one_that_does_not_come_back_holds_nothing_up(hanging, monkeypatch, call):
    monkeypatch.setattr(guarded, "STALLED", 0.2)
    writer, began = hanging(call), time.monotonic()
    with pytest.warns(UserWarning, match=f"left out, and the run goes on: {call} has not come back for 0 seconds"):
        for _ in range(30):
            writer.scalars(1, {"x": 1.0})
            writer.picture(1, "p", np.zeros((2, 2, 3), np.uint8))
            writer.video(1, "v", Video([np.zeros((2, 2, 3), np.uint8)]))
            writer.sync()
            time.sleep(0.01)
        writer.finish("finished")
        writer.wait(10)
    assert time.monotonic() - began < 5
    # What waited was let go, and is not made late with a gap behind it.
    hanging.release.set()
    writer._thread.join(5)
    assert hanging.calls[-2:] == [call, "finish"]


def test_the_end_of_a_run_waits_only_so_long(hanging):
    writer, began = hanging("finish"), time.monotonic()
    writer.finish("stopped")
    with pytest.warns(UserWarning, match="finish is not done at the end of the run, and is not waited for"):
        writer.wait(0.1)
    assert time.monotonic() - began < 5


def test_an_error_without_words_is_told_by_its_kind():
    try:
        raise RuntimeError
    except RuntimeError as error:
        assert told(error, "sync").endswith("): RuntimeError")


def test_no_secret_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "abcdef0123")
    monkeypatch.setenv("MY_DB_PASSWORD", "hunter22")
    text = without_secrets("key abcdef0123 at https://me:hunter22@host:80/x?y and postgresql://u:pw@db/z, user me@host")
    assert text == "key *** at https://***@host:80/x?y and postgresql://***@db/z, user me@host"
