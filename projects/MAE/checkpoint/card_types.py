"""What a model card may hold: a file from a stranger that is read beside weights."""
from projects.MAE.errors import UserError

TYPES = {
    "num_heads": (int, "a whole number"),
    "decoder_num_heads": (int, "a whole number"),
    "epoch": (int, "a whole number"),
    "iteration": (int, "a whole number"),
    "mask_ratio": (float, "a number below 1"),
    "norm_pix_loss": (bool, "true or false"),
    "global_pool": (bool, "true or false"),
    "classes": (list, "a list of names"),
    "preprocessing": (dict, "an object with resize, crop, mean and std"),
}
LARGEST_IMAGE = 16384  # pixels of a side


def check_card_types(card, source):
    """Raise a UserError where a card's value is of a kind that its readers don't expect.

    Args:
        card: {key: value} as JSON gives it.
        source: names the file in errors.
    """
    for key, (kind, words) in TYPES.items():
        value = card.get(key)
        if value is None:
            continue
        is_names = kind is not list or type(value) is list and all(type(x) is str for x in value)
        if type(value) is not kind or not is_names:
            raise UserError(f"damaged, {key} must be {words}", path=source)
    check_preprocessing(card.get("preprocessing") or {}, source)


def check_preprocessing(told, source):
    """Raise a UserError for what `Preprocessing` can't be made of.

    Args:
        told: a dict with some of its fields.
        source: names the file in errors.
    """
    for key, value in told.items():
        if key in ("resize", "crop"):
            fits = type(value) is int and 0 < value <= LARGEST_IMAGE
        else:
            is_three = isinstance(value, (list, tuple)) and len(value) == 3
            fits = key in ("mean", "std") and is_three and all(map(_is_finite, value))
        if not fits or key == "std" and min(value) <= 0:
            raise UserError(f"damaged, preprocessing can't be with {key}={str(value)[:80]}", path=source)


def _is_finite(value):
    return type(value) in (int, float) and abs(value) < 1e6
