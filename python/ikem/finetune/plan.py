"""Which finetunings there are, and on which clips each of them learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ikem.config import Config, FinetuneConfig
from ikem.data.dataset import PreparedDataset
from ikem.evaluation.draws import order_of_draw, share_of
from ikem.evaluation.split import Indices, Split


def finetunings(config: Config) -> list[Config]:
    """Return the single finetunings that a configuration asks for: of each `init`, each share and each draw.

    Each is what ``config.yaml`` in its own folder says, `config_folder(single, "finetune")`, and a finetuning is one
    of those: the same alone and among others.

    Example:
        >>> options = FinetuneConfig(init="both", semi=(0.05, 1.0), draws=2)
        >>> [single.finetune.name for single in finetunings(Config(finetune=options))]
        ['pretrained-0.05-0', 'pretrained-0.05-1', 'pretrained', 'random-0.05-0', 'random-0.05-1', 'random']
    """
    options = config.finetune
    draws = [(share, draw) for share in options.semi for draw in range(options.draws if share < 1 else 1)]
    return [
        replace(
            config,
            finetune=replace(
                options,
                init=init,
                checkpoint=options.checkpoint if init == "pretrained" else None,
                semi=(),
                draws=FinetuneConfig.draws,
                labels=labels,
                draw=draw,
            ),
        )
        for init in (("pretrained", "random") if options.init == "both" else (options.init,))
        for labels, draw in draws or [(options.labels, options.draw)]
    ]


def labelled_clips(
    clips: Indices,
    labels: NDArray[np.int64],
    share: float,
    seed: int,
    draw: int,
    by: Literal["class", "clip"] = "class",
    every_class: bool = True,
) -> Indices:
    """Draw a share of clips as an evaluation does; a smaller share is part of a larger one.

    Args:
        clips: (n,) indices of labelled clips.
        labels: their classes, (n,).
        share: in (0, 1].
        seed: of the run.
        draw: its number.
        by: the share is of each ``class``, or of all clips, ``clip`` by clip.
        every_class: at least one clip of each class.

    Example:
        >>> clips, labels = np.arange(40), np.arange(40) % 2
        >>> few, many = (labelled_clips(clips, labels, share, seed=1, draw=0) for share in (0.05, 0.5))
        >>> sorted(labels[few].tolist()), len(many), set(few) <= set(many)
        ([0, 1], 20, True)
    """
    return clips[share_of(labels, order_of_draw(len(clips), seed, draw), share, by=by, every_class=every_class)]


def clips_of(single: Config, dataset: PreparedDataset, split: Split) -> Indices:
    """Return the clips that one finetuning learns from."""
    options, labels = single.finetune, dataset.labels[split.train]
    draw = options.labels, single.seed, options.draw, options.draw_by, options.every_class
    clips = labelled_clips(split.train, labels, *draw)
    if leaked := len(np.intersect1d(clips, split.test)):
        raise ValueError(
            f"data.protocol: {leaked} of the {len(clips)} labelled clips to learn from are test clips too; expected "
            "none in both parts"
        )
    if len(np.unique(dataset.labels[clips])) < 2:
        raise ValueError(
            f"finetune.labels: expected labelled clips of at least two classes, and {options.labels:g} gives "
            f"{len(clips)} of one at most (draw {options.draw})"
        )
    return clips
