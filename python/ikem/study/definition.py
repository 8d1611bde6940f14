"""A study's file, checked as a whole before anything runs: what to run, what to measure."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from ikem.config import Config, flatten, read_config
from ikem.config.checks import require
from ikem.finetune import finetunings
from ikem.study.checks import mapping, require_different
from ikem.study.keys import CHECKPOINTS, options_of
from ikem.study.measures import CONTROLS, Measure, read_measures, require_measured
from ikem.study.plan import Study, Variant
from ikem.study.steps import STEPS, config_of_step, in_order

_MERGE = "tag:yaml.org,2002:merge"  # of `<<`, which may be meant to be changed by what stands beside it


class _NamesOnce(yaml.SafeLoader):
    """Refuses a name that is there twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct it, if the names differ."""
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        require_different(f"line {node.start_mark.line + 1}", names)
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
    given = mapping("study", content, ("base", "variants", "seeds", "reference", "measure", "out"))
    missing = [name for name in ("base", "variants", "seeds", "out") if not given.get(name)]
    require(not missing, f"study: {file} has no {', '.join(missing)}")
    seeds = given["seeds"]
    require(
        isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds),
        f"seeds: expected a list of whole numbers of at least 0, got {seeds!r}",
    )
    require_different("seeds", seeds)
    measures = read_measures(given.get("measure"))
    variants = _variants(given, measures)
    by_name = {variant.name: variant for variant in variants}
    reference = given.get("reference", variants[0].name)
    require(reference in by_name, f"reference: expected one of {', '.join(by_name)}, got {reference!r}")
    _require_distinct(variants)
    return Study(Path(str(given["out"])), tuple(variants), tuple(seeds), reference, tuple(measures))


def _variants(given: Mapping[str, Any], measures: Sequence[Measure]) -> list[Variant]:
    items = mapping("variants", given["variants"])
    for name in items:
        require(
            isinstance(name, str) and name.replace("-", "").replace("_", "").replace(".", "").isalnum(),
            f"variants: expected names of letters, digits, '-', '_' and '.', got {name!r}",
        )
    parts = {
        name: mapping(f"variants.{name}", item or {}, ("overrides", "steps", "control", "of"))
        for name, item in items.items()
    }
    trained = [name for name, part in parts.items() if "control" not in part]
    require(len(trained) > 0, "variants: expected at least one that is no control")
    usually_of = given["reference"] if given.get("reference") in trained else trained[0]
    of = {
        name: _of(f"variants.{name}", part, trained, usually_of) for name, part in parts.items() if name not in trained
    }
    overrides = {name: _nested(f"variants.{name}.overrides", part.get("overrides")) for name, part in parts.items()}
    base, usual = _base(given["base"]), _usual_steps(list(overrides.values()), measures)
    variants = []
    for name, part in parts.items():
        where = f"variants.{name}"
        if name in of:
            variants.append(Variant(name, _config(where, base, {}), (), part["control"], of[name]))
            continue
        config = _config(f"{where}.overrides", base, overrides[name])
        steps = _steps(where, part.get("steps", usual), config)
        if any(parts[control]["control"] == "supervised" for control, its in of.items() if its == name):
            steps = in_order([*steps, "supervised"])
        _require_possible(where, config, steps, measures)
        variants.append(Variant(name, config, steps, None, name))
    return variants


def _of(where: str, part: Mapping[str, Any], trained: Sequence[str], usual: str) -> str:
    """Return the variant that a control is beside."""
    require(
        part["control"] in CONTROLS, f"{where}.control: expected one of {', '.join(CONTROLS)}, got {part['control']!r}"
    )
    extra = sorted({"overrides", "steps"} & set(part))
    require(not extra, f"{where}.{', '.join(extra)}: a control is evaluated beside another variant (`of`)")
    found = part.get("of", usual)
    require(found in trained, f"{where}.of: expected one of {', '.join(trained)}, got {found!r}")
    return str(found)


def _usual_steps(overrides: Sequence[Mapping[str, Any]], measures: Sequence[Measure]) -> list[str]:
    """Return the steps that variants take which do not say: those that something in the file is about."""
    finetuned = [measure["protocol"] == "finetune" for measure in measures]
    asked = {
        "pretrain": True,
        "distill": any("distill" in each for each in overrides) or any(m["stage"] == "student" for m in measures),
        "evaluate": not all(finetuned),
        "finetune": any(finetuned),
    }
    return [step for step, is_asked in asked.items() if is_asked]


def _steps(where: str, given: Any, config: Config) -> tuple[str, ...]:
    require(
        isinstance(given, list) and len(given) > 0 and all(step in STEPS for step in given),
        f"{where}.steps: expected some of {', '.join(STEPS)}, got {given!r}",
    )
    require_different(f"{where}.steps", given)
    for step in given:
        section, option = step, CHECKPOINTS.get(step)
        from_file = option is not None and getattr(getattr(config, section), option) is not None
        before = STEPS[step].after
        require(
            not before or from_file or any(name in given for name in before),
            f"{where}.steps: expected {' or '.join(before)} before {step}"
            + (f", or a {section}.{option}" if option else "")
            + f", got {', '.join(given)}",
        )
    return in_order(given)


def _require_possible(where: str, config: Config, steps: Sequence[str], measures: Sequence[Measure]) -> None:
    processes = config.trainer.described_processes
    require(config.trainer.processes == 1, f"{where}: expected trainer.devices = 1, got {processes}")
    require(
        config.finetune.init == "pretrained",
        f"{where}: expected finetune.init = pretrained, got {config.finetune.init}; random weights are for the control "
        "`supervised`, and for the step of that name",
    )
    require(
        isinstance(config.data.folder, Path) or {"pretrain", "distill"}.issuperset(steps),
        f"{where}: expected one data.folder where labels are used, got {config.data.folders}",
    )
    finetunes = "finetune" in steps or "supervised" in steps
    shares = [single.finetune.labels for single in finetunings(config)] if finetunes else []
    asked = [m for m in measures if ("evaluate" in steps if m["protocol"] != "finetune" else finetunes)]
    require_measured(where, config, list(dict.fromkeys(shares)), asked)


def _base(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return _of_files(given)
    options = dict(mapping("base", given))
    extended = options.pop("extends", None)
    return _merged({} if extended is None else _of_files(extended), _nested("base", options, ()))


def _of_files(name: str) -> dict[str, Any]:
    """Return the options of a configuration given by name or file, and of those that it extends."""
    with _refusing("base"):
        files = read_config(name)
    base: dict[str, Any] = {}
    for file in files:
        where = f"base: {file.path}"
        options = _nested(where, file.options, ())
        with _refusing(where):
            _parser().parse_object(options, defaults=False)
        base = _merged(base, options)
    return base


def _config(where: str, base: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    parser = _parser()
    with _refusing(where):
        return Config(**vars(parser.instantiate(parser.parse_object(_merged(base, overrides)))))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    return parser


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Say of what a part of a configuration is refused where it stands."""
    try:
        yield
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _nested(where: str, given: Any, refused: Sequence[str] = ("run", "seed")) -> dict[str, Any]:
    """Return nested dictionaries of what is given by dotted names, by nested ones, or by both."""
    result: dict[str, Any] = {}
    names = list(flatten(mapping(where, given or {})))
    require_different(where, [name for name, _ in names])
    for name, value in names:
        first, *rest = str(name).split(".")
        require(first not in refused, f"{where}.{name}: the study says it")
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


def _require_distinct(variants: Sequence[Variant]) -> None:
    """Two variants that are the same thing would look like two results."""
    seen: list[tuple[Any, str]] = []
    for variant in variants:
        options = {
            step: options_of(config_of_step(variant.config, step), STEPS[step].sections) for step in variant.steps
        }
        what = (variant.control, variant.of if variant.control else options)
        same = [name for other, name in seen if other == what]
        require(not same, f"variants.{variant.name}: the same as variants.{', '.join(same)}")
        seen.append((what, variant.name))
