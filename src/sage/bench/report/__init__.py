"""The report of measured results: a page, figures, and a section for a paper. Every number is read from a file."""
