"""The record of one run on disk: its files, how they are written, read back and sealed."""
