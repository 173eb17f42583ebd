"""Weight files of tiny models, for the tests of the commands."""
import numpy as np
from safetensors.numpy import save_file

from projects.MAE.data.preprocessing import standard_preprocessing
from projects.MAE.weights.libai_names import torch_to_libai
from projects.MAE.weights.write import write_libai
from tests.support.golden_models import part

KINDS = {
    "full": ("pretrain_tiny", "state/"),
    "mean": ("finetune_tiny", "global_pool/state/"),
    "token": ("finetune_tiny", "cls_token/state/"),
}


def golden_state(golden, kind):
    """{authors' name: array} of a golden model: "full", "encoder", "mean" or "token" (classifiers)."""
    if kind == "encoder":
        full = golden_state(golden, "full")
        return {n: a for n, a in full.items() if not n.startswith(("decoder_", "mask_token"))}
    file, prefix = KINDS[kind]
    return part(golden(file), prefix)


def write_weights(golden, kind, path, **card):
    """Write a golden model: a .safetensors file without a card, or else a LiBai checkpoint."""
    state = golden_state(golden, kind)
    if str(path).endswith(".safetensors"):
        save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path)
    else:
        preprocessing = standard_preprocessing(32)._asdict()  # as the card of a run has one
        card = dict(num_heads=4, preprocessing=preprocessing, **card)
        write_libai(str(path), torch_to_libai(state, 4, 4), card)
    return path
