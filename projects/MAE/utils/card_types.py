"""What a model card may hold: a file from a stranger that is read beside weights."""
from projects.MAE.errors import UserError

TYPES = {
    "num_heads": (int, "a whole number"),
    "decoder_num_heads": (int, "a whole number"),
    "epoch": (int, "a whole number"),
    "norm_pix_loss": (bool, "true or false"),
    "global_pool": (bool, "true or false"),
    "classes": (list, "a list of names"),
}


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
            raise UserError(f"{source}: damaged, {key} must be {words}")
