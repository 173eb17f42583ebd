"""A folder of transformers or timm means what its files say, whichever of them is named."""
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from projects.MAE.convert_weights import main
from projects.MAE.errors import UserError
from projects.MAE.weights.files import read_weight_file
from projects.MAE.weights.saved_model import load_classifier, load_encoder_model
from projects.MAE.weights.folder_config import make_processor, read_processor
from projects.MAE.weights.sizes import sizes_of
from projects.MAE.weights.source import preprocessing_of, read_source
from projects.MAE.weights.transformers_names import make_config, to_transformers
from projects.MAE.data.preprocessing import Preprocessing, told_preprocessing
from tests.support.golden_models import part

HALF = [0.5, 0.5, 0.5]
# As ViTImageProcessor of transformers 4.49 writes it.
PROCESSOR = dict(
    image_processor_type="ViTImageProcessor",
    do_resize=True,
    size={"height": 32, "width": 32},
    resample=2,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=HALF,
    image_std=HALF,
)
# As timm 1.0 writes it.
TIMM = dict(
    architecture="vit_tiny_patch16_224",
    num_classes=10,
    global_pool="avg",
    model_args=dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=8),
    pretrained_cfg=dict(
        mean=HALF, std=[0.25] * 3, crop_pct=0.9, interpolation="bilinear", input_size=[3, 32, 32]
    ),
)


def write(folder, tensors, **files):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: np.ascontiguousarray(a) for n, a in tensors.items()}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def vit(golden, tmp_path):
    """Write a classifier as transformers does: vit(config={changes}, preprocessor_config={...})."""
    state = part(golden("finetune_tiny"), "cls_token/state/")

    def make(config=(), **files):
        own = make_config(sizes_of(state, ""), dict(num_heads=4))
        tensors = to_transformers(state, bare=False)
        return write(tmp_path / "vit", tensors, config={**own, **dict(config)}, **files)

    return make


@pytest.fixture
def timm(golden, tmp_path):
    """Write a classifier on the mean as timm does: timm(pretrained_cfg={changes}, ...)."""
    state = part(golden("finetune_tiny"), "global_pool/state/")

    def make(tensors=state, **changes):
        for group in ("model_args", "pretrained_cfg"):
            changes[group] = {**TIMM[group], **changes.get(group, {})}
        return write(tmp_path / "timm", tensors, config={**TIMM, **changes})

    return make


def both_ways(folder):
    """The `WeightSource` of a folder, after a look whether naming the file says the same."""
    found, of_file = read_source(folder), read_source(folder / "model.safetensors")
    assert found.facts == of_file.facts and found.known_from == of_file.known_from
    assert preprocessing_of(found) == preprocessing_of(of_file)
    return found


def test_everything_that_a_folder_of_transformers_says(vit):
    names = {str(i): f"name{i}" for i in reversed(range(10))}
    found = both_ways(vit(dict(id2label=names), preprocessor_config=PROCESSOR))
    assert found.facts["num_heads"] == 4 and found.facts["classes"] == [f"name{i}" for i in range(10)]
    told = (32, 32), 32, (0.5,) * 3, (0.5,) * 3, "bilinear"
    assert preprocessing_of(found) == (told, "its preprocessor_config.json")


