"""The networks of the paper's experiments, as plain `torch.nn.Module`s."""
