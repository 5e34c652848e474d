"""One rank of two-process runs: RANK SIZE PORT; a line of overrides on stdin is a run."""

import os
import sys

import torch

if __name__ == "__main__":
    rank, size, port = sys.argv[1:4]
    os.environ |= {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    from bpgrad.training.config import load
    from bpgrad.training.trainer import train

    for run in sys.stdin:
        print("weights", train(load(run.split()))["weights_sha256"], flush=True)
