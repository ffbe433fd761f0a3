"""The pages of a report: static HTML that needs no server and makes no request."""

from sidecar.report.page.write import write_pages

__all__ = ["write_pages"]
