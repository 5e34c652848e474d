"""Run directories: what is written where, and how it stays whole."""
