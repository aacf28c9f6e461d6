"""The Hydra configs, installed as ``fpo_torchrl.conf``."""