@pytest.mark.parametrize(
    "changes, expected",
    [
        (dict(do_normalize=False), ((32, 32), 32, (0.0,) * 3, (1.0,) * 3, "bilinear")),
        (dict(do_rescale=False, image_mean=[127.5] * 3, image_std=[255] * 3),
         ((32, 32), 32, (0.5,) * 3, (1.0,) * 3, "bilinear")),
        (dict(size=32, resample=3), ((32, 32), 32, (0.5,) * 3, (0.5,) * 3, "bicubic")),
        (dict(size=36, do_center_crop=True, crop_size=32),
         ((36, 36), 32, (0.5,) * 3, (0.5,) * 3, "bilinear")),
        (dict(image_processor_type="CLIPImageProcessor", size={"shortest_edge": 36},
              do_center_crop=True, crop_size={"height": 32, "width": 32}),
         (36, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")),
        (dict(image_processor_type="ConvNextImageProcessor", size={"shortest_edge": 32}, crop_pct=0.8),
         (40, 32, (0.5,) * 3, (0.5,) * 3, "bilinear")),
        # ViT's has no crop, whatever stands there; null is what a processor leaves to its class.
        (dict(crop_size={"height": 24, "width": 24}, do_pad=None),
         ((32, 32), 32, (0.5,) * 3, (0.5,) * 3, "bilinear")),
    ],
)
def test_kinds_of_preprocessing(vit, changes, expected):
    found = read_source(vit(preprocessor_config={**PROCESSOR, **changes}))
    assert preprocessing_of(found)[0] == expected


@pytest.mark.parametrize(
    "changes, said",
    [
        (dict(do_resize=False), "do_resize=False"),
        (dict(do_pad=True), "do_pad=True"),
        (dict(do_normalize="false"), "do_normalize=false"),
        (dict(size={"shortest_edge": 32}), "size={'shortest_edge': 32}"),
        (dict(size={"height": 16, "width": 64}), r"\[16, 64\].*square"),
        (dict(size={"longest_edge": 32}), "size="),
        (dict(image_processor_type="SiglipImageProcessor", size=32), "size=32"),
        (dict(image_processor_type="LevitImageProcessor"), "image_processor_type=LevitImageProcessor"),
        (dict(image_processor_type="EfficientNetImageProcessor"), "image_processor_type=EfficientNet"),
        (dict(resample=9), "resample=9"),
        (dict(do_center_crop=True, size=24, crop_size=32), r"crops 32 pixels of images resized to \[24, 24"),
        (dict(resample=True), "resample=True"),
        (dict(image_mean=[0.5, 0.5]), "mean"),
        (dict(image_std=[0.5, 0.5, 0.0]), "std"),
        (dict(image_mean="x"), "image_mean=x"),
        (dict(rescale_factor=0), "rescale_factor=0"),
        (dict(size={"height": 10**400, "width": 10**400}), "square"),
    ],
)
def test_preprocessing_that_is_not_known_is_refused(vit, changes, said):
    folder = vit(preprocessor_config={**PROCESSOR, **changes})
    with pytest.raises(UserError, match=said):
        read_weight_file(folder)


def test_images_of_another_size_than_the_model_takes_are_refused(vit):
    found = read_source(vit(preprocessor_config={**PROCESSOR, "size": 48}))
    with pytest.raises(UserError, match="preprocessor_config.json says.* 48 pixels wide, its tensors 32"):
        preprocessing_of(found)


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(image_size=[16, 64]), r"image_size \[16, 64\].*square"),
        (dict(image_size=64), "img_size=64, its tensors 32"),
        (dict(patch_size=[8, 4]), "patch_size"),
        (dict(patch_size=4), "patch_size=4, its tensors 8"),
        (dict(hidden_size=64), "embed_dim=64, its tensors 32"),
        (dict(layer_norm_eps=1e-3), "layer_norm_eps"),
        (dict(id2label={str(i): "x" for i in range(1, 11)}), "id2label"),
        (dict(id2label=["a", "b"]), "id2label"),
        (dict(id2label={str(i): f"n{i}" for i in range(11)}), "num_classes=11, its tensors 10"),
        (dict(id2label={str(i): f"n{i}" for i in range(5)}), "num_classes=5, its tensors 10"),
        (dict(id2label={}, num_labels=5), "num_classes=5, its tensors 10"),
        (dict(num_labels=5), "num_labels=5, and id2label has 10 names"),
        (dict(id2label={}, num_labels=[5]), "num_classes must be a whole number"),
        (dict(label2id={f"LABEL_{i}": 9 - i for i in range(10)}), "label2id says that LABEL_0 is 9"),
        (dict(label2id={"cat": "9" * 5000}), "label2id says that cat is 999"),
        (dict(label2id={"cat": "x"}), "label2id says that cat is x, id2label says None"),
    ],
)
def test_a_config_that_lies_is_refused(vit, change, said):
    with pytest.raises(UserError, match=said):
        read_source(vit(change))


