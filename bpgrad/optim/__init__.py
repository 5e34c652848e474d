"""The solvers that torch lacks: BPGrad, Eve, and Adam as in MatConvNet."""

from bpgrad.optim.adam import MatConvNetAdam
from bpgrad.optim.bpgrad import BPGrad
from bpgrad.optim.eve import Eve
from bpgrad.optim.suggest import suggest_lipschitz

__all__ = ["BPGrad", "Eve", "MatConvNetAdam", "suggest_lipschitz"]
