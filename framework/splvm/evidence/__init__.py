"""Recorded evidence and what follows from it: parsers and verdicts, all of them pure.

Nothing here reads a file, a clock or a socket, and nothing outside the standard library is
imported but the errors. Text that comes from a guest is hostile: a parser gives a value or
raises :class:`splvm.errors.EvidenceError`, in time that grows with the length of the text.
"""
