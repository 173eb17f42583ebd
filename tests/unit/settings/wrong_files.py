"""Wrong configuration files, and the message each must end with; see `wrong_settings.py`."""
from tests.unit.settings.wrong_settings import CROP

# A configuration file's own text, and the message with FILE for its path.
FILES = [
    ("x = (1,\n", "FILE, line 1: SyntaxError: '(' was never closed"),
    ("import no_such_module\n", "FILE, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ("a = 1\nmodel = undefined_name\n", "FILE, line 2: NameError: name 'undefined_name' is not defined"),
    (
        "from .no_such_recipe import model\n",
        "FILE, line 1: ImportError: Cannot import name no_such_recipe from FILE: "
        "FOLDER/no_such_recipe.py has to exist.",
    ),
    (
        "finetune = {}\nfinetune.enable = True\n",
        "FILE, line 2: AttributeError: 'dict' object has no attribute 'enable': write group['key'] = "
        "value, or make the group with OmegaConf.create({...})",
    ),
    ("x = 1\0\n", "FILE: ValueError: source code string cannot contain null bytes"),
    (
        "nothing = dict()\n",
        "the configuration has no model: begin with one of projects/MAE/configs, as "
        "quickstart_finetune.py does with mae_finetune.py",
    ),
    ("x = 1\nraise BaseException('no data')\n", "FILE, line 2: BaseException: no data"),
]
FILES += [
    (f"x = 1\n{line}\n", f"FILE, line 2: SystemExit: {said}take out what ends the program")
    for line, said in (
        ("raise SystemExit", ""),
        ("import sys; sys.exit()", ""),
        ("import sys; sys.exit(3)", ""),
        ("raise SystemExit('no data')", "no data: "),
    )
]
# Lines below a recipe, as a user would write them.
GROUP = "must be a group of settings: set"
FIRST = {
    **{"train": "train.output_dir", "data": "data.on_error", "graph": "graph.enabled"},
    **{"finetune": "finetune.enable", "dataloader": "dataloader.train", "vit": "vit.size"},
}
CALL = "must be a call: LazyCall(...)(...) in the configuration file"
OWN_LINES = [
    *((f"{key} = 3", f"{key}=3 {GROUP} {first} and the like") for key, first in FIRST.items()),
    *((f"{key} = 'x'", f"{key}=x {CALL}") for key in ("model", "optim")),
    ("finetune = [1]", f"finetune=[1] {GROUP} finetune.enable and the like"),
    ("finetune = None", f"finetune=null {GROUP} finetune.enable and the like"),
    ("data = (1, 2)", f"data=[1, 2] {GROUP} data.on_error and the like"),
    ("optim = OmegaConf.create([1])", f"optim=[1] {CALL}"),
    ("train = OmegaConf.create([1])", f"train=[1] {GROUP} train.output_dir and the like"),
    (
        "del train['rdma_enabled']",
        "the configuration has no train.rdma_enabled: begin with `from .common.train import graph, "
        "train`, as the recipes do",
    ),
    (
        "model.mask_ration = 0.5",
        "unknown key model.mask_ration: model has no 'mask_ration'; did you mean model.mask_ratio?",
    ),
    ("train.sed = 3", "unknown key train.sed: train has no 'sed'; did you mean train.seed?"),
    (
        "train.checkpointer['perod'] = 3",
        "unknown key train.checkpointer.perod: train.checkpointer has no 'perod'; did you mean "
        "train.checkpointer.period?",
    ),
    (
        "graph.enabeld = False",
        "unknown key graph.enabeld: graph has no 'enabeld'; did you mean graph.enabled?",
    ),
    (
        "finetune.pth = 'x'",
        "unknown key finetune.pth: finetune has no 'pth'; did you mean finetune.path?",
    ),
    (
        "del dataloader.train.dataset[0].transform.transforms[0]['size']",
        f"{CROP}.size is missing: RandomResizedCrop needs it",
    ),
    (
        "dataloader.train.dataset[0].transform.transforms[1]['mean'] = [0.5, 0.5, 0.5]",
        "dataloader.train.dataset.0.transform.transforms.1.mean=[0.5, 0.5, 0.5], but data.mean=[0.485, "
        "0.456, 0.406]: training and evaluation need the same: set only data.mean, and leave the "
        "others at ${data.mean}",
    ),
    (
        "del data['std']; dataloader.test[0].dataset.transform.transforms[2]['std'] = [0.5, 0.5, 0.5]",
        "dataloader.test.0.dataset.transform.transforms.2.std=[0.5, 0.5, 0.5], but dataloader.train."
        "dataset.0.transform.transforms.1.std=[0.229, 0.224, 0.225]: training and evaluation need the "
        "same: set only data.std, and leave the others at ${data.std}",
    ),
    (
        "dataloader.test[0].dataset['exif'] = 'ignore'",
        "dataloader.test.0.dataset.exif=ignore, but data.exif=apply: training and evaluation need the "
        "same: set only data.exif, and leave the others at ${data.exif}",
    ),
    (
        "model['_target_'] = 'no.such.Model'",
        "model._target_=no.such.Model can't be called: Error loading 'no.such.Model': "
        "ModuleNotFoundError(\"No module named 'no'\") Are you sure that module 'no' is installed?",
    ),
]
