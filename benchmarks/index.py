"""Start-up on a folder of a million images, the first and the second time, and memory of workers.

    .venv/bin/python benchmarks/index.py --files 1000000 --batches 300

Makes a folder of 1000 classes (hard links to a thousand JPEG files, so that all can be read) in
$TMPDIR, in which it needs a million directory entries but little room, and removes it at the end.
Each start is a process of its own. Then two workers read batches of it, and of a thousand images,
and what each worker holds for itself alone is measured. Writes benchmarks/index_results.json.
"""
import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)
RESULTS = os.path.join(ROOT, "benchmarks", "index_results.json")
CLASSES = 1000
WORKERS, BATCH = 2, 64
START = """
import resource, sys, time
import projects.MAE.data.datasets
start = time.perf_counter()
images = projects.MAE.data.datasets.ImageFolder(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(len(images), seconds, peak, images._index.from_cache)
"""


def make_folder(root, files):
    """files images in CLASSES class folders below root/train."""
    from benchmarks.photos import photo

    picture = os.path.join(root, "picture.jpg")
    photo(0).save(picture, quality=85)
    with open(picture, "rb") as file:
        content = file.read()
    for number in range(CLASSES):
        folder = os.path.join(root, "train", f"n{number:08d}")
        os.makedirs(folder)
        first = os.path.join(folder, "0.jpg")
        with open(first, "wb") as file:  # a file system allows only so many links to one
            file.write(content)
        for i in range(1, files // CLASSES):
            os.link(first, os.path.join(folder, f"n{number:08d}_{i}.jpg"))


def start(root):
    """One start in a new process: {"images", "seconds", "peak_mb", "from_cache"}."""
    command = [sys.executable, "-c", START, root]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    images, seconds, peak, from_cache = output.split()
    return {
        "images": int(images),
        "seconds": round(float(seconds), 2),
        "peak_mb": round(float(peak)),
        "from_cache": from_cache == "True",
    }


def private_mb(pid):
    """Memory that a process holds and no other does."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        sizes = [int(line.split()[1]) for line in file if line.startswith("Private_")]
    return sum(sizes) / 1024


def worker_memory(root, batches):
    """[largest private MB of a worker] after each tenth of the batches."""
    from projects.MAE.data.collate import BatchReader
    from projects.MAE.data.datasets import PretrainingDataset
    from projects.MAE.data.sampler import TrainingStream
    from projects.MAE.data.transforms import (
        Compose,
        RandomHorizontalFlip,
        RandomResizedCrop,
        ToArray,
    )
    from projects.MAE.data.workers import read_ahead

    chain = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToArray()])
    dataset = PretrainingDataset(root, True, chain, img_size=224, patch_size=16)
    stream = TrainingStream(len(dataset), BATCH, 0, 0, 1, 0, batches)
    found = []
    for number, _ in enumerate(read_ahead(BatchReader(dataset), stream, WORKERS), 1):
        if number % max(batches // 10, 1) == 0 and len(found) < 9:
            workers = multiprocessing.active_children()
            found.append(round(max(private_mb(worker.pid) for worker in workers)))
    return found


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000, help="images (1000000)")
    parser.add_argument("--batches", type=int, default=300, help=f"of {BATCH} images (300)")
    arguments = parser.parse_args()
    if arguments.files < CLASSES or arguments.batches < 20:
        parser.error(f"--files must be at least {CLASSES} and --batches at least 20")
    return arguments


def main():
    arguments = parse_arguments()
    from benchmarks.photos import machine

    results = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = os.path.join(folder, "caches")
        large, small = os.path.join(folder, "large"), os.path.join(folder, "small")
        for root, files in ((large, arguments.files), (small, CLASSES)):
            os.makedirs(root)
            make_folder(root, files)
        print(f"Made {arguments.files:,} files: listing, then twice from the cache", flush=True)
        time.sleep(5)  # a folder that has just changed is not trusted
        results["starts"] = []
        for _ in range(3):
            results["starts"].append(start(large))
            print(results["starts"][-1], flush=True)
        results["worker_private_mb"] = {}
        for root, files in ((small, CLASSES), (large, arguments.files)):
            found = worker_memory(root, arguments.batches)
            results["worker_private_mb"][files] = found
            print(f"{files:,} images: private MB of a worker over time: {found}", flush=True)
    with open(RESULTS, "w") as file:
        json.dump(results, file, indent=1)
    print(f"Written to {RESULTS}")


if __name__ == "__main__":
    main()
