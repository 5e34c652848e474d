"""Data sets of the experiments: readers, preprocessing, batch order and integrity checks."""
