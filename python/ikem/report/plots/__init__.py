"""Pictures of skeletons, of training and of results. Every function returns a matplotlib figure."""

from ikem.report.plots.bars import accuracies
from ikem.report.plots.clip import modalities
from ikem.report.plots.curves import training
from ikem.report.plots.labels import few_labels
from ikem.report.plots.matrix import confusion
from ikem.report.plots.scatter import embeddings
from ikem.report.plots.skeleton import draw_skeleton, side_color
from ikem.report.plots.style import STAGE_NAMES, stream_name

__all__ = [
    "STAGE_NAMES",
    "accuracies",
    "confusion",
    "draw_skeleton",
    "embeddings",
    "few_labels",
    "modalities",
    "side_color",
    "stream_name",
    "training",
]
