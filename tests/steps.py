"""Pages that say what to type: their commands and blocks of code in order, at the smoke preset's sizes."""

import re


def sections(page, programs=("lsp-fast",)):
    """Title -> its steps in order: commands of these programs as lists of words, and (language, code) of blocks."""
    calls = rf"^ {{4,}}((?:{'|'.join(programs)}) [^\n]*)$|^```(\w+)\n(.*?)^```"
    found = {}
    for part in page.read_text().split("\n## ")[1:]:
        title, text = part.split("\n", 1)
        steps = re.findall(calls, text, re.MULTILINE | re.DOTALL)
        found[title] = [command.split() if command else (language, code) for command, language, code in steps]
    return found


def small(argv):
    """A command of lsp-fast at the smoke preset's sizes."""
    argv = ["smoke" if word in ("cpu", "gpu") and argv[i - 1] == "--preset" else word for i, word in enumerate(argv)]
    if argv[0] == "train":
        steps = "1300" if "--env-steps" in argv else "1100"
        argv = [word for i, word in enumerate(argv) if word != "--env-steps" and argv[i - 1] != "--env-steps"]
        argv += ["--device", "cpu", "--env-steps", steps]
    if argv[0] == "transfer":
        argv += ["--env-steps", "1020"]
    return argv
