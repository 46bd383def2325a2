"""The recipe of the bundle `coop-small`: run it with `python -m recipes.coop_small STEP`."""
