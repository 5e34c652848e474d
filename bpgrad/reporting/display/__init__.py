"""Tables and figures of the runs of an experiment."""
