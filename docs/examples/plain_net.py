"""A network that knows nothing of this project.

ablate audit docs/examples/plain_net.py:PlainNet --set channels=16
"""

from torch import Tensor, nn


class PlainNet(nn.Module):
    """A mask of a learned filterbank, from waveforms `(batch, sample)` to waveforms."""

    def __init__(self, channels: int, kernel: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, channels, kernel, stride=kernel // 2, padding=kernel // 2)
        self.mask = nn.Sequential(nn.Conv1d(channels, channels, 1), nn.Sigmoid())
        self.decoder = nn.ConvTranspose1d(channels, 1, kernel, stride=kernel // 2, padding=kernel // 2)

    def forward(self, wave: Tensor) -> Tensor:
        code = self.encoder(wave[:, None])
        return self.decoder(code * self.mask(code))[:, 0]
