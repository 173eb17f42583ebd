"""Two machines, as two network namespaces joined by a virtual cable."""
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from projects.MAE.checkpoint.manifest import MANIFEST
from projects.MAE.checkpoint.names import CARD
from projects.MAE.checkpoint.reader import read_card
from tests.support.command import CONFIGS, ROOT, TINY, TINY_DECODER, environment, pretrain
from tests.support.runs import assert_same_weights, losses

SUBNET = "10.87.65"
TINY_PROBE = [s for s in TINY if not s.startswith("optim.")] + ["model.global_pool=False"]
FAILING = str(ROOT / "tests" / "support" / "failing_pretraining.py")
ROOT_KEY = "dataloader.train.dataset.0.root"


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines():
    """Two network namespaces; skips where the system allows none."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces can't be made: there is no ip command (iproute2)")
    names = [f"mae{os.getpid()}n{k}" for k in range(2)]
    refused = [result for name in names if (result := ip("netns", "add", name)).returncode]
    if refused:
        for name in names:
            ip("netns", "del", name)
        pytest.skip(f"network namespaces can't be made: {refused[0].stderr.strip()}")
    cable = [f"veth{os.getpid()}a", f"veth{os.getpid()}b"]
    ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
    for k in range(2):
        ip("link", "set", cable[k], "netns", names[k])
        ip("-n", names[k], "addr", "add", f"{SUBNET}.{k + 1}/24", "dev", cable[k])
        for device in ("lo", cable[k]):
            assert ip("-n", names[k], "link", "set", device, "up").returncode == 0
    yield names
    for name in names:
        ip("netns", "del", name)  # its end of the cable goes with it


def start(
    namespace,
    node_rank,
    data,
    output,
    *arguments,
    ranks=1,
    address=f"{SUBNET}.1",
    timeout=120,
    config=f"{CONFIGS}/quickstart_pretraining.py",
    tiny=(*TINY, *TINY_DECODER),
    file="projects/MAE/train_net.py",
    **others,
):
    """One machine's part of a tiny run, NODE=2, with other variables besides."""
    enter = ["ip", "netns", "exec", namespace] if namespace else []
    variables = dict(NODE="2", NODE_RANK=str(node_rank), ADDR=address, NODE_TIMEOUT=str(timeout))
    return subprocess.Popen(
        [*enter, "bash", "tools/train.sh", file, config, str(ranks), *tiny]
        + [f"{ROOT_KEY}={data}", f"train.output_dir={output}", *arguments],
        cwd=ROOT,
        env=environment() | variables | {"PORT": "12987"} | others,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(*runs, seconds=150):
    """Wait for the runs: [(exit status, error lines, output)]."""
    found = []
    try:
        for run in runs:
            output = run.communicate(timeout=seconds)[0]
            errors = [line for line in output.splitlines() if line.startswith("error: ")]
            found.append((run.returncode, errors, output))
    finally:
        for run in runs:
            run.kill()  # one that waits on after a failure; its ranks end with it
    return found


def test_two_machines_are_the_same_run(machines, image_folder, pretrained, tmp_path):
    folders = [tmp_path / "two", tmp_path / "other"]
    runs = [start(machines[1], 1, image_folder, folders[1])]
    time.sleep(2)  # machine 0 may come later
    runs.append(start(machines[0], 0, image_folder, folders[0]))
    for status, _, output in ends(*runs):
        assert status == 0, output
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(pretrained), rtol=1e-5)
    assert_same_weights(tmp_path / "two", pretrained, rtol=1e-4)


@pytest.mark.parametrize("there", ["nothing", "another run's"])
def test_resuming_from_a_folder_that_only_machine_0_has(machines, image_folder, tmp_path, there):
    folders = [tmp_path / "0", tmp_path / "1"]
    pretrain(image_folder, folders[0], "train.train_iter=2")
    if there != "nothing":
        pretrain(image_folder, folders[1], "train.train_iter=2", "train.base_lr=1e-6")
    settings = ["train.train_iter=3", "--resume"]
    runs = [start(machines[k], k, image_folder, folders[k], *settings) for k in (0, 1)]
    (status, errors, output), (other_status, other_errors, other) = ends(*runs)
    assert status == other_status == 1 and "Traceback" not in output + other, output + other
    assert len(errors) == 1 and not other_errors, (errors, other_errors)
    assert f"--resume: {folders[0] / 'model_0000001'}" in errors[0]
    assert ("rank 1 nothing" in errors[0]) == (there == "nothing")
    assert "train.output_dir must be a folder that all machines see" in errors[0]


