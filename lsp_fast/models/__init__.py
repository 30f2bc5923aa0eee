"""Networks as modules that own parameters; what is computed with them lives in `lsp_fast.ops`."""
