"""Trains a little model with Hugging Face's Trainer. Prints what was logged, as JSON.

usage: huggingface_program.py DIRECTORY [fail]
"""

import json
import sys
import time

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from sidecar.callbacks.huggingface import EmissionsCallback

BUSY_S = 0.25
"""What a step takes: long enough that the records tell training and validation apart."""


class Model(torch.nn.Module):
    """One weight; each step keeps a CPU busy for a while."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.fails = fails

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        end_s = time.monotonic() + BUSY_S
        while time.monotonic() < end_s:
            pass
        if self.fails and self.training:
            raise RuntimeError("out of memory")
        out = self.layer(x)
        return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}


class Reporter(TrainerCallback):
    """What a logger's callback is: keeps what it is told to report."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **_) -> None:
        self.logs.append(dict(logs))


def main(directory: str, *words: str) -> None:
    data = [{"x": torch.ones(4), "labels": torch.ones(1)} for _ in range(8)]
    reporter = Reporter()
    trainer = Trainer(
        Model(fails="fail" in words),
        TrainingArguments(
            f"{directory}/trainer", max_steps=8, per_device_train_batch_size=1, logging_steps=2,
            per_device_eval_batch_size=4, eval_strategy="steps", eval_steps=4, use_cpu=True,
            report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[reporter],
    )  # fmt: skip
    EmissionsCallback(project_name="frameworks", output_dir=directory).add_to(trainer)
    try:
        trainer.train()
    except RuntimeError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return
    sys.stdout.write(
        json.dumps({"logs": reporter.logs, "history": trainer.state.log_history}) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
