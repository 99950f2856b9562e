"""A fitted model on items whose values are known, as one HTML file."""

from statecast.report.assessment import Assessment, Findings, Item, assess
from statecast.report.page import write_report

__all__ = ["Assessment", "Findings", "Item", "assess", "write_report"]
