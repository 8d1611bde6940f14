"""A study's file, checked as a whole before anything runs: what to run, what to measure, what may be shared."""

from __future__ import annotations

import hashlib
import json
import math
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from ikem.config import SECTIONS, Config, EvaluateConfig, find_config, flatten, plain
from ikem.training.schedule import SCHEDULE, learning_rate_factor

STEPS = ("pretrain", "distill", "evaluate")
CONTROLS = ("random", "raw")
LAST = "last"  # the last stage that a variant has trained
FUSED = "fused"  # all of its modalities together, or the only one

#: What a measure may be, by its names in the file; None is for any value.
MEASURE: dict[str, tuple[str, ...] | None] = {
    "protocol": ("linear", "retrieval", "knn", "logistic", "early"),
    "stage": (LAST, "stage1", "stage2", "student"),
    "stream": None,
    "part": None,
    "metric": ("top1", "top5", "top1_best_epoch"),
    "neighbors": None,
    "seen": None,
}
DEFAULT_MEASURE = {"stage": LAST, "stream": FUSED, "part": "test", "metric": "top1"}

#: Of the trainer, what the numbers depend on, by rounding at least.
NUMERICS = ("accelerator", "precision", "cuda_graphs")
#: Options of pretraining that nothing in stage 1 depends on; whether there are exchange heads is told apart.
STAGE2 = ("explicit", "implicit", "context", "topk", "exchange_momentum_modalities")

Measure = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What is compared.

    Attributes:
        name: in the file.
        config: of its runs, but for folder and seed.
        steps: of :data:`STEPS`, in their order; a control has none.
        control: which one, if it is one: its numbers are those of the control beside another variant's evaluation.
        of: the variant whose evaluation is read: itself, if it is no control.
    """

    name: str
    config: Config
    steps: tuple[str, ...]
    control: str | None
    of: str


@dataclass(frozen=True)
class Run:
    """One variant with one seed, in a folder of its own.

    Attributes:
        variant: its name.
        config: of the run.
        steps: to take.
    """

    variant: str
    config: Config
    steps: tuple[str, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.variant}, seed {self.config.seed}"

    def keys(self) -> dict[str, str]:
        """Return for each step a digest of all that its results follow from."""
        return {step: step_key(self.config, step, self.steps) for step in self.steps}


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        out: its folder.
        variants: in the file's order.
        seeds: likewise.
        reference: the variant that the others are compared with.
        measures: rows of ``evaluation.json``.
    """

    out: Path
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    reference: str
    measures: tuple[Measure, ...]

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed, so that the first one tells early how variants compare.

        Within a seed those come first whose stage 1 ends first: the others may go on from there.
        """
        trained = [variant for variant in self.variants if variant.control is None]
        trained.sort(key=lambda variant: _end_of_stage1(variant.config))
        return [
            Run(variant.name, replace(variant.config, run=self.folder(variant.name, seed), seed=seed), variant.steps)
            for seed in self.seeds
            for variant in trained
        ]

    def folder(self, variant: str, seed: int) -> Path:
        """Return the folder of a run."""
        return self.out / "runs" / f"{variant}-seed{seed}"


def step_key(config: Config, step: str, steps: Sequence[str]) -> str:
    """Return a digest of what a step's results follow from; where a run lies and how it is shown is not part of it."""
    values = plain(config)
    sections = SECTIONS.get(step) or (*SECTIONS["distill"], "evaluate")
    parts: dict[str, Any] = {name: values[name] for name in sections}
    parts["trainer"] = {name: values["trainer"][name] for name in NUMERICS}
    if step == "evaluate":
        parts["steps"] = list(steps)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _end_of_stage1(config: Config) -> float:
    return config.pretrain.exchange_epoch if config.pretrain.exchanges else math.inf


def shares_stage1(one: Config, other: Config) -> bool:
    """Return whether another run's pretraining is the same as the first one's to the end of the first one's stage 1.

    Example:
        >>> from ikem.config import PretrainConfig
        >>> one = Config(pretrain=PretrainConfig())
        >>> shares_stage1(one, Config(pretrain=PretrainConfig(context=False, epochs=200)))
        True
        >>> shares_stage1(one, Config(pretrain=PretrainConfig(temperature=0.1)))
        False
    """
    pretrain, others = one.pretrain, other.pretrain
    if not pretrain.exchanges or not 0 < pretrain.exchange_epoch < others.epochs:
        return False
    first = [(learning_rate_factor(pretrain, epoch), 1) for epoch in range(pretrain.exchange_epoch)]
    same_epochs = first == [
        (learning_rate_factor(others, epoch), others.stage(epoch)) for epoch in range(pretrain.exchange_epoch)
    ]
    return same_epochs and _stage1(one) == _stage1(other)


