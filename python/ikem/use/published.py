"""`ikem import`: weights that other projects have published, made usable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ikem.checkpoint import export_modules
from ikem.config import EncoderConfig, Modality
from ikem.data.bodies import BodySelection, KeepBodies
from ikem.data.formats import Align, LostFrames
from ikem.data.formats.names import class_names
from ikem.data.preprocess import Center, Preprocessing, Scale
from ikem.data.recipe import Recipe
from ikem.data.recordings import read_layout
from ikem.training import ENCODERS
from ikem.use.classifier import CLASSIFIER, ActionClassifier, Classifier, save_classifier
from ikem.weights import Weights, published_weights, read_published

__all__ = ["import_"]


def import_(
    file: Path,
    out: Path,
    *,
    layout: str = "ntu25",
    modality: Modality = "joint",
    classes: Path | None = None,
    frames: int = 50,
    bodies: int = 2,
    keep_bodies: KeepBodies = "first",
    track_bodies: bool = False,
    center: Center = "frame",
    align: Align = "frame",
    scale: Scale | None = None,
    lost_frames: LostFrames = "keep",
    overwrite: bool = False,
) -> Path:
    """Writes published weights as encoders.safetensors or, with a linear head, as classifier.safetensors.

    Nothing is loaded in part: a weight that is missing, unknown or of another shape is an error. What belongs to a
    training alone (key encoders, queues, projections) is left out, and told.

    Args:
        file: a state dict of CrosSCLR, AimCLR, IKEM or ST-GCN, as PyTorch or safetensors write it.
        out: a folder that receives the file, or a file .safetensors.
        layout: the skeleton, a built-in layout by name or a YAML file.
        modality: what an encoder that stands alone was trained on.
        classes: a text file with the name of a class in each line. Default: those of NTU RGB+D where there are 60 or
            120, otherwise numbers.
        frames: T, and all that follows: how recordings become clips, as `ikem prepare` has it. By default as published
            for NTU RGB+D; the published code of ST-GCN knows neither align nor center.
        bodies: how many bodies are kept of each clip.
        keep_bodies: which they are: first, energy or denoised.
        track_bodies: follow bodies from frame to frame.
        center: what is subtracted from all joints: frame, first_frame or none.
        align: who is turned to face the camera: frame, clip or none.
        scale: what a clip is divided by: body, image or none.
        lost_frames: what becomes of frames without a body: interpolate, drop or keep.
        overwrite: replace a file that is there already.

    Returns:
        The file that was written.

    Raises:
        ValueError: the weights are something else, do not fit or are not finite, or an argument is wrong.
        FileExistsError: the file to write is there already.
    """
    skeleton = read_layout(layout, file)
    steps = Preprocessing(frames, bodies, center, align, lost_frames, scale)
    recipe = Recipe(skeleton, steps, BodySelection(bodies, keep_bodies, track_bodies))
    state = read_published(file)
    weights = published_weights(file, state, skeleton, _config_of(state), modality)
    heads, projections = _heads(file, weights)
    path = out if out.suffix == ".safetensors" else out / (CLASSIFIER if heads else ENCODERS)
    if path.exists() and not overwrite:
        raise FileExistsError(f"out: {path} exists; overwrite replaces it")
    if heads:
        save_classifier(path, _classifier(file, weights, heads, recipe, classes))
    elif classes is not None:
        raise ValueError(f"classes: expected none, as {file} has no classifier that they could be of")
    else:
        export_modules(path, weights.encoders, weights.config, skeleton, recipe=recipe.to_dict())
    print(f"import: {path} has {'a classifier' if heads else 'encoders'} of {', '.join(weights.encoders)}")
    if left_out := [*weights.left_out, *projections]:
        print(f"import: left out, as it serves the training alone: {', '.join(left_out)}")
    return path


def _config_of(state: Mapping[str, Tensor]) -> EncoderConfig:
    """Read how wide the encoders are from the first and the last block of one of them; without these, as published."""
    widths = {
        block: len(value)
        for block in (0, 9)
        for name, value in state.items()
        if name.endswith(f"st_gcn_networks.{block}.tcn.2.bias")
    }
    published = EncoderConfig()
    return EncoderConfig(
        base_width=widths.get(0, published.base_width), feature_width=widths.get(9, published.feature_width)
    )


def _heads(file: Path, weights: Weights) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Part heads into linear classifiers by modality, as a linear layer has them, and the names of projections.

    ``fcn`` is a classifier, and so is a ``fc`` of one layer, but beside the keys of a contrastive training.
    """
    contrastive = any(name.startswith(("encoder_k", "queue")) for name in weights.left_out)
    heads, projections = {}, []
    for modality, entries in weights.heads.items():
        name = next(iter(entries)).partition(".")[0]
        if set(entries) == {f"{name}.weight", f"{name}.bias"} and (name == "fcn" or not contrastive):
            heads[modality] = {"weight": entries[f"{name}.weight"].flatten(1), "bias": entries[f"{name}.bias"]}
        else:
            projections.append(f"{name} of {modality}")
    if heads and (lacking := [modality for modality in weights.encoders if modality not in heads]):
        raise ValueError(f"file: {file} has a classifier of {', '.join(heads)}, and none of {', '.join(lacking)}")
    return heads, projections


def _classifier(
    file: Path, weights: Weights, heads: Mapping[str, Mapping[str, Tensor]], recipe: Recipe, classes: Path | None
) -> ActionClassifier:
    counts = {len(head["bias"]) for head in heads.values()}
    if len(counts) > 1:
        raise ValueError(f"file: {file} has classifiers of different numbers of classes: {sorted(counts)}")
    count = counts.pop()
    names = list(class_names(count)) if classes is None else classes.read_text(encoding="utf-8").splitlines()
    if len(names) != count:
        raise ValueError(f"classes: expected {count} lines in {classes}, as {file} has classes, got {len(names)}")
    streams = {}
    for modality, head in heads.items():
        streams[modality] = Classifier(weights.encoders[modality], count)
        try:
            streams[modality].head.load_state_dict(dict(head))
        except RuntimeError as error:
            raise ValueError(f"file: {file} does not fit: {error}") from error
    origin = {"command": "import", "stage": weights.stage, "file": file.name}
    return ActionClassifier(streams, weights.config, names, recipe, origin=origin).eval()
