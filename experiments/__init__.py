"""The experiments: one declarative YAML file each, the paper's claims, and the studies."""
