"""Latent Skill Planning: fast and checked. Start with `lsp_fast.config`, `lsp_fast.train`, `lsp_fast.evaluate`."""

__version__ = "0.1.0"
