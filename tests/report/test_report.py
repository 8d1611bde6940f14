"""The report holds what the run's files say, and shows every picture that it draws."""

import csv
import json
import re

import numpy as np
import pytest
import yaml

from ikem.config import Config, DataConfig
from ikem.data.dataset import Clip, write_dataset
from ikem.data.synthetic import generate
from ikem.evaluation.scores import by_stream
from ikem.report import plots, report
from ikem.report.pictures import PICTURES, front_page_picture
from ikem.report.text import results_table
from ikem_ext import MODALITIES, get_layout

CLASSES = ["sit down", "stand up", "wave"]
THREE = ("joint", "motion", "bone")


def write_data(folder, layout="ntu25", *, bodies=1, source="synthetic", clips_per_class=6):
    """Clips of one body that trembles, and of a second one in every other clip where there is room."""
    generator = np.random.default_rng(0)
    layout = get_layout(layout)
    labels = np.repeat(np.arange(len(CLASSES)), clips_per_class)
    shape = (3, 12, layout.num_joints, bodies)
    joints = generator.normal(size=(len(labels), 3, 1, layout.num_joints, bodies)) + 0.1 * generator.normal(
        size=(len(labels), *shape)
    )
    joints[1::2, ..., 1:] = 0
    indices = list(range(len(labels)))
    write_dataset(
        folder,
        joints=joints.astype(np.float32),
        clips=[Clip(f"clip{i}", int(label), 1 + i % 2, None, None, None, 40 + i) for i, label in enumerate(labels)],
        classes=CLASSES,
        layout=layout,
        source=source,
        preprocessing={},
        protocols={"cross-subject": {"train": indices[0::2], "test": indices[1::2]}},
    )


def make_stream(stage, stream, top1, *, part="test", knn=True):
    """What is known of a stream, as the rows of `evaluation.json` say it one by one."""
    linear = {"top1": top1, "top5": min(1.0, top1 + 0.2), "top1_best_epoch": None if stage == "raw" else top1 + 0.01}
    protocols = {"linear": linear | {"per_class": [top1] * 3}}
    if knn:
        protocols["retrieval"] = {"neighbors": 1, "top1": top1 - 0.05}
        protocols["knn"] = {"neighbors": 20, "top1": top1 - 0.1}
        protocols["logistic"] = {"top1": min(1.0, top1 + 0.15), "top5": 1.0}
    origin = {"stage": stage, "stream": stream, "part": part, "seed": 1, "draw": None, "control": None}
    return [{"protocol": protocol, **origin, **accuracies} for protocol, accuracies in protocols.items()]


def make_rows(stages=("random", "stage1", "stage2", "student"), modalities=MODALITIES):
    rows = make_stream("raw", "joint", 0.81, knn=False)
    for place, stage in enumerate(stages):
        streams = [m for m in modalities if stage != "student" or m in THREE]
        fused = [f"fused{len(streams)}"] if len(streams) > 1 else []
        fused += ["fused3"] if len(streams) > 3 else []
        for i, stream in enumerate(streams + fused):
            rows += make_stream(stage, stream, 0.3 + 0.1 * place + 0.01 * i)
        for stream in fused:
            rows += make_stream(stage, f"late_{stream}", 0.3 + 0.1 * place, knn=False)
    return rows


def write_metrics(path, columns, epochs=5):
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", *columns])
        for epoch in range(epochs):
            late = [("explicit" in column or "implicit" in column) and epoch < 3 for column in columns]
            writer.writerow([epoch, 10 * epoch, *("" if absent else 5 - 0.1 * epoch for absent in late)])


