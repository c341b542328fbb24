"""`python -m wbdc` is `wbdc`."""

from wbdc.cli import main

main()
