"""The README's Python example runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs(tmp_path, monkeypatch):
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line and not line.startswith(("from", "import", "#"))]) <= 10
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["action"].shape == (1, 6)
    assert (tmp_path / "runs" / "example" / "learning_curve.png").exists()


def test_every_file_that_the_readme_names_is_there():
    text = README.read_text()
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / name).exists(), name