def test_a_label2id_as_examples_of_transformers_write_it(vit):
    """Its numbers may be texts, and of classes of one name it has the last."""
    names = {str(i): "crane" if i in (3, 5) else f"n{i}" for i in range(10)}
    found = read_source(vit(dict(id2label=names, label2id={n: i for i, n in names.items()})))
    assert found.facts["classes"] == list(names.values())


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_a_head_whose_outputs_are_no_classes(vit, tmp_path, kind):
    vit(dict(problem_type=kind))
    assert main([str(tmp_path / "vit"), str(tmp_path / "again"), "--to", "transformers"]) == 0
    for folder in ("vit", "again"):
        with pytest.raises(UserError, match=f"problem_type={kind}.*take its features"):
            load_classifier(tmp_path / folder)
        assert load_encoder_model(tmp_path / folder).facts["num_heads"] == 4


def test_sizes_as_height_and_width(vit):
    found = read_source(vit(dict(image_size=[32, 32], patch_size=[8, 8])))
    assert (found.sizes.img_size, found.sizes.patch_size) == (32, 8)


def test_the_mask_ratio_of_transformers(golden, tmp_path):
    state = part(golden("pretrain_tiny"), "state/")
    facts = dict(num_heads=4, decoder_num_heads=4, mask_ratio=0.5, norm_pix_loss=True)
    config = make_config(sizes_of(state, ""), facts)
    found = read_source(write(tmp_path / "mae", to_transformers(state, bare=False), config=config))
    assert {key: found.facts[key] for key in facts} == facts


def test_everything_that_a_folder_of_timm_says(timm):
    found = both_ways(timm(label_names=[f"name{i}" for i in range(10)]))
    assert found.facts["num_heads"] == 8 and found.facts["classes"][9] == "name9"
    told = 35, 32, (0.5,) * 3, (0.25,) * 3, "bilinear"
    assert preprocessing_of(found) == (told, "its config.json")


def test_timms_names_of_classes_by_number(timm):
    found = both_ways(timm(label_names={str(9 - i): f"name{9 - i}" for i in range(10)}))
    assert found.facts["classes"] == [f"name{i}" for i in range(10)]


def test_what_timm_leaves_open_is_timms_default(timm):
    nothing = dict(mean=None, std=None, crop_pct=None, interpolation=None)
    found = read_source(timm(pretrained_cfg=nothing))
    assert preprocessing_of(found)[0] == told_preprocessing({}, 32)


def test_an_encoder_of_timm_that_averages(timm, golden, tmp_path):
    """num_classes=0 and global_pool="avg": the norm behind the mean is there, the head is not."""
    state = part(golden("finetune_tiny"), "global_pool/state/")
    encoder = {name: array for name, array in state.items() if not name.startswith("head.")}
    folder = timm(encoder, num_classes=0)
    saved = load_encoder_model(folder)
    assert saved.sizes.parts == "encoder" and saved.model.global_pool
    for target, to in (("libai", "libai"), ("t.safetensors", "timm")):
        assert main([str(folder), str(tmp_path / target), "--to", to]) == 0
        assert read_source(tmp_path / target).sizes == saved.sizes
    # There the norm of patches and that of all tokens have one name, and a head alone tells.
    assert main([str(folder), str(tmp_path / "main"), "--to", "libai-main"]) == 1
    assert not (tmp_path / "main").exists()


