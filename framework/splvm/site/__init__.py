"""The report site: static pages, out of the history and of the runs' directories that are still there."""