def _stage1(config: Config) -> dict[str, Any]:
    """All that stage 1 follows from, but for what happens in which epoch."""
    values = plain(config)
    found = {name: values[name] for name in SECTIONS["pretrain"]}
    found["pretrain"] = {k: v for k, v in values["pretrain"].items() if k not in (*SCHEDULE, *STAGE2)}
    found["heads"] = config.pretrain.exchanges and config.pretrain.implicit  # there from the start, or never
    found["trainer"] = {name: values["trainer"][name] for name in NUMERICS}
    return found


# ---------------------------------------------------------------------------------------------------- the file


class _NamesOnce(yaml.SafeLoader):
    """Refuses a name that is there twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct it, if the names differ."""
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        _require_different(f"line {node.start_mark.line + 1}", names)
        return super().construct_mapping(node, deep)


def read_study(file: Path) -> Study:
    """Read a study's file.

    Raises:
        ValueError: if anything in it is not as it has to be; the message names it.
    """
    try:
        content = yaml.load(file.read_text(), _NamesOnce)
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"study: {file} cannot be read as YAML: {error}") from error
    given = _mapping("study", content, ("base", "variants", "seeds", "reference", "measure", "out"))
    missing = [name for name in ("base", "variants", "seeds", "out") if not given.get(name)]
    _require(not missing, f"study: {file} has no {', '.join(missing)}")
    seeds = given["seeds"]
    _require(
        isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds),
        f"seeds: expected a list of whole numbers of at least 0, got {seeds!r}",
    )
    _require_different("seeds", seeds)
    measures = _measures(given.get("measure"))
    variants = _variants(given, measures)
    by_name = {variant.name: variant for variant in variants}
    reference = given.get("reference", variants[0].name)
    _require(reference in by_name, f"reference: expected one of {', '.join(by_name)}, got {reference!r}")
    result = Study(Path(str(given["out"])), tuple(variants), tuple(seeds), reference, tuple(measures))
    _require_distinct(result)
    return result


def _measures(given: Any) -> list[Measure]:
    if given is None:
        given = [{"protocol": "linear"}, {"protocol": "retrieval"}]
    _require(isinstance(given, list) and len(given) > 0, f"measure: expected a list of measures, got {given!r}")
    measures = []
    for position, item in enumerate(given):
        where = f"measure[{position}]"
        measure = DEFAULT_MEASURE | _mapping(where, item, tuple(MEASURE))
        for name, expected in MEASURE.items():
            value = measure.get(name)
            _require(
                expected is None or value in expected,
                f"{where}.{name}: expected one of {', '.join(expected or ())}, got {value!r}",
            )
        _require_in_rows(where, measure)
        measures.append({name: measure[name] for name in MEASURE if name in measure})
    _require_different("measure", [json.dumps(measure) for measure in measures])
    return measures


def _require_in_rows(where: str, measure: Measure) -> None:
    protocol, metric = measure["protocol"], measure["metric"]
    needed = {"knn": "neighbors", "early": "seen"}.get(protocol)
    found = [name for name in ("neighbors", "seen") if name in measure]
    _require(
        found == ([needed] if needed else []),
        f"{where}: {protocol} needs {needed or 'neither neighbors nor seen'} beside it, got {', '.join(found) or None}",
    )
    has = {"top1": True, "top5": protocol not in ("retrieval", "knn"), "top1_best_epoch": protocol == "linear"}
    _require(has[metric], f"{where}.metric: {protocol} has no {metric}")


def _require_measured(where: str, options: EvaluateConfig, measures: Sequence[Measure]) -> None:
    """What is not evaluated would be missed only when all is trained."""
    for measure in measures:
        option, asked = {
            "retrieval": ("neighbors", 1),
            "knn": ("neighbors", measure.get("neighbors")),
            "early": ("early", measure.get("seen")),
        }.get(measure["protocol"], ("", None))
        if option:
            values = getattr(options, option)
            _require(asked in values, f"{where}: expected evaluate.{option} with the measured {asked}, got {[*values]}")
        if measure["protocol"] == "logistic":
            _require(options.segments > 0, f"{where}: expected evaluate.segments > 0 for the measured logistic, got 0")


