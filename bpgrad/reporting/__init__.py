"""From run records to a report: runs, inference over seeds, tables and figures, the page."""
