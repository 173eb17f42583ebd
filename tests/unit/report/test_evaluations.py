"""What --eval-only and --knn wrote: found in the folders, on the page, and in a report that was there."""
import json

import pytest

from projects.MAE.report.page import report
from projects.MAE.report.run import read_run
from projects.MAE.report.save import renew_reports, save_report
from tests.support.folders import lines, make_evaluation, make_run
from tests.unit.report.test_page import page_of

KNN = {"Acc@1": 92.5, "Acc@5": 99.25, "train_images": 1437, "val_images": 360, "k": 20}
KNN.update(temperature=0.07, data="digits/val", weights="initial weights")


def accuracies(first, weights, data="digits/val", **more):
    return {"Acc@1": first, **{"images": 360, "weights": str(weights), "data": data, **more}}


def texts(*folders):
    """The texts of a page, from one cell to the next."""
    return "|".join(page_of(*folders).text)


def test_a_page_shows_each_evaluation_with_weights_data_and_figures(tmp_path):
    folder = make_run(tmp_path / "run")
    make_evaluation(folder, **accuracies(97.5, folder / "model_best", iteration=12))
    make_evaluation(folder / "evaluation", reconstruction_loss=0.5, weights="other/model_final")
    make_evaluation(folder / "knn", "knn.json", **KNN)
    text = texts(folder)
    head = "weights|after iteration|data|images|figures|"
    assert head + "evaluation|model_best|12|digits/val|360|top-1 accuracy 97.50 %|" in text
    assert "evaluation|other/model_final|–|–|–|reconstruction loss 0.5000|" in text
    settings, images = "k-NN, k=20, temperature 0.07|initial weights|–", "360, among 1,437"
    figures = "top-1 accuracy 92.50 %, top-5 accuracy 99.25 %"
    assert f"{settings}|digits/val|{images}|{figures}|" in text


def test_runs_in_the_folder_and_trials_keep_theirs_to_themselves(tmp_path):
    folder = make_run(tmp_path / "run")
    make_evaluation(make_run(folder / "inner"), **accuracies(1, "w"))
    make_evaluation(folder / "fast_dev_run", **accuracies(2, "w"))
    assert read_run(str(folder)).evaluated == [] and "Evaluations" not in texts(folder)
    assert len(read_run(str(folder / "inner")).evaluated) == 1


def test_a_comparison_has_a_row_for_each_figure(tmp_path):
    first, second, third = (make_run(tmp_path / name) for name in ("a", "b", "c"))
    make_evaluation(first, **accuracies(90, first / "model_final"))
    make_evaluation(second, **accuracies(80, second / "model_final"))
    make_evaluation(second / "best", **accuracies(85, second / "model_best"))
    make_evaluation(third, "knn.json", **KNN)
    text = texts(first, second, third)
    both = "80.00 % (model_final), 85.00 % (model_best)"
    assert f"|top-1 accuracy, evaluation|90.00 %|{both}|–|" in text
    assert "|top-1 accuracy, k-NN|–|–|92.50 %|" in text
    assert "run|weights|after iteration|" in text and "|b|evaluation|model_best|–|digits/val|360|" in text


def test_figures_that_can_not_be_compared_stand_in_rows_of_their_own(tmp_path):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    make_evaluation(first, **accuracies(90, "w", data="one/val"))
    make_evaluation(second, **accuracies(80, "w", data="other/val"))
    make_evaluation(first, "knn.json", **KNN)
    make_evaluation(second, "knn.json", **{**KNN, "k": 5})
    text = texts(first, second)
    assert "top-1 accuracy, evaluation, one/val, 360 images|90.00 %|–|" in text
    assert "top-1 accuracy, evaluation, other/val, 360 images|–|80.00 %|" in text
    images = "360, among 1,437 images"
    assert f"top-1 accuracy, k-NN, digits/val, {images}, k=5, temperature 0.07|–|92.50 %|" in text
    make_evaluation(second, **accuracies(80, "", data="one/val", images=40))
    assert "top-1 accuracy, evaluation, one/val, 40 images|–|80.00 %|" in texts(first, second)


def test_a_folder_that_holds_an_evaluation_alone(tmp_path):
    before = make_evaluation(tmp_path / "knn_before", "knn.json", **KNN)
    text = texts(before)
    assert f"evaluation in {before}" in text and "92.50 %" in text
    assert "Weights" not in text and "Curves" not in text
    run = make_run(tmp_path / "run")
    make_evaluation(run / "knn", "knn.json", **{**KNN, "Acc@1": 95})
    text = texts(run, before)
    assert "top-1 accuracy, k-NN|95.00 %|92.50 %|" in text and "iterations|20 of 20|–|" in text
    assert "loss by epoch" in [value for _, value in page_of(run, before).attributes]


def test_settings_are_compared_of_runs_alone(tmp_path):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    make_evaluation(tmp_path / "before", "knn.json", **KNN)
    assert "All settings agree." in texts(*runs, tmp_path / "before")
    assert "what differs" not in texts(runs[0], tmp_path / "before")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[1]",
        "{}",
        '{"weights": "w", "images": 3}',
        '{"Acc@1": NaN}',
        '{"Acc@1": 1%s}' % ("0" * 400),
        "[" * 100_000,
    ],
)
def test_damaged_files_are_left_out(tmp_path, content):
    folder = make_run(tmp_path / "run")
    (folder / "evaluation.json").write_text(content)
    assert read_run(str(folder)).evaluated == []


def test_values_of_another_kind_are_left_out(tmp_path):
    odd = {"Acc@1": 50, "Acc@5": "<script>", "weights": 3, "data": ["x"], "images": None, "iteration": True}
    folder = make_evaluation(make_run(tmp_path / "run"), **odd)
    (found,) = read_run(str(folder)).evaluated
    assert found.metrics == {"Acc@1": 50} and found.about == {}
    hostile = accuracies(50, "<script>", data="<b>", **{"<script>": 1})
    page = page_of(make_evaluation(folder, **hostile))
    assert "script" not in page.tags and "b" not in page.tags[page.tags.index("section") :]


def test_the_report_of_a_run_is_made_again_and_no_other(tmp_path):
    folder = make_run(tmp_path / "run")
    make_evaluation(folder / "evaluation", **accuracies(97.5, "w"))
    renew_reports(str(folder / "evaluation"))
    assert not list(tmp_path.glob("**/report.html"))  # nobody asked for one
    save_report([str(folder)], folder / "report.html")
    make_evaluation(folder / "evaluation", **accuracies(12.25, "w"))
    renew_reports(str(folder / "evaluation"))
    assert (folder / "report.html").read_text() == report([read_run(str(folder))])
    make_evaluation(folder, "knn.json", **KNN)
    renew_reports(str(folder))
    text = (folder / "report.html").read_text()
    assert "12.25 %" in text and "92.50 %" in text
    # In the folder that runs lie in, report.html is what somebody has made of several.
    (tmp_path / "report.html").write_text("mine")
    renew_reports(str(folder))
    assert (tmp_path / "report.html").read_text() == "mine"


def test_an_evaluation_while_the_run_goes_on_says_which_model_it_was(tmp_path):
    folder = make_run(tmp_path / "run", list(lines(1, 10)))
    make_evaluation(folder, **accuracies(50, folder / "model_best", iteration=5))
    (found,) = read_run(str(folder)).evaluated
    assert json.loads((folder / "evaluation.json").read_text())["iteration"] == found.about["iteration"]
    assert "not finished" in texts(folder) and "|model_best|5|" in texts(folder)
