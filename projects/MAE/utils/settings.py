"""Checks of a configuration's values, before anything is built."""
from projects.MAE.errors import UserError
from projects.MAE.modeling.mae import check_sizes, kept_patches
from projects.MAE.utils.libai_folder import find_checkpoint
from projects.MAE.utils.pretrained import check_source


def check_settings(cfg, eval_only):
    """Raise a UserError for the first setting that can be known to be wrong."""
    model = cfg.model
    check_sizes(model.img_size, model.patch_size, model.embed_dim, model.num_heads)
    if "mask_ratio" in model:
        kept_patches((model.img_size // model.patch_size) ** 2, model.mask_ratio)
    if eval_only and cfg.train.load_weight:
        try:
            find_checkpoint(cfg.train.load_weight)
        except UserError as error:
            raise UserError(f"train.load_weight={error}") from None
    elif "finetune" in cfg and cfg.finetune.enable and not cfg.train.resume:
        check_source(cfg.finetune.path, cfg.finetune.weight_style)
