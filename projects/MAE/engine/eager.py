"""Training without a graph."""
import time

from libai.engine.trainer import EagerTrainer

from projects.MAE.optim.clipping import clip_gradients, clipping_of
from projects.MAE.runtime.micro_batches import split_batch


class AccumulatingTrainer(EagerTrainer):
    """Eager training in which an iteration is an optimizer step, as it is in graph mode.

    LiBai's counts micro-batches, so schedules and checkpoints would differ between the modes. For
    `after_loss` see `StepWatch`.
    """

    def __init__(self, *arguments, after_loss):
        super().__init__(*arguments)
        self.after_loss = after_loss
        self.clipping = clipping_of(self.optimizer)

    def run_step(self, get_batch):
        start = time.perf_counter()
        data = get_batch(next(self._data_loader_iter))
        data_time = time.perf_counter() - start
        total = 0.0
        for micro in split_batch(data, self.grad_acc_steps):
            losses = self.model(**micro)
            (losses["losses"] / self.grad_acc_steps).backward()
            total = total + losses["losses"].detach() / self.grad_acc_steps
        if self.after_loss(lambda: self.write_metrics({"losses": total}, data_time)):
            clip_gradients(self.optimizer, self.clipping)
            self.optimizer.step()
        self.optimizer.zero_grad()
