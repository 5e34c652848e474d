"""One rank of two-process runs: RANK SIZE; a line of stdin is a run: PORT OVERRIDES."""

import os
import sys

import torch

if __name__ == "__main__":
    rank, size = sys.argv[1:3]
    os.environ |= {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    torch.set_num_threads(1)
    from bpgrad.training.config import load
    from bpgrad.training.trainer import train

    for line in sys.stdin:
        # At the port of the run before, one rank may still meet that run's store.
        os.environ["MASTER_PORT"], *run = line.split()
        print("weights", train(load(run))["weights_sha256"], flush=True)
