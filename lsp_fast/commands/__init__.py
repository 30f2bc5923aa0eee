"""The commands, a file each: a dataclass whose fields are the options, and `run`, which gives the exit status.

Nothing heavy is imported before a command runs.
"""

from lsp_fast.commands.data import Data
from lsp_fast.commands.doctor import Doctor
from lsp_fast.commands.evaluate import Evaluate
from lsp_fast.commands.export import Export
from lsp_fast.commands.plot import Plot
from lsp_fast.commands.report import Report
from lsp_fast.commands.skills import Skills
from lsp_fast.commands.sweep import Sweep
from lsp_fast.commands.train import Train
from lsp_fast.commands.transfer import Transfer

COMMANDS = {
    "train": Train,
    "transfer": Transfer,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "skills": Skills,
    "export": Export,
    "plot": Plot,
    "report": Report,
    "data": Data,
    "doctor": Doctor,
}
"""By the words that call them, in the order of the help."""
