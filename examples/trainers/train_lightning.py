"""Training with Lightning: python train_lightning.py --seed 1 --out out --data DATA [--bidirectional]"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from speech import Crops, Masker, enhance, loss_of


class Training(lightning.LightningModule):
    def __init__(self, lr: float, **network) -> None:
        super().__init__()
        self.model, self.lr = Masker(**network), lr

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = loss_of(self.model, batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_start(self) -> None:
        self.trainer.train_dataloader.dataset.epoch = self.current_epoch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--bidirectional", action="store_true")
    o = parser.parse_args()

    lightning.seed_everything(o.seed)
    training = Training(o.lr, channels=o.channels, bidirectional=o.bidirectional)
    trainer = lightning.Trainer(
        max_epochs=o.epochs,
        accelerator="auto",
        devices=1,
        logger=CSVLogger(o.out, name="lightning"),
        callbacks=[ModelCheckpoint(o.out / "checkpoints", save_last=True)],
        log_every_n_steps=1,
        enable_progress_bar=False,
    )
    loader = torch.utils.data.DataLoader(Crops(o.data, o.seed), batch_size=4)
    trainer.fit(training, loader, ckpt_path=o.resume)
    enhance(training.model.cpu(), o.data, o.out / "enhanced")


if __name__ == "__main__":
    main()