def write_run(tmp_path, *, rows=None, commands=("pretrain", "distill"), **data):
    """A run as the other commands leave it."""
    run, folder = tmp_path / "runs" / "try", tmp_path / "data"
    write_data(folder, **data)
    rows = make_rows() if rows is None else rows
    layout = data.get("layout", "ntu25")
    result = {
        "dataset": {
            "name": data.get("source", "synthetic"),
            "layout": layout,
            "classes": CLASSES,
            "protocol": "cross-subject",
            "train_clips": 9,
            "test_clips": 9,
        },
        "rows": rows,
        "environment": {"torch": "2.99.0", "machine": "abacus", "gpu": None},
    }
    if "pretrain" in commands:
        kinds = ("loss", "accuracy", "explicit", "implicit")
        write_metrics(run / "pretrain/metrics.csv", [f"{kind}/{m}" for kind in kinds for m in MODALITIES])
    if "distill" in commands:
        write_metrics(run / "distill/metrics.csv", [f"loss/{m}" for m in THREE])
    run.mkdir(parents=True, exist_ok=True)
    (run / "evaluation.json").write_text(json.dumps(result))
    (run / "config.yaml").write_text(yaml.safe_dump({"pretrain": {"exchange_epoch": 3}}))
    generator = np.random.default_rng(1)
    arrays = {"labels": np.repeat(np.arange(3), 3), "clips": np.arange(1, 18, 2)}
    taken_for = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2])  # as the confusion matrix says
    for row in rows:
        stage, stream = row["stage"], row["stream"]
        arrays[f"confusion_{stage}_{stream}"] = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 3]])
        arrays[f"classes_{stage}_{stream}"] = np.stack([(taken_for + more) % 3 for more in range(3)], axis=1)
        arrays[f"scores_{stage}_{stream}"] = np.linspace(0.5, 0.9, 9)[:, None] * (1, 0.2, 0.1)
        if stream in MODALITIES and stage != "raw":
            arrays[f"features_{stage}_{stream}"] = generator.normal(size=(9, 8)).astype(np.float32)
    np.savez(run / "evaluation.npz", **arrays)
    return Config(run=run, data=DataConfig(folder=folder, protocol="cross-subject"))


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a run with all stages, reported."""
    config = write_run(tmp_path_factory.mktemp("complete"))
    assert report(config) == config.run / "report.md"
    return config.run


@pytest.fixture
def no_pictures(monkeypatch):
    """For tests of the text alone."""
    monkeypatch.setattr("ikem.report.write.PICTURES", {})


def tables(text):
    """The cells of the lines of Markdown tables."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shown(text):
    return re.findall(r"!\[.*?\]\((.*?)\)", text)


def test_shows_every_picture_that_it_draws(complete):
    expected = {f"pictures/{name}.png" for name in ("modalities", "training", "accuracy", "confusion", "embedding")}
    assert set(shown((complete / "report.md").read_text())) == expected
    drawn = sorted((complete / "pictures").iterdir())
    assert {f"pictures/{picture.name}" for picture in drawn} == expected
    for picture in drawn:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 10_000


def test_the_table_holds_the_numbers_of_the_evaluation(complete):
    cells = tables((complete / "report.md").read_text())[2:]
    rows = by_stream(json.loads((complete / "evaluation.json").read_text())["rows"])
    order = list(plots.STAGE_NAMES)
    rows.sort(key=lambda row: order.index(row["stage"]))
    assert len(cells) == len(rows)
    for line, row in zip(cells, rows, strict=True):
        linear = row["linear"]
        numbers = [
            linear["top1"],
            linear["top5"],
            linear["top1_best_epoch"],
            row["neighbors"].get(1),
            row["neighbors"].get(20),
        ]
        numbers.append(row["logistic"] and row["logistic"]["top1"])
        assert line[0] == plots.STAGE_NAMES[row["stage"]]
        assert line[1] == plots.stream_name(row["stream"])
        assert line[2:] == ["" if number is None else f"{100 * number:.1f}" for number in numbers]


def test_says_where_the_numbers_come_from(complete):
    text = (complete / "report.md").read_text()
    for command in ("pretrain", "distill", "evaluate", "report"):
        assert f"ikem {command} --config" in text
    assert "torch: 2.99.0" in text
    assert "abacus" in text
    assert "gpu" not in text


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("source", "synthetic"), [("synthetic", True), ("utd-mhad", False)])
def test_says_plainly_when_data_are_synthetic(tmp_path, source, synthetic):
    text = report(write_run(tmp_path, source=source)).read_text()
    assert ("The data are synthetic" in text) == synthetic


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("pretrained", "random", "verdict"),
    [(0.9, 0.1, "+80.0 ± 27.7 points (better)"), (0.5, 0.45, "no clear difference"), (0.1, 0.9, "-80.0")],
)
def test_conclusions_follow_from_the_numbers(tmp_path, pretrained, random, verdict):
    rows = make_stream("random", "joint", random) + make_stream("stage1", "joint", pretrained)
    text = report(write_run(tmp_path, rows=rows)).read_text()
    claim = next(line for line in text.splitlines() if "Pretraining against random weights" in line)
    assert verdict in claim
    assert ("(worse)" in claim) == (pretrained < random)


