"""Which hooks a run has, and in what order they act after a step."""
from libai.utils import distributed as dist

from projects.MAE.engine.hooks import (
    CheckpointHook,
    EvaluationHook,
    Metrics,
    Report,
    SkippedImagesReport,
    due,
)
from projects.MAE.engine.reconstruction_hook import ReconstructionHook, picture_dataset
from projects.MAE.engine.stopping import CountUpdates, FiniteWeights, StopHook
from projects.MAE.monitor.progress import Progress, StepClock


def hooks_of(trainer):
    """The hooks of a trainer that is built but for them; rank 0 has some more than the others."""
    run, watch = trainer.run, trainer.watch
    train, samples, batch = run.cfg.train, run.schedule.samples, run.batch.total

    def every(iterations, epochs):
        return due(iterations, epochs, samples, batch)

    checkpointer, evaluation = train.checkpointer, train.evaluation
    periodic = every(checkpointer.period, checkpointer.save_model_after_n_epoch)
    evaluates = every(evaluation.eval_period, evaluation.eval_after_n_epoch)

    def saves(done):
        return watch.stop or watch.save or periodic(done)

    evaluations = []
    if evaluation.enabled and trainer.test_loader:
        metric, mode = evaluation.eval_metric, evaluation.eval_mode
        hook = EvaluationHook(
            evaluates, trainer.evaluate, trainer.checkpointer, metric, mode, lambda: watch.stop
        )
        evaluations.append(hook)
    pictures, wanted = [], train.visualize
    if wanted.period or wanted.after_n_epoch:
        draws = every(wanted.period, wanted.after_n_epoch)
        # Those of evaluation, where there is one: no folder is listed twice.
        dataset = trainer.test_loader[0].dataset if evaluations else picture_dataset(run.cfg)
        pictures.append(ReconstructionHook(draws, dataset, wanted.num_images, train.output_dir))
    clock = StepClock(train.log_period)
    found = [
        clock,
        watch,
        CountUpdates(watch),
        SkippedImagesReport(trainer.train_loader.skipped, every(0, 1)),
        FiniteWeights(lambda done: saves(done) or evaluates(done), train.output_dir),
        *evaluations,
        *pictures,
        CheckpointHook(trainer.checkpointer, saves, checkpointer.max_to_keep),
    ]
    if dist.is_main_process():
        found += [
            Progress(clock, train.log_period, batch, samples, compiles=run.in_graph),
            Metrics(clock, train.log_period, batch, trainer.writers),
            Report(train.output_dir),
        ]
    found.append(StopHook(watch, lambda: any(h.postponed for h in evaluations), train.output_dir))
    return found
