"""Kinetwin beside other tools: `python -m benchmarks` runs the table of `rows.py`; see `docs/performance.md`."""
