"""LiBai's DefaultTrainer, with what the recipes and the promises of this project need."""
import logging
import math
import os

import oneflow as flow
from libai.config import LazyConfig
from libai.engine import DefaultTrainer
from libai.scheduler import build_lr_scheduler
from libai.utils import distributed as dist

from projects.MAE.checkpoint.card import check_same_run, model_card
from projects.MAE.checkpoint.checkpointer import MAECheckpointer
from projects.MAE.checkpoint.manifest import fingerprint
from projects.MAE.checkpoint.reader import check_part, read_card
from projects.MAE.data.datasets import check_same_classes
from projects.MAE.engine.build_hooks import hooks_of
from projects.MAE.engine.eager import AccumulatingTrainer
from projects.MAE.engine.stopping import StepWatch, Stopped
from projects.MAE.errors import UserError
from projects.MAE.evaluation.evaluate import evaluate
from projects.MAE.modeling.graph import TrainGraph, evaluator_of
from projects.MAE.monitor.bar import watched
from projects.MAE.monitor.writers import build_writers
from projects.MAE.runtime.compat import take_one_batch_a_step
from projects.MAE.runtime.lazy_call import instantiate
from projects.MAE.runtime.ranks import check_agreement, only_on_rank_0, together
from projects.MAE.runtime.versions import save_environment
from projects.MAE.utils.disk import told
from projects.MAE.weights.pretrained import load_pretrained, log_report

logger = logging.getLogger("libai." + __name__)


