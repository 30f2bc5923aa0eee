"""What runs are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def method_name(values: Mapping[str, Any]) -> str:
    """What curves of a run are called, from its `config.json`: its label or algorithm, and what it began from."""
    transfer = values.get("transfer", {})
    fixed, relabelled = bool(transfer.get("freeze_policy")), bool(transfer.get("relabel"))
    data = ", offline" if values.get("offline") else ", with data" if values.get("data") else ""
    return (values.get("label") or values["algorithm"]) + data + ", fixed policy" * fixed + ", relabelled" * relabelled
