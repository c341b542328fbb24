"""The numbers of a report: plain dictionaries and lists, as `wbdc report --json` prints them."""
