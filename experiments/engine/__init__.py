"""Runs, shows and judges what it is handed: declarations, studies and claims (see suite.py)."""
