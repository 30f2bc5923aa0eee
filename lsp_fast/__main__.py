"""`python -m lsp_fast`, where the script `lsp-fast` is not on the path."""

import sys

from lsp_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
