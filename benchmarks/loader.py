"""Images per second and core: the loader of mae_pretraining.py and torchvision's ImageFolder.

    .venv/bin/python benchmarks/loader.py --images 200 --seconds 60

needs torchvision: bash tools/setup.sh oracle. Both sides read the same JPEG files of 500 x 400
pixels with the same Pillow and do the same: a random crop of 20 to 100 % of the area, bicubic, to
224 x 224, a flip, float32, ImageNet's mean and standard deviation. Ours draws the masking noise
beside. Each side is a process of its own, pinned to one and the same core, and they take turns of
a second, so that another load on the machine meets them alike. Then, for information, the same
with worker processes on all cores. Writes benchmarks/loader_results.json.
"""
import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
RESULTS = os.path.join(ROOT, "benchmarks", "loader_results.json")
TURN = 1.0  # seconds
BATCH = 64
OURS, PLAIN, THEIRS = "ours", "ours without the C functions", "torchvision"


def our_dataset(folder):
    """The data set of the recipe's training loader."""
    from libai.config import instantiate

    from projects.MAE.settings.load import load_config

    root = f"dataloader.train.dataset.0.root={folder}"
    cfg = load_config(os.path.join(ROOT, "projects/MAE/configs/mae_pretraining.py"), [root])
    return instantiate(cfg.dataloader.train.dataset[0])


def torchvision_dataset(folder):
    """torchvision's ImageFolder with the same transforms."""
    import torch
    from torchvision import datasets, transforms

    from projects.MAE.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    torch.set_num_threads(1)
    bicubic = transforms.InterpolationMode.BICUBIC
    chain = [
        transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=bicubic),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    return datasets.ImageFolder(os.path.join(folder, "train"), transforms.Compose(chain))


def our_samples(dataset):
    """Samples for ever, in the order of the files."""
    from projects.MAE.data.sampler import SampleKey

    epoch = 0
    while True:
        for index in range(len(dataset)):
            yield dataset[SampleKey(epoch, index, True)]
        epoch += 1


def torchvision_samples(dataset):
    while True:
        yield from (dataset[index] for index in range(len(dataset)))


def our_batches(dataset, workers):
    """Batches for ever, through worker processes."""
    from projects.MAE.data.collate import BatchReader
    from projects.MAE.data.sampler import TrainingStream
    from projects.MAE.data.workers import read_ahead

    stream = TrainingStream(len(dataset), BATCH, 0, 0, 1, 0, 10**9)
    return read_ahead(BatchReader(dataset), stream, workers)


def torchvision_batches(dataset, workers):
    import torch

    # As long as the run may be: the start of an epoch would be counted otherwise.
    sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**7)
    loader = torch.utils.data.DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers)
    return iter(loader)


