"""A small training as people write them: its own network, loop and command line; it knows nothing of ablate.

    python train.py --seed 1 --out out --data DATA [--bidirectional] [--channels=16] [--resume out/latest.pt]

DATA has {clean,noisy}_trainset_wav and {clean,noisy}_testset_wav. It writes out/metrics.jsonl (a line each
ten steps), out/latest.pt (to go on from) and, at its end, the enhanced test files in out/enhanced.
"""

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

WINDOW = torch.hann_window(320)


class Masker(nn.Module):
    """A mask on magnitudes, by a recurrent layer over time."""

    def __init__(self, channels: int, bidirectional: bool) -> None:
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


def crop(items: list, length: int, draw: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of four crops, clean and noisy."""
    batch = []
    for _ in range(4):
        _, clean, noisy = draw.choice(items)
        start = draw.randrange(max(1, len(clean) - length))
        both = torch.stack([clean, noisy])[:, start : start + length]
        batch.append(nn.functional.pad(both, (0, length - both.shape[1])))
    stacked = torch.stack(batch)
    return stacked[:, 0], stacked[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--bidirectional", action=argparse.BooleanOptionalAction, default=False)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    draw = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    model = Masker(options.channels, options.bidirectional)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    first = 0
    if options.resume:
        state = torch.load(options.resume, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        draw.setstate(state["draw"])
        first = state["step"]
        print(f"continuing after step {first}")

    items = pairs(options.data, "train")
    train, validation = items[:-1], items[-1:]
    curve = (options.out / "metrics.jsonl").open("a")
    for step in range(first + 1, options.steps + 1):
        clean, noisy = crop(train, 8000, draw)
        loss = nn.functional.l1_loss(model(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            with torch.no_grad():
                held = [nn.functional.l1_loss(model(n[None])[0], c).item() for _, c, n in validation]
            line = {"step": step, "train/loss": loss.item(), "val/loss": float(np.mean(held))}
            curve.write(json.dumps(line) + "\n")
            curve.flush()
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"draw": draw.getstate(), "step": step}, options.out / "latest.tmp")
            os.replace(options.out / "latest.tmp", options.out / "latest.pt")
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    enhanced = options.out / "enhanced"
    enhanced.mkdir(exist_ok=True)
    with torch.no_grad():
        for name, _, noisy in pairs(options.data, "test"):
            soundfile.write(enhanced / f"{name}.wav", model(noisy[None])[0].numpy(), 16000)


if __name__ == "__main__":
    main()
