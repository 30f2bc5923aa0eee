"""Reading metrics.jsonl."""

import json

import pytest

from lsp_fast.errors import LspFastError
from lsp_fast.storage.metrics import last_row, read_rows


@pytest.mark.parametrize("damage", ["garbage", "", "[]", '{"x": 1}', '{"env_steps": 1.5}', '{"env_steps": "1"}'])
def test_a_damaged_line_ends_what_a_run_goes_on_from_and_is_an_error_to_a_plot(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 10}\n' + damage + '\n{"env_steps": 30}\n')
    assert read_rows(path) == [{"env_steps": 10}]
    with pytest.raises(LspFastError, match=r"line 2 of .*metrics\.jsonl is damaged; delete that line, or leave"):
        read_rows(path, strict=True)


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == read_rows(path, strict=True) == []
    path.write_text('{"env_steps": 10}\n{"env_steps": 20, "eval/re')
    assert read_rows(path) == read_rows(path, strict=True) == [{"env_steps": 10}]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(LspFastError, match="cannot be read: Is a directory"):
        read_rows(tmp_path)
    assert last_row(tmp_path) is None


def test_the_newest_row_is_found_without_reading_the_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_row(path) is None
    path.write_text("".join(json.dumps({"env_steps": n, "x": "y" * 90}) + "\n" for n in range(1000)))
    assert last_row(path)["env_steps"] == 999
    with path.open("a") as file:
        file.write('{"env_steps": 1000, "x"')  # being written
    assert last_row(path)["env_steps"] == 999
    path.write_text("[]\n")
    assert last_row(path) is None
