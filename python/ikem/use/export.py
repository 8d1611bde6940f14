"""A classifier as a file that runs elsewhere: from joints to probabilities in one graph, checked before it is kept."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ikem.checkpoint import DESCRIPTION
from ikem.files import replacing
from ikem.use.classifier import CLASSIFIER, ActionClassifier, load_classifier, save_classifier
from ikem_ext.reference import plain_operations

__all__ = ["export", "export_program"]

TOLERANCE = 1e-4  # by which probabilities may differ from PyTorch's
HALVINGS = {"hcn": 4}  # of time, by architecture; of all others 2
INPUTS, OUTPUT = ("joints", "num_frames"), "probabilities"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

Run = Callable[[Tensor, Tensor], Tensor]  # as of ActionClassifier.forward


def export(
    checkpoint: Path, *, to: str, plain: bool = False, output: Path | None = None, overwrite: bool = False
) -> None:
    """Writes a classifier as a file that runs elsewhere, from joints and lengths to probabilities.

    What was written is loaded again and compared with PyTorch on random clips: of more than 1e-4 in any probability,
    nothing is kept.

    Args:
        checkpoint: a classifier.safetensors as `ikem evaluate` and `ikem finetune` write it, or the folder that has it.
        to: pt2, a program of torch.export with the operations of ikem_ext; onnx, for ONNX Runtime; or safetensors, the
            classifier itself at another place.
        plain: with pt2, in PyTorch's own operations alone, so that it runs where ikem_ext is not installed, only slower
            (ONNX always does without).
        output: the file to write. Default: beside the classifier, under its name.
        overwrite: replace what is there already.

    Raises:
        ValueError: an argument is wrong, a package for ONNX is missing, or the file computes something else.
        FileExistsError: the file exists.
    """
    check_format(to, plain)
    classifier = load_classifier(checkpoint)
    source = checkpoint / CLASSIFIER if checkpoint.is_dir() else checkpoint
    file = output or source.with_name(f"{source.stem}{'-plain' if plain and to == 'pt2' else ''}{FORMATS[to].suffix}")
    _check_place(file, source, FORMATS[to].suffix, overwrite)
    with replacing(file) as temporary:
        FORMATS[to].write(temporary, classifier, plain)
        difference = largest_difference(classifier, FORMATS[to].read(temporary))
        if not difference <= TOLERANCE:  # or it is not a number
            raise ValueError(
                f"to: as {to} the classifier computes something else: probabilities differ from PyTorch's by up to "
                f"{difference:.1e}, expected at most {TOLERANCE:.0e}; nothing is written"
            )
    print(
        f"{file}: {len(classifier.classes)} classes by {', '.join(classifier.modalities)}; clips are (3, "
        f"{classifier.frames}, {classifier.layout.num_joints}, {classifier.bodies}) of {classifier.layout.name}; "
        f"loaded again, probabilities differ from PyTorch's by at most {difference:.1e}"
    )


def check_format(to: str, plain: bool) -> None:
    """Requires a format that there is, and the packages that it needs.

    Example:
        >>> check_format("torchscript", plain=False)
        Traceback (most recent call last):
            ...
        ValueError: to: TorchScript is not written, as PyTorch has given it up; pt2 or onnx take its place
    """
    if to.lower() in ("torchscript", "jit", "script", "pt"):
        raise ValueError("to: TorchScript is not written, as PyTorch has given it up; pt2 or onnx take its place")
    if to not in FORMATS:
        raise ValueError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    if plain and to == "safetensors":
        raise ValueError("plain: safetensors holds weights and no operations; expected with pt2 alone")
    if to == "onnx" and (missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]):
        raise ValueError(
            f"to: onnx needs {', '.join(missing)}; pip install 'ikem-ext[export]' brings all that it needs"
        )


def _check_place(file: Path, source: Path, suffix: str, overwrite: bool) -> None:
    if file.suffix != suffix:
        raise ValueError(f"output: expected the name of a {suffix} file, got {file}")
    if file.is_dir():
        raise ValueError(f"output: expected a file to write, {file} is a folder")
    if file.resolve() == source.resolve():
        raise ValueError(f"output: expected another file than the classifier itself, got {file}")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists already; name another place or ask to overwrite it")


@torch.no_grad()
def export_program(classifier: ActionClassifier, *, plain: bool = False) -> ExportedProgram:
    """Exports a classifier by torch.export, for any number of clips (``batch``) and of ``frames``.

    Of frames there are at least `min_frames`, 5 or, for HCN, 17. (One that was trained on fewer takes that many alone.)

    Args:
        classifier: in eval mode, on the device that the program is to run on.
        plain: without the operations of ikem_ext.

    Returns:
        The program, which maps joints (N, 3, T, V, M), float32, and num_frames (N,), int64, to probabilities (N, L).
    """
    axes = {0: Dim("batch", min=1), 2: Dim("frames", min=min_frames(classifier))}
    with plain_operations() if plain else contextlib.nullcontext(), _quiet():
        exported = torch.export.export(
            classifier,
            random_clips(classifier, 2, classifier.frames),
            dynamic_shapes=_of_inputs(axes, classifier),
            # That half the frames are as many by a stride as by a slice is nothing that it can prove; it is checked
            # in each run.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # the places of this machine's files
    return exported


def min_frames(classifier: ActionClassifier) -> int:
    """So many that, halved as the encoders do, they are more than one: a single frame would take a graph of its own."""
    return int(2 ** HALVINGS.get(classifier.encoder_config.architecture, 2)) + 1


def _of_inputs(axes: dict[int, Any], classifier: ActionClassifier) -> dict[str, dict[int, Any]]:
    """The axes of both inputs that may be of any size, given those of joints by what they are called."""
    joints = axes if classifier.frames >= min_frames(classifier) else {0: axes[0]}
    return {"joints": joints, "num_frames": {0: axes[0]}}


def random_clips(classifier: ActionClassifier, clips: int, frames: int) -> tuple[Tensor, Tensor]:
    """Bodies of the size of people whose joints move at random, the last of them absent in the last clip."""
    generator = torch.Generator().manual_seed(clips + frames)
    size = clips, 3, frames, classifier.layout.num_joints, classifier.bodies
    joints = 0.4 * torch.randn((*size[:2], 1, *size[3:]), generator=generator)
    joints = joints + 0.02 * torch.randn(size, generator=generator).cumsum(2)
    if classifier.bodies > 1:
        joints[-1, ..., -1] = 0
    device = next(classifier.parameters()).device
    return joints.to(device), torch.randint(1, 4 * frames, (clips,), generator=generator).to(device)


@torch.no_grad()
def largest_difference(classifier: ActionClassifier, run: Run) -> float:
    """How far the probabilities that ``run`` gives are from the classifier's, for several numbers of clips and frames.

    Not a number where either of them gives none.
    """
    trained = classifier.frames
    cases = [(1, trained), (2, trained), (5, trained)]
    if trained >= min_frames(classifier):
        cases += [(3, trained + 1), (3, 2 * trained)]
    batches = [random_clips(classifier, *case) for case in cases]
    return torch.stack([(run(*batch) - classifier(*batch)).abs().max() for batch in batches]).max().item()


def description(classifier: ActionClassifier) -> str:
    """What a user of the graph has to know, as JSON: classes, modalities, and how recordings become clips."""
    return json.dumps(
        {
            "classes": classifier.classes,
            "modalities": classifier.modalities,
            "recipe": classifier.recipe.to_dict(),
            "origin": classifier.origin,
        }
    )


def _write_pt2(file: Path, classifier: ActionClassifier, plain: bool) -> None:
    exported = export_program(classifier, plain=plain)
    with _quiet(), file.open("wb") as stream:
        torch.export.save(exported, stream, extra_files={DESCRIPTION: description(classifier)})


def _read_pt2(file: Path) -> Run:
    with _quiet(), file.open("rb") as stream:
        return torch.export.load(stream).module()


def _write_onnx(file: Path, classifier: ActionClassifier, plain: bool) -> None:
    exported = export_program(classifier, plain=True)
    with _quiet():
        program = torch.onnx.export(
            exported,
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=_of_inputs({0: "batch", 2: "frames"}, classifier),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # of the translation; they would be most of the file
    program.model.metadata_props[DESCRIPTION] = description(classifier)
    file.write_bytes(program.model_proto.SerializeToString(deterministic=True))


def _read_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])

    def run(joints: Tensor, num_frames: Tensor) -> Tensor:
        inputs = zip(INPUTS, (joints, num_frames), strict=True)
        (probabilities,) = session.run([OUTPUT], {name: value.numpy() for name, value in inputs})
        return torch.from_numpy(probabilities)

    return run


def _write_safetensors(file: Path, classifier: ActionClassifier, plain: bool) -> None:
    save_classifier(file, classifier)


@dataclass(frozen=True)
class Format:
    """A kind of file: how it is named, written and run."""

    suffix: str
    write: Callable[[Path, ActionClassifier, bool], None]
    read: Callable[[Path], Run]


FORMATS = {
    "pt2": Format(".pt2", _write_pt2, _read_pt2),
    "onnx": Format(".onnx", _write_onnx, _read_onnx),
    "safetensors": Format(".safetensors", _write_safetensors, load_classifier),
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporters say about themselves: packages that they could use, what they will change."""
    logger: Any = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
