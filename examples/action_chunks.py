"""A velocity network of one's own: a small transformer over an action chunk, here of eight steps.

    python examples/action_chunks.py

A network needs ``action_dim`` and the call ``net(observation, x_t=..., time=...)``, whose leading dimensions broadcast.
"""

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from fpo_torchrl import CFMLoss, FlowActor, Heun

STEPS, SIZE, OBS_DIM = 8, 2, 3


class ChunkTransformer(nn.Module):
    """Velocity of ``STEPS`` actions of ``SIZE``, flat in one vector."""

    action_dim = STEPS * SIZE

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.token = nn.Linear(OBS_DIM + SIZE + 1, width)
        self.position = nn.Parameter(0.1 * torch.randn(STEPS, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, SIZE)

    def forward(self, observation: Tensor, x_t: Tensor, time: Tensor) -> Tensor:
        """Velocity ``[*batch, act]``."""
        batch = torch.broadcast_shapes(observation.shape[:-1], x_t.shape[:-1], time.shape[:-1])
        steps = x_t.unflatten(-1, (STEPS, SIZE)).expand(*batch, STEPS, SIZE)
        shared = [value.unsqueeze(-2).expand(*batch, STEPS, -1) for value in (observation, time)]
        tokens = self.token(torch.cat([steps, *shared], -1)) + self.position
        return self.head(self.encoder(tokens.reshape(-1, *tokens.shape[-2:]))).reshape(*batch, self.action_dim)


def train(num_steps: int = 500) -> tuple[FlowActor, list[float]]:
    """Imitate chunks that swing to the left or to the right, from the same observation."""
    actor = FlowActor(ChunkTransformer(), Heun(5))
    loss, history = CFMLoss(actor), []
    optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
    for _ in range(num_steps):
        side = torch.randint(2, (256, 1, 1)) * 2 - 1
        chunks = (0.8 * side * torch.linspace(0, 1, STEPS)[:, None]).expand(256, STEPS, SIZE)
        batch = TensorDict(observation=torch.zeros(256, OBS_DIM), action=chunks.flatten(1), batch_size=256)
        value = loss(batch)["loss_cfm"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        history.append(value.item())
    return actor, history


if __name__ == "__main__":
    trained, losses = train()
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    print("ends of chunks:", trained(observation=torch.zeros(8, OBS_DIM))[0][:, -1])
