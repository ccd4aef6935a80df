"""Training with Hydra: python train_hydra.py seed=1 out=out data=DATA model.bidirectional=true"""

import csv
import os
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig
from speech import Crops, enhance, loss_of


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    out, data = Path(config.out), Path(config.data)
    torch.manual_seed(config.seed)
    model = hydra.utils.instantiate(config.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(config.lr))
    latest, rows = out / "latest.pt", []
    if latest.exists():
        state = torch.load(latest)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rows = state["rows"]
        print("continuing after epoch", len(rows))
    crops = Crops(data, config.seed)
    for epoch in range(len(rows) + 1, config.epochs + 1):
        crops.epoch = epoch
        total = 0.0
        for batch in torch.utils.data.DataLoader(crops, batch_size=4):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rows.append({"epoch": epoch, "train_loss": total / 4})
        with (out / "metrics.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}
        torch.save(state, out / "latest.tmp")
        os.replace(out / "latest.tmp", latest)
    enhance(model, data, out / "enhanced")


main()
