"""Algorithm 1 of the BPGrad paper: certified global minimisation in low dimension.

`minimize` keeps all samples and prunes with all of them; `minimize_cheap` keeps one step length of
it (Eq. 12), which is what the deep-learning solver is made from.
"""

from bpgrad.branch_prune.cheap import minimize_cheap
from bpgrad.branch_prune.samples import History
from bpgrad.branch_prune.search import Status, minimize

__all__ = ["History", "Status", "minimize", "minimize_cheap"]
