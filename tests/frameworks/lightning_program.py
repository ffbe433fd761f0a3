"""Trains a little model with Lightning's Trainer and a CSV logger. Prints how it ended, as JSON.

usage: lightning_program.py DIRECTORY [fail]
"""

import json
import logging
import sys
import time
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from sidecar.callbacks.lightning import EmissionsCallback

BUSY_S = 0.25


def busy() -> None:
    """Keep a CPU busy for a while."""
    end_s = time.monotonic() + BUSY_S
    while time.monotonic() < end_s:
        pass


class Model(LightningModule):
    """One weight."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.fails = fails

    def training_step(self, batch, _):
        busy()
        if self.fails:
            raise RuntimeError("out of memory")
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, _):
        busy()

    def test_step(self, batch, _):
        busy()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def main(directory: str, *words: str) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel("ERROR")
    data = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=1)
    held_out = torch.utils.data.DataLoader(torch.ones(16, 4), batch_size=4)
    model = Model(fails="fail" in words)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", log_every_n_steps=2, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
        logger=CSVLogger(directory, name="csv", version=""),
        callbacks=[EmissionsCallback(project_name="frameworks", output_dir=directory)],
    )  # fmt: skip
    try:
        trainer.fit(model, data, held_out)
        trainer.test(model, held_out, verbose=False)
    except RuntimeError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return
    sys.stdout.write(json.dumps({"error": None}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
