"""Training: configuration, the one loop, checkpoints."""

from bpgrad.suite import require

require("bpgrad.training", "hydra", "rich", "yaml")
