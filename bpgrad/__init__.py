"""BPGrad (Zhang, Wu, Wang, CVPR 2018): the solvers, and every experiment of the paper."""
