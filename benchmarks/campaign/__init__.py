"""The reliability campaign: scenarios of load, faults and upgrades, whose histories are judged against the true state.

    python -m benchmarks.campaign ingest --seconds 60 --seed 1

`history` records every call, `truth` and `timeline` know what is true at a time, and `judge` compares the two. A scenario runs real
parts and makes the faults: `python -m benchmarks.campaign --help` lists them. docs/reliability.md has the figures.
"""