def test_the_best_is_read_by_machine_0_alone(machines, image_folder, tmp_path):
    """Machine 1's view of the folder is an old one, which knows nothing of the best."""
    new, old = tmp_path / "new", tmp_path / "old"
    settings = ["train.evaluation.eval_period=2", "train.train_iter=2"]
    pretrain(image_folder, new, *settings)
    shutil.copytree(new, old)
    shutil.rmtree(old / "model_best")
    best = new / "model_best"
    content = read_card(best)
    assert "reconstruction_loss" in content
    content["reconstruction_loss"] = -1.0  # no evaluation is better
    (best / CARD).write_text(json.dumps(content))
    (best / MANIFEST).unlink()
    settings = ["train.evaluation.eval_period=1", "train.train_iter=3", "--resume"]
    runs = [start(machines[k], k, image_folder, (new, old)[k], *settings) for k in (0, 1)]
    for status, _, output in ends(*runs):
        assert status == 0, output
    assert read_card(best) == content


def test_machines_with_other_kernels(machines, native_kernels, image_folder, tmp_path):
    runs = [
        start(machines[0], 0, image_folder, tmp_path / "0", MAE_NATIVE="1"),
        start(machines[1], 1, image_folder, tmp_path / "1", MAE_NATIVE="0"),
    ]
    (status, errors, output), (other_status, other_errors, _) = ends(*runs)
    assert status == other_status == 1 and len(errors) == 1 and not other_errors, output
    assert "rank 0 has native ones and rank 1 those of OneFlow" in errors[0]
    assert "tools/setup.sh" in errors[0] and "MAE_NATIVE=0" in errors[0]


@pytest.mark.parametrize("seed", [0, 3])
def test_an_error_on_one_machine_ends_the_other(machines, image_folder, tmp_path, seed):
    """Whichever has the sample that fails: the seed decides."""
    settings = ["train.train_iter=100000", f"train.seed={seed}"]
    runs = [start(machines[k], k, image_folder, tmp_path / str(k), *settings, config=FAILING) for k in (0, 1)]
    found = ends(*runs, seconds=100)
    errors = [line for _, errors, _ in found for line in errors]
    assert len(errors) == 1 and "ValueError: the label is no number" in errors[0], found
    assert all("Traceback" not in output for _, _, output in found), found
    assert_one_tells_of_the_other(found)


def assert_one_tells_of_the_other(found):
    """Both have ended, the one without the error by OneFlow's abort, which it explains."""
    assert all(status not in (0, None) for status, _, _ in found), found
    gone = [output for status, _, output in found if status == 134]
    assert len(gone) == 1 and "a rank of another machine has ended" in gone[0] and "@ " not in gone[0]


@pytest.mark.parametrize(
    "stage, failing, config, tiny, arguments",
    [
        ("evaluation", 1, "pretraining", TINY + TINY_DECODER, ["train.load_weight={}", "--eval-only"]),
        ("k-NN", 0, "linprobe", TINY_PROBE, ["finetune.path={}", "--knn"]),
    ],
)
def test_an_error_of_an_evaluation_ends_the_other_machine(
    machines, image_folder, pretrained, tmp_path, stage, failing, config, tiny, arguments
):
    arguments = [argument.format(pretrained) for argument in arguments]
    options = dict(config=f"{CONFIGS}/quickstart_{config}.py", tiny=tiny, FAIL_AT=f"{stage} {failing}")
    options["file"] = "tests/support/failing_at.py"
    runs = [
        start(machines[k], k, image_folder, tmp_path / str(k), *arguments, **options) for k in (0, 1)
    ]
    found = ends(*runs, seconds=100)
    told = [output.count(f"RuntimeError: an error on rank {failing}") for _, _, output in found]
    assert told == [k == failing for k in (0, 1)], found
    assert_one_tells_of_the_other(found)


def test_machine_that_never_comes(image_folder, tmp_path):
    waiting = start(None, 0, image_folder, tmp_path, ranks=2, address="127.0.0.1", timeout=2)
    ((status, errors, output),) = ends(waiting)
    assert status == 1 and len(errors) == 1 and "Traceback" not in output, output
    assert "only 2 of 4 ranks" in errors[0] and "NODE_TIMEOUT" in errors[0]


def test_machine_0_that_is_not_there(image_folder, tmp_path):
    alone = start(None, 1, image_folder, tmp_path, ranks=2, address="127.0.0.1", timeout=2)
    ((status, errors, output),) = ends(alone)
    assert status == 1 and len(errors) == 1 and "Traceback" not in output, output
    assert "ADDR=127.0.0.1" in errors[0] and "NODE_RANK=0" in errors[0]


def test_two_machines_with_one_address(image_folder, tmp_path):
    runs = [start(None, k, image_folder, tmp_path, address="127.0.0.1") for k in (0, 1)]
    for status, errors, output in ends(*runs):
        assert status == 1 and len(errors) == 1 and "Traceback" not in output, output
        assert "two machines have the same address, 127.0.0.1" in errors[0]


def test_wrong_timeout(image_folder, tmp_path):
    run = start(None, 0, image_folder, tmp_path, address="127.0.0.1", timeout="soon")
    ((status, errors, output),) = ends(run)
    assert status == 1 and len(errors) == 1 and "NODE_TIMEOUT=soon" in errors[0], output
