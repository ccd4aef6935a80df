"""What the four trainings of this folder share: a small network, its data, and the enhanced test files."""

import random
from pathlib import Path

import soundfile
import torch
from torch import nn

WINDOW = torch.hann_window(320)


class Masker(nn.Module):
    """A mask on magnitudes, by a recurrent layer over time."""

    def __init__(self, channels: int = 16, bidirectional: bool = False) -> None:
        super().__init__()
        self.core = nn.GRU(161, channels, batch_first=True, bidirectional=bidirectional)
        self.mask = nn.Linear(channels * (1 + bidirectional), 161)

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        """(batch, sample) -> (batch, sample)"""
        spectrum = torch.stft(noisy, 320, 160, window=WINDOW, return_complex=True)
        features = torch.log(spectrum.abs() + 1e-4).transpose(1, 2)
        mask = torch.sigmoid(self.mask(self.core(features)[0])).transpose(1, 2)
        return torch.istft(mask * spectrum, 320, 160, window=WINDOW, length=noisy.shape[-1])


def pairs(data: Path, split: str) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, clean and noisy speech of a split."""
    found = []
    for path in sorted((data / f"noisy_{split}set_wav").iterdir()):
        clean, _ = soundfile.read(data / f"clean_{split}set_wav" / path.name, dtype="float32")
        noisy, _ = soundfile.read(path, dtype="float32")
        found.append((path.stem, torch.from_numpy(clean), torch.from_numpy(noisy)))
    return found


class Crops(torch.utils.data.Dataset):
    """Crops of half a second, clean and noisy, drawn by seed, epoch and number."""

    def __init__(self, data: Path, seed: int, size: int = 16) -> None:
        self.items, self.seed, self.size, self.epoch = pairs(data, "train"), seed, size, 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> torch.Tensor:
        draw = random.Random(f"{self.seed} {self.epoch} {index}")
        _, clean, noisy = draw.choice(self.items)
        start = draw.randrange(max(1, len(clean) - 8000))
        both = torch.stack([clean, noisy])[:, start : start + 8000]
        return nn.functional.pad(both, (0, 8000 - both.shape[1]))


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return nn.functional.l1_loss(model(batch[:, 1]), batch[:, 0])


@torch.no_grad()
def enhance(model: nn.Module, data: Path, folder: Path) -> None:
    """Write the enhanced test files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, noisy in pairs(data, "test"):
        soundfile.write(folder / f"{name}.wav", model(noisy[None])[0].numpy(), 16000)
