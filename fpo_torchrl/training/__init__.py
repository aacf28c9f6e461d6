"""The parts of the training loop in :mod:`fpo_torchrl.trainer`."""
