"""Recipes: a list of steps, each one command of `wbdc`, that leads from raw data to a submission.

A recipe is data: `recipe.py` reads it, `step_commands.py` lists what a step may be, `references.py`
checks what refers to what, `step_results.py` finds out which steps are finished, `plan.py` and
`cost.py` describe the rest, and `run_recipe.py` runs it.
"""
