"""Scenarios: each in one place, with its steps, its workload and loads, its rule, and what is expected of it and why.

A module has one scenario or a family of them in a tuple `SCENARIOS`; table.py gathers them. Nothing registers itself.
"""
