"""TorchRL's configured PPO trainer with a flow policy: three words of config.yaml name it.

    python examples/torchrl_trainer/train.py total_frames=100_000

Without them (``model: tanh_normal``, ``loss: ppo``, ``trainer: ppo``) the same file trains TorchRL's own Gaussian.
"""

import hydra
from torchrl.trainers.algorithms.configs import PPOTrainerConfig  # noqa: F401 - registers TorchRL's options

import fpo_torchrl  # noqa: F401 - registers loss, model and trainer of FPO


@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(cfg) -> None:
    """Build the trainer that the config describes, and train."""
    trainer = hydra.utils.instantiate(cfg.trainer)
    trainer.register_op("batch_process", lambda batch: print(f"reward {batch['next', 'reward'].mean():.3f}") or batch)
    trainer.train()


if __name__ == "__main__":
    main()
