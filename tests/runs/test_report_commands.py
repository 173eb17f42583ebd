"""The commands that a report proposes can be run as they stand."""
import json
import shlex

import pytest

from projects.MAE import extract_features, predict, visualize
from projects.MAE.report.__main__ import main as make_report
from projects.MAE.report.commands import next_commands
from projects.MAE.report.run import read_run
from tests.support.command import ROOT, TINY, finetune, pretrain, run_program
from tests.support.folders import lines, make_checkpoint, make_run
from tests.support.runs import losses

PRETRAINING = str(ROOT / "projects/MAE/configs/quickstart_pretraining.py")


def commands_of(folder):
    return dict(next_commands(read_run(str(folder))))


@pytest.fixture(scope="module")
def stopped(image_folder, tmp_path_factory):
    """A run that looks as if it had been killed after two of four iterations, in a folder whose name
    a shell would take apart."""
    folder = tmp_path_factory.mktemp("runs") / "my run; $(ls)"
    (folder / "report.html").mkdir(parents=True)  # so that no report can be written
    output = pretrain(image_folder, folder, "train.checkpointer.period=2", "train.warmup_epoch=0")
    assert "WARNING: No report: " in output and "Trained 4 iterations" in output
    assert not list(folder.glob("*.partial"))
    (folder / "report.html").rmdir()
    (folder / "last_checkpoint").write_text("model_0000001")
    kept = (folder / "metrics.json").read_text().splitlines()[:2]
    (folder / "metrics.json").write_text("\n".join(kept) + "\n")
    return folder


def run(command, *settings):
    """Run a command as a person does who copies it, with more settings, and return its output."""
    result = run_program(["bash", "-c", " ".join([command, *map(shlex.quote, settings)])])
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_a_stopped_run_is_gone_on_with_finetuned_and_evaluated(stopped):
    found = commands_of(stopped)
    assert list(found)[0] == "Go on with the run"
    assert "Resumed from" in run(found["Go on with the run"])
    assert len(losses(stopped)) == 4 and (stopped / "report.html").exists()
    found = commands_of(stopped)
    assert "Go on with the run" not in found
    classifier = [s for s in TINY if not s.startswith("model.")] + ["model.num_classes=3"]
    assert "Loaded 16 tensors" in run(found["Finetune a classifier"], *classifier)
    assert list(commands_of(f"{stopped}_finetune"))[0] == "Classify images of your own"
    run(found["Evaluate it"], "train.test_micro_batch_size=4")
    evaluated = json.loads((stopped / "evaluation" / "evaluation.json").read_text())
    assert evaluated["reconstruction_loss"] > 0 and evaluated["images"] == 9
    run(found["Judge its features by nearest neighbours"], "model.num_classes=3", "train.knn.k=5")
    # The report that the run has made shows what was found out since.
    text = (stopped / "report.html").read_text()
    assert f"reconstruction loss {evaluated['reconstruction_loss']:.4f}" in text
    nearest = json.loads((stopped / "knn" / "knn.json").read_text())
    assert nearest["weights"] == f"{stopped}/model_0000003" and nearest["iteration"] == 4
    assert f"top-1 accuracy {nearest['Acc@1']:.2f} %" in text
    probe = [s for s in classifier if not s.startswith("optim.")]
    assert "Loaded 16 tensors" in run(found["Probe it linearly"], *probe)
    assert list(commands_of(f"{stopped}_linprobe"))[0] == "Classify images of your own"


@pytest.fixture(scope="module")
def classified(image_folder, tmp_path_factory):
    """A short finetuning run."""
    folder = tmp_path_factory.mktemp("runs") / "my classifier"
    finetune(image_folder, folder, "finetune.enable=False", "model.num_classes=3", "train.train_iter=1")
    return folder


def run_here(command, program, name, **filled):
    """Run a command of a report in this process, with its words in capitals filled in."""
    parts = [filled.get(part, str(part)) for part in shlex.split(command)]
    assert parts[:3] == ["python", "-m", f"projects.MAE.{name}"]
    assert program(parts[3:]) == 0


