"""One rank of a two-process run: python world_child.py RANK SIZE PORT_FILE OVERRIDES..."""

import os
import sys

import torch

if __name__ == "__main__":
    rank, size, store = sys.argv[1:4]
    os.environ |= {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store}
    torch.set_num_threads(1)
    from bpgrad.training.config import load
    from bpgrad.training.trainer import train

    print("weights", train(load(sys.argv[4:]))["weights_sha256"])