@pytest.mark.parametrize(
    ("layout", "bodies", "stages", "modalities", "commands"),
    [
        ("utd20", 1, ("random", "stage1"), MODALITIES, ("pretrain",)),
        ("sbu15", 2, ("random", "stage1", "stage2"), THREE, ("pretrain",)),
        ("kinect20", 1, ("random",), ("joint",), ()),
    ],
)
def test_works_with_any_skeleton_and_with_stages_missing(tmp_path, layout, bodies, stages, modalities, commands):
    rows = make_rows(stages, modalities)
    config = write_run(tmp_path, rows=rows, commands=commands, layout=layout, bodies=bodies)
    text = report(config).read_text()
    assert ("training.png" in text) == bool(commands)
    assert ("confusion.png" in text) == ("stage1" in stages)
    assert {f"pictures/{path.name}" for path in (config.run / "pictures").iterdir()} == set(shown(text))
    assert "nan" not in text


def test_a_new_report_takes_away_pictures_that_no_longer_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("ikem.report.write.PICTURES", {"training": PICTURES["training"]})
    config = write_run(tmp_path, commands=())
    (config.run / "pictures").mkdir()
    (config.run / "pictures/training.png").write_text("old")
    assert "training.png" not in report(config).read_text()
    assert not (config.run / "pictures/training.png").exists()


def write_finetuning(run, name, stage, labels, draw, top1):
    """A finetuning as its command leaves it."""
    origin = {"protocol": "finetune", "stage": stage, "stream": "fused3", "seed": 1, "draw": draw, "labels": labels}
    origin["control"] = "supervised" if stage == "random" else None
    rows = [
        {**origin, "part": part, "top1": top1, "top1_best_epoch": 0.99} for part in ("test", "test_without_repeats")
    ]
    folder = run / "finetune" / name
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps({"rows": rows}))


def test_shows_what_was_finetuned(tmp_path, monkeypatch):
    monkeypatch.setattr("ikem.report.write.PICTURES", {"finetuning": PICTURES["finetuning"]})
    config = write_run(tmp_path)
    assert "Finetuning" not in report(config).read_text()
    write_finetuning(config.run, "pretrained", "stage2", 1.0, None, 0.875)
    write_finetuning(config.run, "random", "random", 1.0, None, 0.75)
    text = report(config).read_text()
    assert "| supervised, from random weights | fused three | finetune | 75.0 |" in text
    assert f"ikem finetune --config {config.run}/finetune/random/config.yaml" in text
    assert not shown(text)  # one share of labels is no curve
    for draw, top1 in enumerate((0.5, 0.6, 0.7)):
        write_finetuning(config.run, f"pretrained-0.1-{draw}", "stage2", 0.1, draw, top1)
    text = report(config).read_text()
    table = tables(text[text.index("## Finetuning") :])
    assert [table[0], *table[2:4]] == [
        ["stage", "stream", "classifier", "10%", "100%"],
        ["supervised, from random weights", "fused three", "finetune", "", "75.0"],
        ["after stage 2 (exchange)", "fused three", "finetune", "60.0 ± 10.0", "87.5"],
    ]
    assert shown(text) == ["pictures/finetuning.png"]


def test_refuses_a_run_that_was_not_evaluated(tmp_path):
    config = write_run(tmp_path)
    (config.run / "evaluation.json").unlink()
    with pytest.raises(ValueError, match=r"run: .*try holds no evaluation\.json; run `ikem evaluate` first"):
        report(config)


def test_extra_test_parts_have_their_own_lines():
    rows = make_stream("stage1", "joint", 0.5) + make_stream("stage1", "joint", 0.4, part="test_without_repeats")
    assert [line[2] for line in tables(results_table(by_stream(rows)))[2:]] == ["test", "test_without_repeats"]


def test_curves_follow_a_joint_that_moves():
    """Only the right wrist moves, and with it the bone to the hand; the curves are theirs."""
    layout = get_layout("ntu25")
    recordings = generate(subjects=1, repetitions=1, noise=0)
    still = recordings.joints[0, :, :1].repeat(20, axis=1)
    wrist = layout.joint_names.index("right_wrist")
    still[0, :, wrist] += np.linspace(0, 0.4, 20)[:, None] ** 2
    figure = plots.modalities(still, 20, layout, title="test")
    titles = {axes.get_title(loc="left") for axes in figure.axes}
    assert titles & {"right wrist", "right hand"}
    assert len(figure.axes) == 12


def test_the_picture_of_the_front_page_is_small(tmp_path):
    path = tmp_path / "images" / "modalities.png"
    front_page_picture(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 400_000
