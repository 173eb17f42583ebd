"""evaluation.json and knn.json: what --eval-only and --knn found, of which weights, on which images."""
import json
import os

from projects.MAE.utils.disk import refusals, write_text

EVALUATION, KNN = "evaluation.json", "knn.json"


def save_evaluation(folder, name, results, weights, card, data):
    """Write the figures of an evaluation, whole or not at all.

    Args:
        folder: `train.output_dir`.
        name: EVALUATION or KNN; one that is there is replaced.
        results: {metric: value}, and how many images there were.
        weights: what to call them.
        card: the weights' model card, {} without one. Its iteration tells a later reader which
            model it was, even where the checkpoint has been replaced by a newer one of its name.
        data: the folder of the images.
    """
    content = {**results, "weights": weights, "data": data}
    if "iteration" in card:
        content["iteration"] = card["iteration"]
    with refusals(folder):
        write_text(os.path.join(folder, name), json.dumps(content))
