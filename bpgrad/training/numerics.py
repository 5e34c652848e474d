"""How this process computes: threads, determinism, float32 arithmetic."""

import os

import torch

from bpgrad.errors import ConfigError
from bpgrad.training.config import Config


def configure_torch(cfg: Config, device: torch.device) -> None:
    """Threads, determinism and float32 arithmetic of this process.

    Raises ConfigError if the device cannot do what is asked.
    """
    if cfg.precision == "tf32" and device.type != "cuda":
        raise ConfigError("precision=tf32: needs a CUDA device; use fp32 or bf16")
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    arithmetic = "tf32" if cfg.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = arithmetic
    torch.backends.cudnn.conv.fp32_precision = arithmetic  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(cfg.deterministic)
    # It would also fill every new tensor, at a cost; nothing here reads what it did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(cfg.seed)