class MAETrainer(DefaultTrainer):
    """Train a masked autoencoder or its classifier from a checked configuration.

    Example::

        trainer = MAETrainer(cfg)  # as train_net.py prepares it
        trainer.train()
    """

    last_evaluation = None
    writers = ()  # rank 0 has those of monitor/writers.py
    eager_trainer = AccumulatingTrainer

    def __init__(self, cfg):
        super().__init__(cfg)
        self.checkpointer.card = model_card(cfg, self.train_loader.dataset)
        self.checkpointer.cfg, self.checkpointer.samples = cfg, len(self.train_loader.dataset)
        if not cfg.graph.enabled:
            self._trainer = self.eager_trainer(
                self.model,
                self.train_loader,
                self.optimizer,
                cfg.train.num_accumulation_steps,
                after_loss=self.watch.after_loss,
            )
        else:
            take_one_batch_a_step(self._trainer)
        self.global_batch_size = cfg.train.global_batch_size

    def run_step(self):
        """One optimizer step. LiBai's main branch also passes on a device, which no one needs."""
        self._trainer.iter = self.iter
        if self.cfg.graph.enabled:
            # A graph leaves out an update of its own accord, see TrainGraph.
            self.watch.after_loss(lambda: self._trainer.run_step(self.get_batch))
        else:
            self._trainer.run_step(self.get_batch)

    def train(self):
        """Train until the end, or until the run is asked to stop."""
        try:
            super().train()
        except Stopped:
            # Its workers read ahead: they would be waited for, in no order with OneFlow's end.
            self._trainer._data_loader_iter = None

    def resume_or_load(self, resume=True):
        """Replace LiBai's checkpointer by the atomic one, then resume or load pretrained weights."""
        cfg = self.cfg
        self.checkpointer = MAECheckpointer(
            self.model, cfg.train.output_dir, **self.checkpointer.checkpointables
        )
        self.start_iter = cfg.train.start_iter
        if resume and not self.start_iter:
            logger.warning(f"--resume: no checkpoint in {cfg.train.output_dir}, so this run is a new one")
        if self.start_iter:
            name = f"model_{self.start_iter - 1:07d}"
            checkpoint = os.path.join(cfg.train.output_dir, name)
            check_agreement(
                f"--resume: {checkpoint}",
                together(lambda: fingerprint(checkpoint)),
                "train.output_dir must be a folder that all machines see",
            )
            together(lambda: self._check_loadable(checkpoint))
            self.checkpointer.resume(name)
            logger.info(f"Resumed from {checkpoint}, {self.start_iter} iterations done")
        elif "finetune" in cfg and cfg.finetune.enable:
            report = load_pretrained(self.model, cfg.finetune.path, cfg.finetune.weight_style)
            log_report(report, cfg.finetune.path)

    def _check_loadable(self, checkpoint):
        """Raise a UserError where this rank can't go on from a checkpoint: in the middle of loading
        it the others would wait for this one."""
        card = model_card(self.cfg, self.train_loader.dataset)
        check_same_run(read_card(checkpoint), card, checkpoint)
        if self.start_iter > self.cfg.train.train_iter:
            raise UserError(
                f"--resume: {checkpoint} has {self.start_iter} iterations done, more than this run's "
                f"{self.cfg.train.train_iter}: raise train.train_epoch or train.train_iter"
            )
        for part in ("model", *self.checkpointer.checkpointables):
            check_part(os.path.join(checkpoint, part))

    def build_hooks(self):
        train = self.cfg.train
        self.watch = StepWatch(train.max_seconds, train.max_bad_batches)
        return hooks_of(self, self.watch)

    def evaluate(self):
        """Evaluate on the test loader; {metric: value} on every rank, None if asked to stop."""
        model = self.graph_eval if self.cfg.graph.enabled else self.model
        results = self.test(self.cfg, self.test_loader, model, stops=self.watch.check_stop)
        self.model.train()
        if results is not None:
            self.last_evaluation = results
        return results

    def open_writers(self):
        """Open the run's writers, on rank 0.

        Raises:
            UserError: the disk refuses a file.
        """
        self.writers = build_writers(self.cfg.train)

    @classmethod
    def test(cls, cfg, test_loaders, model, evaluator=None, stops=None):
        """The figures of `measure` alone, as LiBai calls it."""
        found = cls.measure(cfg, test_loaders, model, stops)
        return None if found is None else found[0]

    @classmethod
    def measure(cls, cfg, test_loaders, model, stops=None):
        """Evaluate a module or graph on the first of the loaders, in evaluation mode.

        Args:
            stops: asked before each batch whether to give up, and return None.

        Returns:
            {metric: value} and the number of images, as `evaluate`.
        """
        module = model.model if isinstance(model, flow.nn.Graph) else model
        module.eval()
        evaluation, loader = cfg.train.evaluation, test_loaders[0]
        batches = loader
        if dist.is_main_process():
            total = min(len(loader), evaluation.eval_iter or len(loader))
            batches = watched(loader, total, "Evaluating")
        found = evaluate(
            model, batches, cls.get_batch, evaluation.topk, evaluation.eval_iter, stops
        )
        if found is None:
            return None
        loader.skipped.report("they count for nothing in the evaluation")
        logger.info("Evaluation: " + ", ".join(f"{k} {v:.4f}" for k, v in found[0].items()))
        return found

    @classmethod
    def get_batch(cls, data, *unused):
        """An Instance of local tensors -> {name: global tensor}. LiBai's versions differ in the
        arguments after the first, none of which is needed: mixup is the loader's work, and the
        device is the model's, where LiBai's main branch takes a GPU if there is any."""
        batch = {}
        for name, value in data.get_fields().items():
            value.to_global(placement=dist.get_layer_placement(value.placement_idx))
            batch[name] = value.tensor
        return batch

    @classmethod
    def build_model(cls, cfg):
        flow.manual_seed(cfg.train.seed)
        model = instantiate(cfg.model)
        count = sum(math.prod(p.shape) for p in model.parameters())
        logger.info(f"{type(model).__name__} with {count:,} parameters")
        return model

    @classmethod
    def build_graph(cls, cfg, model, optimizer=None, lr_scheduler=None, is_train=True):
        if not is_train:
            return evaluator_of(model, cfg.graph.enabled)
        train = cfg.train
        zero = train.zero_optimization
        return TrainGraph(
            model,
            optimizer,
            lr_scheduler,
            fp16=train.amp.enabled,
            activation_checkpoint=train.activation_checkpoint.enabled,
            grad_acc_steps=train.num_accumulation_steps,
            zero_stage=zero.stage if zero.enabled else 0,
            skip_bad_batches=train.max_bad_batches > 0,
        )

    @classmethod
    def build_optimizer(cls, cfg, model):
        cfg.optim.params.model = model
        return instantiate(cfg.optim)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg.train.scheduler, optimizer)

    @classmethod
    def build_train_loader(cls, cfg, tokenizer=None):
        loader = instantiate(cfg.dataloader.train)
        loader.global_batch_size = cfg.train.global_batch_size
        loader.start_iter = cfg.train.start_iter
        return loader, None, None

    @classmethod
    def build_test_loader(cls, cfg, tokenizer=None):
        if not cfg.train.evaluation.enabled or "test" not in cfg.dataloader:
            return []
        loaders = list(instantiate(cfg.dataloader.test))
        for loader in loaders:
            loader.test_batch_size = cfg.train.test_micro_batch_size
        return loaders

    def auto_scale_hyperparams(self, cfg, data_loader):
        """Check the data's classes; fill in iterations, warm-up and rate from the real batch."""
        if "num_classes" in cfg.model:
            check_classes(cfg, data_loader.dataset, self.test_loader)
        train, samples = cfg.train, len(data_loader.dataset)
        train.train_iter = max(
            math.ceil(samples * train.train_epoch / train.global_batch_size), train.train_iter
        )
        if train.train_iter < 1:
            raise UserError("train.train_epoch and train.train_iter are both 0: set one of them")
        if train.warmup_ratio is not None:
            warmup = math.ceil(train.train_iter * train.warmup_ratio)
        else:
            warmup = math.ceil(samples * train.warmup_epoch / train.global_batch_size)
        train.warmup_iter = min(warmup, train.train_iter)
        train.scheduler.max_iter = train.train_iter
        train.scheduler.warmup_iter = train.warmup_iter
        data_loader.train_iter = train.train_iter
        if cfg.optim.lr is None:
            cfg.optim.lr = train.base_lr * train.global_batch_size / 256
        logger.info(
            f"{train.train_iter} iterations of {train.global_batch_size} samples on {samples} "
            f"images, {train.warmup_iter} of warm-up, peak learning rate {cfg.optim.lr:.3e}"
        )
        only_on_rank_0(lambda: describe_run(cfg, samples))


def describe_run(cfg, samples):
    """Write config.yaml once more, now complete, and environment.json.

    Raises:
        UserError: the disk refuses.
    """
    train = cfg.train
    with told("train.output_dir", train.output_dir):
        LazyConfig.save(cfg, os.path.join(train.output_dir, "config.yaml"))
        save_environment(
            train.output_dir,
            ranks=dist.get_world_size(),
            device=train.dist.device_type,
            training_images=samples,
        )


def check_classes(cfg, dataset, test_loaders):
    """Raise a UserError where the data's classes and the head, or the validation data, disagree."""
    for loader in test_loaders:
        check_same_classes(dataset, loader.dataset)
    wanted, found = cfg.model.num_classes, dataset.num_classes
    if found > wanted:
        raise UserError(
            f"model.num_classes={wanted}, but the training data has {found} class folders: set "
            f"model.num_classes={found}"
        )
    if found < wanted:
        logger.warning(f"model.num_classes={wanted}, but the data has {found} class folders only")
