"""LiBai's DefaultTrainer, with what the recipes and the promises of this project need."""
import logging
import math
import os

import oneflow as flow
from libai.engine import DefaultTrainer

from projects.MAE.checkpoint.card import check_same_run, differing_aims, model_card
from projects.MAE.checkpoint.checkpointer import MAECheckpointer
from projects.MAE.checkpoint.manifest import fingerprint
from projects.MAE.checkpoint.reader import check_part, read_card
from projects.MAE.data.build import check_sample, to_global
from projects.MAE.data.datasets import check_same_classes, classes_of, files_of
from projects.MAE.data.preprocessing import both_preprocessings, both_readings
from projects.MAE.engine.build_hooks import hooks_of
from projects.MAE.engine.eager import AccumulatingTrainer
from projects.MAE.engine.stopping import StepWatch, Stopped
from projects.MAE.errors import UserError
from projects.MAE.evaluation.evaluate import measure
from projects.MAE.modeling.graph import TrainGraph, evaluator_of
from projects.MAE.monitor.writers import build_writers
from projects.MAE.runtime.compat import take_one_batch_a_step
from projects.MAE.runtime.lazy_call import call, instantiate
from projects.MAE.runtime.ranks import check_agreement, only_on_rank_0, together
from projects.MAE.settings.load import writable
from projects.MAE.weights.pretrained import load_pretrained, log_report

logger = logging.getLogger("libai." + __name__)


class MAETrainer(DefaultTrainer):
    """Train a masked autoencoder or its classifier.

    LiBai's constructor calls the methods below in this order: build_train_loader, build_test_loader,
    auto_scale_hyperparams, build_model, build_optimizer, build_lr_scheduler, build_graph (training,
    then evaluation), resume_or_load, build_hooks. It reads a copy of the configuration, and writes
    into it; what is derived here comes from the `Run` alone.

    Attributes:
        last_evaluation: {metric: value} of the latest, None before.
        writers: on rank 0, those of monitor/writers.py.
    """

    eager_trainer = AccumulatingTrainer

    def __init__(self, run, dataset):
        self.run, self.dataset = run, dataset
        train = run.cfg.train
        self.watch = StepWatch(train.max_seconds, train.max_bad_batches, train.output_dir)
        self.last_evaluation, self.writers = None, []
        super().__init__(configuration_for_libai(run))
        self.global_batch_size = run.batch.total
        if run.in_graph:
            take_one_batch_a_step(self._trainer)
        else:
            given = self.model, self.train_loader, self.optimizer, run.batch.steps
            self._trainer = self.eager_trainer(*given, after_loss=self.watch.after_loss)

    def build_train_loader(self, cfg, tokenizer=None):
        loader = call(
            self.run.cfg.dataloader.train,
            dataset=self.dataset,
            global_batch_size=self.run.batch.total,
            start_iter=self.run.start_iter,
            train_iter=self.run.schedule.iterations,
        )
        return loader, None, None

    def build_test_loader(self, cfg, tokenizer=None):
        return test_loaders(self.run.cfg)

    def auto_scale_hyperparams(self, cfg, data_loader):
        """Nothing is left to scale here; LiBai calls this when the loaders are there."""
        labels, model = self.run.task.has_labels, self.run.cfg.model
        check_sample(self.dataset, model, labels, trains=True)
        for loader in self.test_loader:
            check_sample(loader.dataset, model, labels, trains=False)
        if labels:
            check_classes(self.run.cfg.model, self.dataset, self.test_loader)
        schedule = self.run.schedule
        logger.info(
            f"{schedule.iterations} iterations of {self.run.batch.total} samples on "
            f"{schedule.samples} images, {schedule.warmup} of warm-up, peak learning rate "
            f"{schedule.peak:.3e}"
        )

    def build_model(self, cfg):
        return build_model(self.run.cfg)

    def build_optimizer(self, cfg, model):
        optim = self.run.cfg.optim
        groups = call(optim.params, model=model)
        return call(optim, params=groups, lr=self.run.schedule.peak)

    def build_lr_scheduler(self, cfg, optimizer):
        node, schedule = self.run.cfg.train.scheduler, self.run.schedule
        steps = dict(max_iter=schedule.iterations, warmup_iter=schedule.warmup)
        return call(node, optimizer=optimizer, **steps)

    def build_graph(self, cfg, model, optimizer=None, lr_scheduler=None, is_train=True):
        if not is_train:
            return evaluator_of(model, self.run.cfg.graph.enabled)
        train = self.run.cfg.train
        zero = train.zero_optimization
        return TrainGraph(
            model,
            optimizer,
            lr_scheduler,
            fp16=self.run.half_precision,
            activation_checkpoint=train.activation_checkpoint.enabled,
            grad_acc_steps=self.run.batch.steps,
            zero_stage=zero.stage if zero.enabled else 0,
            skip_bad_batches=train.max_bad_batches > 0,
        )

    def resume_or_load(self, resume=True):
        """Replace LiBai's checkpointer by the atomic one, then resume or load pretrained weights."""
        run, cfg = self.run, self.run.cfg
        card = model_card(run, self.dataset)
        checkpointables = self.checkpointer.checkpointables
        self.checkpointer = MAECheckpointer(self.model, run, card, **checkpointables)
        self.start_iter = run.start_iter
        if run.resumes and not run.start_iter:
            logger.warning(f"--resume: no checkpoint in {cfg.train.output_dir}, so this run is a new one")
        if run.start_iter:
            name = f"model_{run.start_iter - 1:07d}"
            checkpoint = os.path.join(cfg.train.output_dir, name)
            check_agreement(
                f"--resume: {checkpoint}",
                together(lambda: fingerprint(checkpoint)),
                "train.output_dir must be a folder that all machines see",
            )
            together(lambda: self._check_loadable(checkpoint, card))
            self.checkpointer.resume(name)
            logger.info(f"Resumed from {checkpoint}, {run.start_iter} iterations done")
        elif "finetune" in cfg and cfg.finetune.enable:
            path = cfg.finetune.path
            classes = classes_of(self.dataset) if run.task.has_labels else ()
            style, ema = cfg.finetune.weight_style, cfg.finetune.get("ema", False)
            report = load_pretrained(self.model, path, style, classes, ema)
            log_report(report, path)
            for line in differing_aims(report["facts"], cfg.model):
                logger.warning(f"finetune.path={path} {line}")
            theirs, ours = both_preprocessings(report["facts"].get("preprocessing"), cfg)
            if theirs != ours:
                logger.warning(
                    f"finetune.path={path} was trained with the preprocessing {theirs}, this run has "
                    f"{ours or 'another'}: this run's is used"
                )
            theirs, ours = both_readings(report["facts"], cfg)
            if files_of(self.dataset) and theirs != ours:
                said = f"finetune.path={path} was trained with {theirs}, this run has {ours}"
                logger.warning(f"{said}: this run's is used")

    def _check_loadable(self, checkpoint, card):
        """Raise a UserError now: in the middle of loading, the others would wait for this rank."""
        check_same_run(read_card(checkpoint), card, checkpoint)
        planned = self.run.schedule.iterations
        if self.run.start_iter > planned:
            raise UserError(
                f"--resume: {checkpoint} has {self.run.start_iter} iterations done, more than this "
                f"run's {planned}: raise train.train_epoch or train.train_iter"
            )
        for part in ("model", *self.checkpointer.checkpointables):
            check_part(os.path.join(checkpoint, part))

    def build_hooks(self):
        train, start, resumes = self.run.cfg.train, self.run.start_iter, self.run.resumes
        # Whatever the disk or a login refuses, all ranks get to know.
        only_on_rank_0(lambda: self.writers.extend(build_writers(train, start, resumes)))
        return hooks_of(self)

    def run_step(self):
        """One optimizer step. LiBai's main branch also passes on a device, which no one needs."""
        self._trainer.iter = self.iter
        if self.run.in_graph:
            # A graph leaves out an update of its own accord, see TrainGraph.
            self.watch.after_loss(lambda: self._trainer.run_step(to_global))
        else:
            self._trainer.run_step(to_global)

    def train(self):
        """Train until the end, or until the run is asked to stop."""
        try:
            super().train()
        except Stopped:
            # Its workers read ahead: they would be waited for, in no order with OneFlow's end.
            self._trainer._data_loader_iter = None

    def evaluate(self):
        """Evaluate on the test loader; {metric: value} on every rank, None if asked to stop."""
        model = self.graph_eval if self.run.in_graph else self.model
        settings = self.run.cfg.train.evaluation
        found = measure(model, self.test_loader[0], settings, self.watch.check_stop)
        self.model.train()
        if found is None:
            return None
        self.last_evaluation = found[0]
        return self.last_evaluation


