"""`lsp-fast doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Say what there is to train with on this machine, and what is missing; status 0 if training can run."""

    def run(self) -> int:
        from lsp_fast.reports import doctor

        report = doctor.report()
        print(report)
        return 0 if report.can_train else 1
