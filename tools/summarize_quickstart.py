"""The quickstart's table and summary.json: python tools/summarize_quickstart.py FOLDER SECONDS"""
import json
import os
import sys

EXPECTED_ACC1 = 97.0


def metrics(folder, run):
    """The lines of a run's metrics.json."""
    with open(os.path.join(folder, run, "metrics.json")) as file:
        return [json.loads(line) for line in file]


def last(lines, key):
    """The last value of a key."""
    return [line[key] for line in lines if key in line][-1]


def knn_accuracy(folder, run):
    """Top-1 of a run of --knn."""
    with open(os.path.join(folder, run, "knn.json")) as file:
        return json.load(file)["Acc@1"]


def main(folder, seconds):
    pretraining = metrics(folder, "pretraining")
    losses = [line["total_loss"] for line in pretraining if "total_loss" in line]
    with open(os.path.join(folder, "evaluation", "evaluation.json")) as file:
        evaluation = json.load(file)
    summary = {
        "pretrain_loss_first": losses[0],
        "pretrain_loss_last": losses[-1],
        "knn_acc1_before": knn_accuracy(folder, "knn_before"),
        "knn_acc1_after": knn_accuracy(folder, "knn_after"),
        "finetune_acc1": last(metrics(folder, "finetune"), "Acc@1"),
        "scratch_acc1": last(metrics(folder, "scratch"), "Acc@1"),
        "eval_only_acc1": evaluation["Acc@1"],
        "seconds": seconds,
    }
    path = os.path.join(folder, "summary.json")
    with open(path, "w") as file:
        json.dump(summary, file, indent=1)
    rows = [
        ("pretraining loss, first iteration", f"{summary['pretrain_loss_first']:.3f}"),
        ("pretraining loss, last iteration", f"{summary['pretrain_loss_last']:.3f}"),
        ("k-NN top-1 before pretraining", f"{summary['knn_acc1_before']:.2f} %"),
        ("k-NN top-1 after pretraining", f"{summary['knn_acc1_after']:.2f} %"),
        ("top-1 accuracy, finetuned", f"{summary['finetune_acc1']:.2f} %"),
        ("top-1 accuracy, from scratch", f"{summary['scratch_acc1']:.2f} %"),
        ("top-1 accuracy, --eval-only", f"{summary['eval_only_acc1']:.2f} %"),
        ("seconds, set-up not counted", str(seconds)),
    ]
    print("\n" + "\n".join(f"{name:36}{value:>12}" for name, value in rows))
    if summary["eval_only_acc1"] != summary["finetune_acc1"]:
        sys.exit("error: --eval-only and the finetuning run give different accuracies")
    if summary["finetune_acc1"] < EXPECTED_ACC1:
        print(f"The finetuned accuracy is below {EXPECTED_ACC1} %: something is wrong.")
    print(f"\nSaved as {path}. The checkpoints and logs are beside it.")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
