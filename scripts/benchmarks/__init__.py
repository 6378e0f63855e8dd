"""The measurements of `benchmark.py`, one file per command."""
