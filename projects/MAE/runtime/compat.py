"""Workarounds for LiBai and OneFlow, each with its symptom and what makes it removable."""
import builtins
import contextlib
import inspect
import logging
import math
import sys

import oneflow as flow
from libai.config import lazy
from libai.utils import distributed as dist
from omegaconf import OmegaConf
from oneflow.framework import config_util, session_context

from projects.MAE.errors import UserError

ANY_LAYER = 10_000  # stages of a model of any depth, all the only one


def set_up_ranks(device, data=1, tensor=1, pipeline=1, stages=(0,) * ANY_LAYER):
    """LiBai's `setup_dist_util`, on a kind of device and with the stage of each layer, in every version.

    LiBai 0.1.1 places on CUDA wherever it is available, with no switch, and gives each stage the same
    number of layers; its main branch reads `device_type` and `custom_pipeline_stage_id`. Removable
    with 0.1.1.

    Args:
        device: "cuda" or "cpu".
        data, tensor, pipeline: the parallel sizes.
        stages: the pipeline stage of each layer.
    """
    settings = dict(
        device_type=device,
        data_parallel_size=data,
        tensor_parallel_size=tensor,
        pipeline_parallel_size=pipeline,
        pipeline_num_layers=len(stages),
        custom_pipeline_stage_id=list(stages) if pipeline > 1 else None,
    )
    node = OmegaConf.create(settings)
    if hasattr(dist, "set_device_type"):  # LiBai's main branch
        dist.setup_dist_util(node)
        return
    _place_on(device)
    node.pipeline_num_layers = pipeline  # one layer, so a stage, each
    dist.setup_dist_util(node)
    node.pipeline_num_layers = len(stages)
    util = dist.get_dist_util()
    ranks_of_stage = util._layer_ranks
    util._layer_stage_ids = list(stages)
    util._layer_ranks = [ranks_of_stage[stage] for stage in stages]


def _place_on(device):
    original = getattr(dist.get_layer_placement, "original", dist.get_layer_placement)

    def get_layer_placement(layer_idx, device_type=device):
        return original(layer_idx, device_type)

    get_layer_placement.original = original
    dist.get_layer_placement = get_layer_placement


def compute_on_one_thread():
    """Let one thread of this process run a graph's operators on a CPU, one after the other.

    Symptom without it: OneFlow 0.9 deals a graph's CPU operators out to as many threads as there
    are processors, each with a team of BLAS threads of its own, so that teams wait for one another
    and every thread has its own work space. Operators that follow one another gain nothing by it.
    To be called before the first graph is compiled. A session that has not begun would set the
    number of processors when it does.
    """
    session_context.GetDefaultSession().TryInit()
    config_util._set_resource_attr("cpu_device_num", 1, int)


