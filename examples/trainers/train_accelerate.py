"""Training with accelerate: accelerate launch train_accelerate.py --seed 1 --out out --data DATA"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from speech import Crops, Masker, enhance, loss_of


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--bidirectional", action=argparse.BooleanOptionalAction, default=False)
    o = parser.parse_args()

    accelerator = Accelerator()
    set_seed(o.seed)
    model = Masker(bidirectional=o.bidirectional)
    optimizer = torch.optim.Adam(model.parameters(), lr=o.lr)
    crops = Crops(o.data, o.seed)
    loader = torch.utils.data.DataLoader(crops, batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    saved = o.out / "epochs"
    done = max((int(path.name) for path in saved.glob("[0-9]*")), default=0)
    if done:
        accelerator.load_state(str(saved / str(done)))
        accelerator.print(f"continuing after epoch {done}")
    for epoch in range(done + 1, o.epochs + 1):
        crops.epoch = epoch
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch} loss {accelerator.reduce(loss.detach(), 'mean').item():.5f}")
        accelerator.save_state(str(saved / f"saving-{epoch}"))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (saved / f"saving-{epoch}").rename(saved / str(epoch))
    if accelerator.is_main_process:
        enhance(accelerator.unwrap_model(model).cpu(), o.data, o.out / "enhanced")
    accelerator.end_training()


if __name__ == "__main__":
    main()
