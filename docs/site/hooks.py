"""The site is made of the pages as they lie in the repository, where links lead to files outside docs/, too.

READMEs become pages; every other file that a page links to is copied to files/, and the link leads there.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
READMES = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md", "experiments/README.md": "experiments.md"}
"""Pages from outside docs/, by what the site calls them."""
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]+)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the READMEs."""
    for path, name in READMES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Have each link lead to where the site has its file."""
    here = page.file.src_uri
    origin = next((path for path, name in READMES.items() if name == here), f"docs/{here}")
    up = "../" * here.count("/")

    def there(found: re.Match[str]) -> str:
        target = (ROOT / origin).parent / found[2]
        if not target.exists():
            return found[0]  # a strict build tells of it
        path = target.resolve().relative_to(ROOT)
        if path.is_dir():
            raise ValueError(f"{origin}: a link leads to the folder {path}; the site has files only")
        return f"{found[1]}{up}{_uri(path, config, files)}{found[3]}"

    # What is fenced or indented is code.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if i % 2 else LINK.sub(there, part) for i, part in enumerate(parts))


def _uri(path: Path, config: Any, files: Any) -> str:
    """Of a file of the repository, in the site; added if it is not there yet."""
    posix = PurePosixPath(path).as_posix()
    if posix in READMES:
        return READMES[posix]
    if posix.startswith("docs/"):
        return posix.removeprefix("docs/")
    uri = f"files/{posix}"
    if files.get_file_from_path(uri) is None:
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return uri
