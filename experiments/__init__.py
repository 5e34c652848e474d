"""The experiments: one declarative YAML file each, and what runs and shows them."""
