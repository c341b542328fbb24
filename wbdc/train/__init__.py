"""Kits, the one loop, and the runs it leaves behind."""
