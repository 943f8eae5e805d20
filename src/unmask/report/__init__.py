"""The static page about a study: words, figures, tables and samples, with no network and no script. No torch."""

from unmask.report.page import write_report

__all__ = ["write_report"]
