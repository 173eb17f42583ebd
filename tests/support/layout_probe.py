"""Trains as train_net.py does, then writes what a run doesn't: what each rank holds, and counts.

tools/train.sh runs it in place of train_net.py. Into train.output_dir go, from each rank K,
`rank_K.json` with the checksum of its part of every parameter, and with COUNT_IMAGES in the
environment `means.json` with the mean of the metric over the first 1, 2, ... images of the
validation data.
"""
import json
import os
import sys
import zlib

import numpy as np

from projects.MAE.engine.process import run_rank


class First:
    """The first `count` samples of a data set."""

    def __init__(self, dataset, count):
        self.dataset, self.count = dataset, count

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return self.dataset[key]


def held(model):
    """{parameter and which part of it: checksum} of what this rank holds.

    Ranks whose keys agree should hold the same numbers.
    """
    from libai.utils import distributed as dist
    from oneflow import sbp

    sums = {}
    for name, parameter in model.named_parameters():
        place = np.argwhere(np.array(parameter.placement.ranks) == dist.get_rank())
        if len(place):
            part = [int(i) for i, s in zip(place[0], parameter.sbp) if s != sbp.broadcast]
            sums[f"{name} {part}"] = zlib.crc32(parameter.to_local().numpy().tobytes())
    return sums


def means(trainer):
    """The metric (percent or loss) over the first 1, 2, ... images."""
    from projects.MAE.data.build import build_image_test_loader

    whole, size = trainer.test_loader[0].dataset, trainer.run.cfg.train.test_micro_batch_size
    metric = trainer.run.cfg.train.evaluation.eval_metric
    found = []
    for count in range(1, len(whole) + 1):
        trainer.test_loader = [build_image_test_loader(First(whole, count), size, num_workers=0)]
        found.append(trainer.evaluate()[metric])
    return found


def main(argv):
    # Not before: OneFlow must not be imported until the ranks have met.
    from projects.MAE.engine.setup import prepare, training_of
    from projects.MAE.train_net import parse_arguments

    trainer = training_of(prepare(parse_arguments(argv)))
    trainer.train()
    output, rank = trainer.run.cfg.train.output_dir, int(os.environ["RANK"])
    with open(os.path.join(output, f"rank_{rank}.json"), "w") as file:
        json.dump(held(trainer.model), file)
    found = means(trainer) if os.environ.get("COUNT_IMAGES") else []
    if found and rank == 0:
        with open(os.path.join(output, "means.json"), "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    run_rank(main, sys.argv[1:])