def side(pipe, name, source, core, workers):
    """A side's process: for each number of seconds from the pipe, send back images and seconds."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    if name == PLAIN:
        from projects.MAE.data import resample

        resample._kernel = lambda: None
    if name == THEIRS:
        dataset = torchvision_dataset(source)
        items = torchvision_batches(dataset, workers) if workers else torchvision_samples(dataset)
    else:
        items = our_batches(source, workers) if workers else our_samples(source)
    for _ in range(2 * workers + 2):
        next(items)
    pipe.send("ready")
    for seconds in iter(pipe.recv, None):
        for _ in range(3 * workers):  # what was read while the other side had its turn
            next(items)
        pipe.send(count(items, seconds, BATCH if workers else 1))
    del items  # ends the workers while this process is whole


def cpu_seconds():
    """Time on a core, of this process and its worker processes."""
    ticks = 0
    for worker in multiprocessing.active_children():
        with open(f"/proc/{worker.pid}/stat") as file:
            ticks += sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def count(items, seconds, images_of_item):
    """(images, wall seconds, seconds on a core)."""
    wall, cpu, images = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - wall < seconds:
        next(items)
        images += images_of_item
    return images, time.perf_counter() - wall, cpu_seconds() - cpu


def take_turns(sources, turns, seconds, core=None, workers=0):
    """{side: [(images, wall seconds, CPU seconds) a turn]}, side after side, turn after turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, source in sources.items():
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=side, args=(theirs, name, source, core, workers))
        process.start()
        theirs.close()
        processes.append(process)
        pipes[name].recv()
    results = {name: [] for name in sources}
    for _ in range(turns):
        for name, pipe in pipes.items():
            pipe.send(seconds)
            results[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(None)
    for process in processes:
        process.join()
    return results


def summarise(turns):
    """Images a second of each side, by the clock and by time on a core, and ratios to torchvision.

    A ratio is the median over pairs of neighbouring turns.
    """
    from benchmarks.photos import quartiles

    def rates(name, which):
        return [turn[0] / turn[which] for turn in turns[name]]

    summary = {}
    for name in turns:
        both = (("per_second", 1), ("per_cpu_second", 2))
        summary[name] = {key: quartiles(rates(name, which)) for key, which in both}
        if name != THEIRS:
            for key, which in (("ratio", 1), ("cpu_ratio", 2)):
                pairs = zip(rates(name, which), rates(THEIRS, which))
                summary[name][key] = quartiles([ours / theirs for ours, theirs in pairs])
    return summary


def print_table(title, summary):
    """Medians, and in brackets the quartiles; the ratios are to torchvision's rate."""
    rows = [["", "images/s", "ratio", "ratio by CPU time"]]
    for name, found in summary.items():
        ratios = [_with_spread(found[k], ".2f") for k in ("ratio", "cpu_ratio") if k in found]
        rows.append([name, _with_spread(found["per_second"], ".0f"), *ratios])
    print(f"\n{title}")
    for name, *cells in rows:
        print(f"{name:32s}" + "".join(f"{cell:22s}" for cell in cells).rstrip())


def _with_spread(found, form):
    lower, upper = found["lower_quartile"], found["upper_quartile"]
    return f"{found['median']:{form}} ({lower:{form}} to {upper:{form}})"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200, help="JPEG files to make (200)")
    parser.add_argument("--seconds", type=float, default=60, help="of all turns on one core (60)")
    parser.add_argument("--core", type=int, default=None, help="the core to measure on (the last)")
    arguments = parser.parse_args()
    if arguments.images < 1 or arguments.seconds < 6:
        parser.error("--images must be at least 1 and --seconds at least 6")
    if importlib.util.find_spec("torchvision") is None:
        sys.exit("loader.py: torchvision is missing: install it with: bash tools/setup.sh oracle")
    return arguments


def main():
    arguments = parse_arguments()
    # One thread a process, as there is one core; read when NumPy and PyTorch are imported.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    import torch
    import torchvision

    from benchmarks.photos import machine, write_photos
    from projects.MAE.data import resample

    facts = {**machine(), "torch": torch.__version__, "torchvision": torchvision.__version__}
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_photos(os.path.join(folder, "train", "photos"), arguments.images)
        facts["jpeg_kilobytes"] = [round(f(sizes) / 1000) for f in (min, statistics.median, max)]
        dataset = our_dataset(folder)
        facts["c_functions"] = resample.prepare()
        sources = {OURS: dataset, PLAIN: dataset, THEIRS: folder}
        cores = sorted(os.sched_getaffinity(0))
        core = cores[-1] if arguments.core is None else arguments.core
        turns = max(int(arguments.seconds / TURN / len(sources)), 2)
        one_core = summarise(take_turns(sources, turns, TURN, core))
        del sources[PLAIN]
        loaders = summarise(take_turns(sources, 4, 10 * TURN, workers=len(cores)))
    print(json.dumps(facts, indent=1))
    print_table(f"One core, {turns} turns of {TURN:.0f} s each", one_core)
    title = f"{len(cores)} workers on {len(cores)} cores, batches of {BATCH}"
    print_table(title, loaders)
    with open(RESULTS, "w") as file:
        json.dump({"machine": facts, "one_core": one_core, "workers": loaders}, file, indent=1)
    print(f"\nWritten to {RESULTS}")


if __name__ == "__main__":
    main()
