"""The `ikem` command: from recordings to a prepared dataset, pretraining, distillation, evaluation and a report."""

from __future__ import annotations

import importlib
import inspect
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import docstring_parser
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from ikem import __version__
from ikem.config import Config, read_config
from ikem.data.summary import DamagedClipsError

# command -> where its function is, whether it takes the configuration of a run, what it does
COMMANDS: dict[str, tuple[str, bool, str]] = {
    "synthesize": ("ikem.data.synthetic", False, "make synthetic recordings to try the method on"),
    "prepare": ("ikem.data.prepare", False, "read recordings and write a prepared dataset"),
    "convert": ("ikem.data.convert", False, "write a prepared dataset as the files that other projects' code reads"),
    "pretrain": ("ikem.pretrain", True, "pretrain one encoder per modality, then let the modalities exchange"),
    "distill": ("ikem.distill", True, "distil the pretrained encoders into a student of fewer modalities"),
    "finetune": (
        "ikem.finetune",
        True,
        "train whole encoders and a head each on labels, from pretrained or random weights",
    ),
    "evaluate": ("ikem.evaluate", True, "evaluate frozen encoders of a run or a file, beside controls"),
    "live": ("ikem.live.command", False, "name actions while they happen, in a stream of joints"),
    "segment": ("ikem.use.segment", False, "find the actions in a long recording, and when each begins and ends"),
    "study": ("ikem.study", False, "train and evaluate variants over several seeds, in one table"),
    "predict": ("ikem.use.predict", False, "name the action in recordings"),
    "embed": ("ikem.use.embed", False, "write the features of recordings, to search and cluster"),
    "search": ("ikem.use.search", False, "find the clips that are most like one"),
    "import": ("ikem.use.published", False, "make published weights usable: encoders, or a classifier"),
    "show": ("ikem.use.show", False, "look at recordings: a page with a 3D player, or an animation"),
    "export": ("ikem.use.export", False, "write a classifier as a file that runs elsewhere: pt2 or ONNX"),
    "report": ("ikem.report", True, "write the report of a run: pictures, tables, and clips to look at"),
}

#: Options that are given without a value.
FLAGS = {
    "overwrite": "replace what is there already",
    "beside": "share the work with other processes of this command: each does what none is at work on",
    "plain": "with pt2, in PyTorch's own operations alone, so that it runs without ikem_ext, only slower",
    "stdin": "read a frame a line, as JSON, from the standard input until it ends",
}


class OneLineParser(ArgumentParser):
    """Says what is wrong with an argument in one line, and leaves the usage to `--help`."""

    reading = ""  # the file whose options are being looked at

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with code 2."""
        _fail(self.prog.replace(" [options]", ""), self.reading + message)


class NamedConfigFile(ActionConfigFile):
    """`--config NAME|FILE`: a YAML file, or the name of a configuration that comes with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file and those that it extends; what a file says takes the place of what was said before."""
        try:
            for file in read_config(values):
                parser.reading = f"{file.path}: "
                cfg.update(parser.parse_object(file.options, defaults=False))
        except (ValueError, OSError) as error:
            parser.error(str(error))
        parser.reading = ""


def build_parser(argv: Sequence[str]) -> ArgumentParser:
    """Return the parser; only the command that is named in ``argv`` is imported and has its arguments."""
    parser = OneLineParser(prog="ikem", description=__doc__, version=__version__, allow_abbrev=False)
    subcommands = parser.add_subcommands(dest="command")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, (_, takes_config, summary) in COMMANDS.items():
        command = OneLineParser(description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False)
        if name == chosen:
            _add_arguments(command, name, takes_config)
        subcommands.add_subcommand(name, command, help=summary)
    return parser


def _function(name: str) -> Callable[..., Any]:
    function = f"{name}_" if keyword.iskeyword(name) else name
    return getattr(importlib.import_module(COMMANDS[name][0]), function)


def _add_function(command: ArgumentParser, function: Callable[..., Any]) -> None:
    """Add a function's parameters: a list that has to be given as one word after another, ``in_`` as ``--in``."""
    said = {item.arg_name: item.description for item in docstring_parser.parse_from_object(function).params}
    parameters = inspect.signature(function, eval_str=True).parameters
    lists = {name for name, item in parameters.items() if (item.annotation, item.default) == (list[str], item.empty)}
    keywords = {name for name in parameters if name.endswith("_")}
    command.add_function_arguments(function, as_positional=True, skip={*FLAGS, *lists, *keywords})
    for name in lists:
        command.add_argument(name, nargs="+", type=str, help=said[name])
    for name in keywords:
        command.add_argument(
            f"--{name[:-1]}", dest=name, type=parameters[name].annotation, required=True, help=said[name]
        )


def _add_arguments(command: ArgumentParser, name: str, takes_config: bool) -> None:
    if takes_config:
        command.add_argument("--config", action=NamedConfigFile, help="a YAML file, or the name of a built-in one")
        command.add_class_arguments(Config)
        command.add_function_arguments(_function(name), as_group=False, skip={"config", *FLAGS})
    else:
        _add_function(command, _function(name))
    for flag in FLAGS.keys() & inspect.signature(_function(name)).parameters.keys():
        _add_flag(command, flag, inspect.signature(_function(name)).parameters[flag].annotation == "bool")


def _add_flag(command: ArgumentParser, name: str, alone: bool) -> None:
    """Add an option without a value, or one that may name one of a study's variants."""
    if alone:
        command.add_argument(f"--{name}", action="store_true", help=FLAGS[name])
    else:
        command.add_argument(
            f"--{name}",
            nargs="?",
            const=True,
            default=False,
            metavar="VARIANT",
            help="do again what has changed, of all variants or of one",
        )


def _instantiated(parser: ArgumentParser, arguments: Namespace) -> Namespace:
    try:
        return parser.instantiate(arguments)
    except TypeError as error:  # a single value where a section of options belongs
        raise ValueError(f"configuration: a section has no options in it ({error})") from error


def _call(name: str, takes_config: bool, arguments: dict[str, Any]) -> None:
    arguments.pop("config", None)
    if takes_config:
        settings = {item.name: arguments.pop(item.name) for item in fields(Config)}
        arguments["config"] = Config(**settings)
    _function(name)(**arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    What the user can put right (arguments, files, recordings) ends with one line and exit code 2; damaged recordings
    have a line each before it. Set ``IKEM_TRACEBACK=1`` to see where it was found. A training that a signal
    stops ends with 128 + the signal's number.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(argv)
    arguments = parser.parse_args(argv)
    try:
        values = _instantiated(parser, arguments)[arguments.command]
        _call(arguments.command, COMMANDS[arguments.command][1], dict(vars(values)))
    except (ValueError, OSError) as error:
        if os.environ.get("IKEM_TRACEBACK"):
            raise
        if isinstance(error, DamagedClipsError):
            print(*error.damages, sep="\n", file=sys.stderr)
            _fail(f"ikem {arguments.command}", error.message)
        _fail(f"ikem {arguments.command}", str(error))


def _fail(program: str, message: str) -> NoReturn:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