def _variants(given: Mapping[str, Any], measures: Sequence[Measure]) -> list[Variant]:
    items = _mapping("variants", given["variants"])
    for name in items:
        _require(
            isinstance(name, str) and name.replace("-", "").replace("_", "").replace(".", "").isalnum(),
            f"variants: expected names of letters, digits, '-', '_' and '.', got {name!r}",
        )
    parts = {
        name: _mapping(f"variants.{name}", item or {}, ("overrides", "steps", "control", "of"))
        for name, item in items.items()
    }
    base = _base(given["base"])
    overrides = {name: _nested(f"variants.{name}.overrides", part.get("overrides")) for name, part in parts.items()}
    distills = any("distill" in each for each in overrides.values()) or any(m["stage"] == "student" for m in measures)
    usual = [step for step in STEPS if step != "distill" or distills]
    trained = [name for name, part in parts.items() if "control" not in part]
    _require(len(trained) > 0, "variants: expected at least one that is no control")
    variants = []
    for name, part in parts.items():
        where = f"variants.{name}"
        if "control" in part:
            of = part.get("of", given["reference"] if given.get("reference") in trained else trained[0])
            _require(
                part["control"] in CONTROLS,
                f"{where}.control: expected one of {', '.join(CONTROLS)}, got {part['control']!r}",
            )
            extra = sorted({"overrides", "steps"} & set(part))
            _require(not extra, f"{where}.{', '.join(extra)}: a control is evaluated beside another variant (`of`)")
            _require(of in trained, f"{where}.of: expected one of {', '.join(trained)}, got {of!r}")
            variants.append(Variant(name, _config(where, base, {}), (), part["control"], of))
            continue
        _require("of" not in part, f"{where}.of: only a control is of another variant")
        config = _config(f"{where}.overrides", base, overrides[name])
        _require(config.trainer.devices == 1, f"{where}: expected trainer.devices = 1, got {config.trainer.devices}")
        _require_measured(where, config.evaluate, measures)
        variants.append(Variant(name, config, _steps(where, part.get("steps", usual), config), None, name))
    return variants


def _steps(where: str, given: Any, config: Config) -> tuple[str, ...]:
    _require(
        isinstance(given, list) and len(given) > 0 and all(step in STEPS for step in given),
        f"{where}.steps: expected some of {', '.join(STEPS)}, got {given!r}",
    )
    _require_different(f"{where}.steps", given)
    _require(
        "pretrain" in given or ("distill" in given and config.distill.teacher is not None),
        f"{where}.steps: expected pretrain, or distill with a distill.teacher, got {', '.join(given)}",
    )
    return tuple(step for step in STEPS if step in given)


def _base(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = yaml.safe_load(find_config(given).read_text())
        except ValueError as error:
            raise ValueError(f"base: {error}") from error
    return _nested("base", given, ())


def _config(where: str, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    try:
        return Config(**vars(parser.instantiate(parser.parse_object(_merged(base, overrides)))))
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _nested(where: str, given: Any, refused: Sequence[str] = ("run", "seed")) -> dict[str, Any]:
    """Return nested dictionaries of what is given by dotted names, by nested ones, or by both."""
    result: dict[str, Any] = {}
    names = list(flatten(_mapping(where, given or {})))
    _require_different(where, [name for name, _ in names])
    for name, value in names:
        first, *rest = str(name).split(".")
        _require(first not in refused, f"{where}.{name}: the study says it")
        for part in reversed(rest):
            value = {part: value}
        result = _merged(result, {first: value})
    return result


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _merged(result[name], value) if both else value
    return result


def _require_distinct(study: Study) -> None:
    """Two variants that are the same thing would look like two results."""
    seen: dict[tuple[Any, ...], str] = {}
    for variant in study.variants:
        keys = tuple(step_key(variant.config, step, variant.steps) for step in variant.steps)
        what = (variant.control, variant.of if variant.control else keys)
        _require(what not in seen, f"variants.{variant.name}: the same as variants.{seen.get(what)}")
        seen[what] = variant.name


def _mapping(where: str, given: Any, allowed: Sequence[str] | None = None) -> dict[Any, Any]:
    _require(isinstance(given, dict), f"{where}: expected names and values, got {given!r}")
    unknown = [str(name) for name in given if allowed is not None and name not in allowed]
    _require(not unknown, f"{where}: expected {', '.join(allowed or ())}, got {', '.join(unknown)}")
    return dict(given)


def _require_different(where: str, values: Sequence[Any]) -> None:
    twice: Iterator[Any] = (value for position, value in enumerate(values) if value in values[:position])
    for value in twice:
        raise ValueError(f"{where}: {value} is there twice")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