def test_older_files_of_timm(golden, tmp_path):
    """Without groups, and with the shape squashed; timm's own defaults where a key is missing."""
    state = part(golden("finetune_tiny"), "global_pool/state/")
    config = dict(architecture="vit_x", mean=HALF, std=HALF, input_size=[3, 32, 32], crop_mode="squash")
    found = read_source(write(tmp_path / "old", state, config=config), num_heads=4)
    assert preprocessing_of(found)[0] == ((36, 36), 32, (0.5,) * 3, (0.5,) * 3, "bicubic")


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(global_pool="token"), "global_pool=token and fc_norm"),
        (dict(global_pool="map"), "global_pool=map"),
        (dict(global_pool=""), r"global_pool=\(none\) and fc_norm"),
        (dict(model_args=dict(global_pool="token")), "global_pool=token and fc_norm"),
        (dict(num_classes=5), "num_classes=5, its tensors 10"),
        (dict(label_names=list("abcde")), "num_classes=10, and there are 5 names of classes"),
        (dict(label_names={"0": "a", "2": "c"}), "label_names must give each class"),
        (dict(architecture="vit_base_patch16_rope_ape_224"), "rotary positions"),
        (dict(model_args=dict(act_layer="quick_gelu")), "act_layer=quick_gelu"),
        (dict(architecture="vit_base_patch16_clip_quickgelu_224"), "QuickGELU"),
        (dict(model_args=dict(img_size=[16, 64])), r"img_size \[16, 64\]"),
        (dict(model_args=dict(num_heads="8")), "num_heads must be a whole number"),
        (dict(model_args=dict(depth=4)), "depth=4, its tensors 3"),
        (dict(pretrained_cfg=dict(crop_mode="border")), "crop_mode=border"),
        (dict(pretrained_cfg=dict(interpolation="random")), "resample=random"),
        (dict(pretrained_cfg=dict(crop_pct=0)), "crop_pct=0"),
        (dict(pretrained_cfg=dict(crop_pct=1.1)), "crops 32 pixels of images resized to 29"),
        (dict(pretrained_cfg=dict(input_size=7)), "7 pixels wide, its tensors 32"),
        (dict(model_args=[1]), "model_args and pretrained_cfg"),
        (dict(label_names="abc"), "classes must be a list"),
    ],
)
def test_a_model_of_timm_that_can_not_be_is_refused(timm, tmp_path, change, said):
    if change == dict(model_args=[1]):
        folder = timm()
        (folder / "config.json").write_text(json.dumps({**TIMM, **change}))
    else:
        folder = timm(**change)
    with pytest.raises(UserError, match=said):
        preprocessing_of(read_source(folder))


def test_timms_mean_without_fc_norm_is_refused(golden, timm):
    with pytest.raises(UserError, match="global_pool=avg and no fc_norm"):
        read_source(timm(part(golden("finetune_tiny"), "cls_token/state/")))


def test_files_that_contradict_each_other_are_refused(vit):
    folder = vit(preprocessor_config=PROCESSOR, model_card=dict(num_heads=8))
    with pytest.raises(UserError, match="its model card says num_heads 8, its config.json 4"):
        read_source(folder)
    told = told_preprocessing({}, 32)._asdict()
    (folder / "model_card.json").write_text(json.dumps(dict(preprocessing=told)))
    with pytest.raises(UserError, match=r"preprocessing resize 36 .*preprocessor_config.json resize 32x32"):
        read_source(folder)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(36, 32, (0.1, 0.2, 0.3), (0.25, 0.3, 1 / 3)),
        Preprocessing((32, 32), 32, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        Preprocessing((40, 36), 32, (0.0,) * 3, (1.0,) * 3, "lanczos"),
    ],
)
def test_what_this_program_writes_says_the_same_when_it_is_read(vit, tmp_path, preprocessing):
    processor = json.loads(json.dumps(make_processor(preprocessing)))
    told = read_processor(processor, "test")["preprocessing"]
    assert told_preprocessing(told, 32) == preprocessing
    # A folder through the converter, whose head has more outputs than there are names.
    labels = {str(i): f"n{i}" if i < 3 else f"LABEL_{i}" for i in range(10)}
    source = read_source(vit(dict(id2label=labels), preprocessor_config=processor))
    for target, to in (("hf", "transformers"), ("libai", "libai"), ("t.safetensors", "timm")):
        assert main([str(tmp_path / "vit"), str(tmp_path / target), "--to", to]) == 0
        found = read_source(tmp_path / target)
        assert preprocessing_of(found)[0] == preprocessing
        assert found.facts["classes"] == source.facts["classes"] == ["n0", "n1", "n2"]
        for name, array in source.state.items():
            np.testing.assert_array_equal(found.state[name], array)


def test_weights_that_say_nothing_are_given_the_papers_preprocessing(vit, tmp_path, capsys):
    assert main([str(vit()), str(tmp_path / "out"), "--to", "transformers"]) == 0
    assert "resize 36 bicubic, crop 32" in capsys.readouterr().out
    assert preprocessing_of(read_source(tmp_path / "out"))[0] == told_preprocessing({}, 32)
