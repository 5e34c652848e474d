"""From run records to a report: runs, inference over seeds, tables and figures, the page."""

from bpgrad.suite import require

require("bpgrad.reporting", "markdown_it", "matplotlib", "pandas", "rich")
