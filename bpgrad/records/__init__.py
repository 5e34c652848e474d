"""Run directories: what is written where, and how it stays whole."""

from bpgrad.suite import require

require("bpgrad.records", "filelock", "yaml")
