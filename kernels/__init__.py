"""Triton kernels and their launchers. They import nothing of lsp_fast; importing this package does not need triton."""
