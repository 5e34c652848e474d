"""What the claims on several parts of the paper share."""

from experiments.engine.checks import last

COMPETITIVE = 1.2  # times the best objective; a threshold of the reference
COMPETITORS = ("Adagrad", "Adadelta", "RMSProp", "Adam")
OBJECTIVE = last("train_objective")