def test_runs_are_looked_at_used_and_compared(image_folder, stopped, classified, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    val, found = str(image_folder / "val"), commands_of(stopped)
    run_here(found["Look at reconstructions"], visualize.main, "visualize")
    run_here(found["Features of images of your own"], extract_features.main, "extract_features", FOLDER=val)
    run_here(found["Compare it with another run"], make_report, "report", OTHER=str(classified))
    assert (stopped / "reconstruction.png").exists() and (stopped / "features.npz").exists()
    assert "2 runs compared" in (tmp_path / "report.html").read_text()
    found = commands_of(classified)
    run_here(found["Classify images of your own"], predict.main, "predict", IMAGE=val)


def test_settings_of_the_run_come_along(tmp_path):
    settings = ["vit.size=large", "model.img_size=32", "model.decoder_depth=2", "model.mask_ratio=0.5"]
    settings += ["dataloader.train.dataset.0.root=/my images", "train.seed=3", "optim.lr=1"]
    arguments = ["--config-file", PRETRAINING, *settings]
    folder = make_run(tmp_path / "run", list(lines(1, 5)), arguments=arguments)
    assert commands_of(folder) == {}  # nothing was saved yet
    make_checkpoint(folder, "model_0000004", iteration=5)
    found = {what: shlex.split(command) for what, command in commands_of(folder).items()}
    start = ["bash", "tools/train.sh", "projects/MAE/train_net.py", "projects/MAE/configs/"]
    on = found["Go on with the run"]
    assert on[:3] == start[:3] and on[3:6] == [start[3] + "quickstart_pretraining.py", "1", "--resume"]
    assert on[6:] == [*settings, f"train.output_dir={folder}"]
    classifier = found["Finetune a classifier"]
    assert classifier[3] == start[3] + "quickstart_finetune.py"
    assert classifier[5:] == [
        f"finetune.path={folder}",
        f"train.output_dir={folder}_finetune",
        "vit.size=large",
        "model.img_size=32",
        "dataloader.train.dataset.0.root=/my images",
    ]
    assert set(found["Evaluate it"]) >= {"model.decoder_depth=2", "--eval-only", "vit.size=large"}


def test_a_run_on_several_machines_is_gone_on_with_on_each(tmp_path):
    folder = make_run(tmp_path / "run", list(lines(1, 5)), arguments=["--config-file", PRETRAINING])
    make_checkpoint(folder, "model_0000004", iteration=5)
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(dict(environment, ranks=16)))
    config = (folder / "config.yaml").read_text()
    config = config.replace("train: {global", "train: {dist: {num_nodes: 2}, global")
    (folder / "config.yaml").write_text(config)
    found = commands_of(folder)
    start = "NODE=2 NODE_RANK=NUMBER ADDR=ADDRESS bash tools/train.sh projects/MAE/train_net.py "
    for what in ("Go on with the run", "Finetune a classifier", "Evaluate it"):
        assert found[what].startswith(start)
        assert shlex.split(found[what])[7] == "8"


def test_where_the_configuration_is_not_known_its_name_is_left_open(tmp_path):
    folder = make_run(tmp_path / "run")
    make_checkpoint(folder, "model_best")
    (folder / "environment.json").unlink()
    found = commands_of(folder)
    assert "train_net.py CONFIG --eval-only" in found["Evaluate it"]
    assert "train_net.py FINETUNE_CONFIG finetune.path=" in found["Finetune a classifier"]


@pytest.mark.parametrize("model", ["vit.VisionTransformer", "linear_probe.LinearProbe"])
def test_other_commands_take_their_arguments(tmp_path, model):
    folder = make_run(tmp_path / "my run")
    make_checkpoint(folder, "model_best")
    (folder / "config.yaml").write_text(f"model: {{_target_: projects.MAE.modeling.{model}}}\n")
    found = {what: shlex.split(command) for what, command in commands_of(folder).items()}
    features = found["Features of images of your own"]
    assert features[:3] == ["python", "-m", "projects.MAE.extract_features"]
    assert extract_features.parse_arguments(features[3:]).weights == str(folder)
    classes = found["Classify images of your own"]
    assert classes[:3] == ["python", "-m", "projects.MAE.predict"]
    assert predict.parse_arguments(classes[3:]).weights == str(folder)


def test_environment_without_arguments_of_use(tmp_path):
    for i, content in enumerate(['{"arguments": ["--config-file"]}', '{"arguments": [], "ranks": "2"}']):
        folder = make_run(tmp_path / f"run{i}")
        make_checkpoint(folder, "model_best")
        (folder / "environment.json").write_text(content)
        assert "CONFIG" in commands_of(folder)["Evaluate it"]
