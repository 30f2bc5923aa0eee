"""`lsp-fast report`: runs as one page of HTML that needs no network, no script and no other file."""
