"""A callback for the Trainer of Lightning. Extra: `lightning`.

from sidecar.callbacks.lightning import EmissionsCallback

trainer = Trainer(..., callbacks=[EmissionsCallback(project_name="vision")])
"""

from typing import Any, Final, Unpack

from lightning.pytorch.callbacks import Callback

from sidecar.callbacks.watch import TrainingWatch
from sidecar.tracking.options import TrackerOptions
from sidecar.tracking.session import Unfailing

TRAIN: Final = "train"
VALIDATE: Final = "validate"
TEST: Final = "test"
PREDICT: Final = "predict"


class EmissionsCallback(Callback):
    """Meters from `setup` to `teardown`, in the first process of each machine, and logs as it goes.

    Phases: `train`, `validate` (in it or alone), `test`, `predict`. Figures go to the trainer's loggers
    as often as it logs, and at the end. The parameters are those of `EmissionsTracker`. In a pod with a
    sidecar nothing is metered twice: the sidecar's records have the phases.
    """

    def __init__(self, **options: Unpack[TrackerOptions]) -> None:
        super().__init__()
        self._watch = TrainingWatch(**options)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ANN401, ARG002
        """Start to meter."""
        with Unfailing("the begin of a training"):
            if trainer.local_rank == 0:
                self._watch.begin()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ANN401, ARG002
        """Stop metering, and log the final figures."""
        self._end(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ANN401, ARG002
        """Stop metering: no teardown comes."""
        self._end(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark the training."""
        self._watch.enter(TRAIN)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark its end."""
        self._watch.leave(TRAIN)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark a validation; the check before a training is one, too."""
        self._watch.enter(VALIDATE)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark its end."""
        self._watch.leave(VALIDATE)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark a test."""
        self._watch.enter(TEST)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark its end."""
        self._watch.leave(TEST)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark a prediction."""
        self._watch.enter(PREDICT)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401, ARG002
        """Mark its end."""
        self._watch.leave(PREDICT)

    def on_train_batch_end(
        self,
        trainer: Any,  # noqa: ANN401
        pl_module: Any,  # noqa: ANN401, ARG002
        outputs: Any,  # noqa: ANN401, ARG002
        batch: Any,  # noqa: ANN401, ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Log the figures so far, in the steps in which the trainer logs."""
        with Unfailing("the figures of a log line"):
            period = trainer.log_every_n_steps
            if period and trainer.loggers and trainer.global_step % period == 0:
                _log_to(trainer, self._watch.figures())

    def _end(self, trainer: Any) -> None:  # noqa: ANN401
        figures = self._watch.end()
        with Unfailing("the final figures"):
            _log_to(trainer, figures)


def _log_to(trainer: Any, figures: dict[str, float]) -> None:  # noqa: ANN401
    if figures:
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