def configuration_for_libai(run):
    """A copy of a run's configuration as LiBai's DefaultTrainer reads it, for it to write into."""
    cfg = writable(run.cfg)
    cfg.graph.enabled = run.in_graph
    cfg.train.update(
        resume=False,  # LiBai's own, which reads `last_checkpoint`
        train_iter=run.schedule.iterations,
        global_batch_size=run.batch.total,
        train_micro_batch_size=run.batch.micro,
        num_accumulation_steps=run.batch.steps,
    )
    return cfg


def build_model(cfg):
    """The model of a configuration, with initial weights drawn from its seed."""
    flow.manual_seed(cfg.train.seed)
    model = instantiate(cfg.model)
    count = sum(math.prod(p.shape) for p in model.parameters())
    logger.info(f"{type(model).__name__} with {count:,} parameters")
    return model


def test_loaders(cfg):
    """The loaders of `dataloader.test`, [] where nothing is to be evaluated."""
    if not cfg.train.evaluation.enabled or "test" not in cfg.dataloader:
        return []
    size = cfg.train.test_micro_batch_size
    return [call(node, test_batch_size=size) for node in cfg.dataloader.test]


def check_classes(model, dataset, test_loaders):
    """Raise a UserError where the data's classes and the head, or the validation data, disagree."""
    for loader in test_loaders:
        check_same_classes(dataset, loader.dataset)
    wanted, found = model.num_classes, len(classes_of(dataset))
    if found > wanted:
        raise UserError(
            f"model.num_classes={wanted}, but the training data has {found} class folders: set "
            f"model.num_classes={found}"
        )
    if found < wanted:
        logger.warning(f"model.num_classes={wanted}, but the data has {found} class folders only")
