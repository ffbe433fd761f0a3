"""A callback for the Trainer of Hugging Face's transformers. Extra: `huggingface`.

from sidecar.callbacks.huggingface import EmissionsCallback

trainer = Trainer(..., callbacks=[EmissionsCallback(project_name="vision")])
EmissionsCallback(project_name="vision").add_to(trainer)  # figures go to the trainer's loggers, too
"""

from typing import Any, Self, Unpack

from transformers import TrainerCallback

from sidecar.callbacks.watch import TrainingWatch
from sidecar.tracking.options import TrackerOptions
from sidecar.tracking.session import Unfailing

TRAIN = "train"
VALIDATE = "validate"


class EmissionsCallback(TrainerCallback):
    """Meters from the begin of `train` to its end, in the first process of each machine.

    Phases: `train`, and in it `validate` from the first batch that is predicted to the end of the
    evaluation. The parameters are those of `EmissionsTracker`. In a pod with a sidecar nothing is
    metered twice: the sidecar's records have the phases.
    """

    def __init__(self, **options: Unpack[TrackerOptions]) -> None:
        self._watch = TrainingWatch(**options)

    def add_to(self, trainer: Any) -> Self:  # noqa: ANN401 - a Trainer, or what behaves like one
        """Add this callback before those that report, so that they report its figures, too."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ANN401, ARG002
        """Start to meter."""
        with Unfailing("the begin of a training"):
            if state.is_local_process_zero:
                self._watch.begin()
            self._watch.enter(TRAIN)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ANN401, ARG002
        """Mark the evaluation: there is no event for its begin."""
        self._watch.enter(VALIDATE)

    def on_evaluate(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ANN401, ARG002
        """Mark the end of the evaluation."""
        self._watch.leave(VALIDATE)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **named: Any) -> None:  # noqa: ANN401, ARG002
        """Mark the end of a prediction, which began as an evaluation does."""
        self._watch.leave(VALIDATE)

    def on_log(
        self,
        args: Any,  # noqa: ANN401, ARG002
        state: Any,  # noqa: ANN401, ARG002
        control: Any,  # noqa: ANN401, ARG002
        logs: dict[str, float] | None = None,
        **named: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """Add the figures so far to what is logged, for the callbacks that come after this one."""
        with Unfailing("the figures of a log line"):
            if logs is not None:
                logs.update(self._watch.figures())

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:  # noqa: ANN401, ARG002
        """Stop metering; the final figures stand at the end of the trainer's log history."""
        with Unfailing("the end of a training"):
            figures = self._watch.end()
            if figures:
                state.log_history.append(
                    {**figures, "epoch": state.epoch, "step": state.global_step}
                )