@contextlib.contextmanager
def without_torch():
    """Let what is imported here do without PyTorch, if nobody has imported it yet.

    Symptom: tensorboardX imports it wherever it is installed, for types that it never meets here:
    a rank takes seconds longer to start and 140 MB more.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # the import fails
    try:
        yield
    finally:
        del sys.modules["torch"]


def graphs_accumulate_on(device_type):
    """Whether a graph's own gradient accumulation can be trusted on a kind of device.

    Symptom: with `set_gradient_accumulation_steps` on the CPU, OneFlow 0.9 mixes up the
    micro-batches in the backward pass of a block; gradients differ from run to run, by up to 4 %.
    `tests/unit/modeling/test_golden_training.py` shows it. So on a CPU the graph is unrolled instead.
    """
    return device_type != "cpu"


def forward_graphs_work_on(device_type):
    """Whether a graph that has no backward pass may be launched thousands of times on a device.

    Symptom on the CPU, with the native kernels and without, on one rank: after some hundred to some
    thousand launches of a small `EvalGraph` OneFlow 0.9 dies of SIGSEGV (in the thread of
    `WaitAndSendIdsActor`, `Regst::GetBlobByOrdinal`) or of "double free or corruption". Eager mode
    and training graphs did not. On GPUs nothing is known.
    """
    return device_type != "cpu"


def take_one_batch_a_step(graph_trainer):
    """Make LiBai's GraphTrainer read one batch of the loader for an optimizer step.

    Symptom: that of LiBai's main branch joins as many batches as there are accumulation steps, but
    this project's loaders give all the rows of a step at once; 0.1.1 takes one. Removable when
    LiBai leaves accumulation to the loader.
    """
    graph_trainer.grad_acc_steps = 1


@contextlib.contextmanager
def keeps_import():
    """A configuration may say `from .recipe import *`; Python's own `import` is back at the end.

    Symptoms: LiBai replaces `builtins.__import__` while it loads a configuration, by one that ends a
    relative `import *` with KeyError: '*', and leaves it replaced where loading fails. Needed with every
    LiBai so far.
    """
    original, patch = builtins.__import__, lazy._patch_import
    lazy._patch_import = lambda: _with_stars(patch)
    try:
        yield
    finally:
        builtins.__import__, lazy._patch_import = original, patch


@contextlib.contextmanager
def kept_names():
    """What a configuration file defines, of any kind: a dictionary that is filled when it runs.

    Symptom: LiBai keeps dictionaries and lists alone, so that `finetune = 3` is as good as nothing.
    Needed with every LiBai so far.
    """
    names = {}

    def run(code, namespace):
        exec(code, namespace)
        names.clear()  # those of the files that it imports are here already
        names.update(namespace)

    lazy.exec = run
    try:
        yield names
    finally:
        del lazy.exec


@contextlib.contextmanager
def _with_stars(patch):
    with patch():
        theirs = builtins.__import__

        def import_(name, globals=None, locals=None, fromlist=(), level=0):
            package = (globals or {}).get("__package__") or ""
            is_star = level and "*" in (fromlist or ()) and package.startswith(lazy._CFG_PACKAGE_NAME)
            if not is_star:
                return theirs(name, globals, locals, fromlist, level)
            module = theirs(name, globals, locals, (), level)
            for key, value in list(vars(module).items()):
                if not key.startswith("_"):
                    setattr(module, key, lazy._cast_to_config(value))
            return module

        builtins.__import__ = import_
        yield


def log_loss(write_metrics, storage):
    """Let LiBai log the loss of a step, and tell whether it is finite; every rank calls this.

    Symptom: LiBai 0.1.1 raises FloatingPointError for a loss that is not finite, and logs nothing;
    its main branch logs it and trains on. The exception is no longer to be expected without 0.1.1.

    Args:
        write_metrics: calls LiBai's `write_metrics`.
        storage: the trainer's `EventStorage`, which has the loss on rank 0; the others say True.
    """
    try:
        write_metrics()
    except FloatingPointError:
        return False
    return not dist.is_main_process() or math.isfinite(storage.latest()["total_loss"][0])


def hide_user_errors():
    """LiBai's training loop logs every exception with a traceback before it raises it again.

    A user's mistake and a loss that is not finite are one line, which the entry point prints.
    Needed with every LiBai so far.
    """

    def keep(record):
        error = record.exc_info and record.exc_info[1]
        return not isinstance(error, (UserError, FloatingPointError))

    logging.getLogger("libai.engine.trainer").addFilter(keep)


def ttol(tensor, pure_local=False, ranks=None):
    """Global tensor to local tensor, on whatever device it is."""
    if not tensor.is_global:
        return tensor
    placement = flow.placement(tensor.placement.type, ranks) if ranks else tensor.placement
    if pure_local:
        return tensor.to_global(placement=placement).to_local()
    sbp = dist.get_nd_sbp([flow.sbp.broadcast, flow.sbp.broadcast])
    return tensor.to_global(sbp=sbp, placement=placement).to_local()


# LiBai 0.1.1's `ttol(ranks=...)` names "cuda" and fails without a GPU. Its training loop logs
# losses with it; that of LiBai's main branch does it in another way. Removable with 0.1.1.
if 'flow.placement("cuda", ranks)' in inspect.getsource(dist.ttol):
    dist.ttol = ttol
