"""The report as one document: Markdown, and a page that stands alone."""
