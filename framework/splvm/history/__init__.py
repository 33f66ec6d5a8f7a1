"""What runs showed over time: a database of runs, verdicts and figures, and what is read from it."""
