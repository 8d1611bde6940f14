"""A run's stage 1 as that of another run, which does something else in stage 2."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from ikem.checkpoint import DESCRIPTION
from ikem.config import Config, PretrainConfig
from ikem.pretrain import Pretraining, build_pretraining
from ikem_ext import SkeletonLayout


def other_stage2(checkpoint: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return a checkpoint of stage 1 as that of a run which does something else in stage 2.

    The heads of the exchange learn nothing in stage 1: they are those that the run begins with, if it has any.

    Args:
        checkpoint: of a run that does the same in stage 1, as it was saved within or at the end of that.
        config: of the run that is to go on from there.
    """
    description = checkpoint[DESCRIPTION]
    layout = SkeletonLayout.from_dict(description["layout"])
    module = build_pretraining(config, layout)
    before = build_pretraining(replace(config, pretrain=PretrainConfig(**description["pretrain"])), layout)
    weights = module.state_dict()
    weights.update({name: checkpoint["state_dict"][name] for name in weights if not name.startswith("exchange_heads.")})
    (optimizer,) = checkpoint["optimizer_states"]
    return {
        **checkpoint,
        "state_dict": weights,
        "optimizer_states": [_moved(optimizer, _trained_names(before), _trained_names(module))],
        DESCRIPTION: {**description, **module.describe()},
    }


def _trained_names(module: Pretraining) -> list[list[str]]:
    """Return the names of what the optimizer trains, group by group, in its order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in module.build_optimizer().param_groups]


def _moved(optimizer: dict[str, Any], before: list[list[str]], after: list[list[str]]) -> dict[str, Any]:
    """Return the state of an optimizer as that of one which trains other parameters, in groups of the same kind.

    Example:
        >>> optimizer = {"state": {0: "of a", 2: "of c"}, "param_groups": [{"params": [0, 1, 2], "lr": 0.1}]}
        >>> _moved(optimizer, [["a", "b", "c"]], [["a", "c", "d"]])
        {'state': {0: 'of a', 1: 'of c'}, 'param_groups': [{'params': [0, 1, 2], 'lr': 0.1}]}
    """
    places = {name: place for place, name in enumerate(itertools.chain(*before))}
    state = {
        place: optimizer["state"][places[name]]
        for place, name in enumerate(itertools.chain(*after))
        if places.get(name) in optimizer["state"]
    }
    number = itertools.count()
    groups = [
        {**group, "params": [next(number) for _ in names]}
        for group, names in zip(optimizer["param_groups"], after, strict=True)
    ]
    return {**optimizer, "state": state, "param_groups": groups}
