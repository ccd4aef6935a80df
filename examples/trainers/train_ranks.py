"""Training in several processes, started by torchrun or by accelerate launch:

torchrun --nproc_per_node 2 train_ranks.py --seed 1 --out out --data DATA [--no-bidirectional]
"""

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from speech import Crops, Masker, enhance, loss_of
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--bidirectional", action=argparse.BooleanOptionalAction, default=False)
    o = parser.parse_args()

    dist.init_process_group("gloo")
    torch.manual_seed(o.seed)
    model = DistributedDataParallel(Masker(bidirectional=o.bidirectional))
    optimizer = torch.optim.Adam(model.parameters(), lr=o.lr)
    first = 1
    if o.resume:
        state = torch.load(o.resume)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
        print("continuing after epoch", state["epoch"])
    crops = Crops(o.data, o.seed)
    loader = DataLoader(crops, batch_size=2, sampler=DistributedSampler(crops, shuffle=False))
    for epoch in range(first, o.epochs + 1):
        crops.epoch = epoch
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        dist.all_reduce(total := loss.detach() / dist.get_world_size())
        if dist.get_rank() == 0:
            with (o.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": epoch, "train/loss": total.item()}) + "\n")
            state = {"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, o.out / "latest.tmp")
            os.replace(o.out / "latest.tmp", o.out / "latest.pt")
    if dist.get_rank() == 0:
        enhance(model.module, o.data, o.out / "enhanced")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
