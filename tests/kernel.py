"""Whether BPGrad's CPU kernel was built; tests that need it are skipped where it was not.

That it is built wherever there is a compiler is tested itself, in tests/test_repository.py.
"""

import pytest

from bpgrad.optim._fused import kernel

BUILT = kernel() is not None
needs_kernel = pytest.mark.skipif(
    not BUILT, reason="the CPU kernel was not built (no C compiler with OpenMP)"
)
