"""The solvers that torch lacks: BPGrad, Eve and Adam as in MatConvNet."""

from bpgrad.optim.bpgrad import BPGrad

__all__ = ["BPGrad"]
