"""Pasted evidence: kernel logs, stacks and files of /proc as people send them, read leniently and explained.

Text is read in one pass by reader.py, in pieces of bounded size; nothing of it is executed or fetched. The strict
parsers of a run's own records are in `splvm.evidence`, and this room lends their tables, never its leniency.
"""
