"""Language models of both papers, trained by any of their methods.

    python examples/language_model.py tiny
    python examples/language_model.py wide-256 --text DIR --seed 1
    python examples/language_model.py wide-256 --text DIR --method scheduled --keep 0.35
    python examples/language_model.py medium --data tiny_shakespeare
    python examples/language_model.py --list
    python examples/language_model.py --results
    python examples/language_model.py --plan wide-256 --text DIR     # hours, see --list

With no text it reads the documentation of Python. DIR holds three files, such as
ptb.train.txt, ptb.valid.txt and ptb.test.txt, with a sentence on each line; a file
alone is cut into three parts. Names after --data are those of tensorflow-datasets, with
a text feature.

Each run writes `NAME.jsonl` (a line for each epoch, and one at the end with the
perplexity over every word, ends of lines included) and `NAME.keras`. A run that was
interrupted goes on behind its last whole epoch when the same command is given again,
and comes to the same end.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from experiments.arguments import check_run, refuse_others
from experiments.plans import follow
from experiments.records import finished, kind_of
from language_models import magnitude, results, runs, shipping, texts
from language_models.configurations import CONFIGURATIONS, FIELD
from language_models.plans import PLANS

PULLED = ("lasso", "proximal", "weights", "rows")
SHARED = ("scheduled", "one-shot", "magnitude")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", nargs="?", choices=list(CONFIGURATIONS))
    parser.add_argument(
        "--list", action="store_true", help="all configurations and methods"
    )
    parser.add_argument(
        "--results", action="store_true", help="tables and a plot of what is in --out"
    )
    parser.add_argument(
        "--plan", choices=list(PLANS), help="all runs of a table, in order"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", type=Path, help="a folder of three files, or a file")
    source.add_argument("--data", help="a tensorflow-datasets name, e.g. lm1b")
    parser.add_argument("--method", choices=list(runs.METHODS), default="plain")
    parser.add_argument(
        "--keep", type=float, help="share of the units that stay (magnitude: weights)"
    )
    parser.add_argument(
        "--strength", type=float, help="of a lasso, by words' mean loss"
    )
    parser.add_argument("--units", type=int, nargs="+", help="for --method direct")
    parser.add_argument(
        "--like", help="for --method direct: a finished run, whose units it gets"
    )
    parser.add_argument("--start", type=Path, help="a model that was trained before")
    parser.add_argument("--epochs", type=int, help="in place of the configuration's")
    parser.add_argument(
        "--ship", action="store_true", help="export it, and measure the files"
    )
    parser.add_argument("--most-words", type=int, default=10_000, help="vocabulary")
    parser.add_argument("--most-text", type=int, help="words of training text to use")
    parser.add_argument("--seed", type=int, help="1 by default; of a plan all")
    parser.add_argument("--name", help="of the run; made of its settings by default")
    parser.add_argument("--out", type=Path, default=Path("saved_models/language_model"))
    args = parser.parse_args(argv)
    if args.list:
        for name, config in CONFIGURATIONS.items():
            print(f"{name:20} {config.about}")
        print("\nMethods:")
        for name, about in runs.METHODS.items():
            print(f"{name:20} {about}")
        print("\nPlans:")
        for name, plan in PLANS.items():
            print(f"{name:20} {plan.__doc__}")
        raise SystemExit
    if args.text is not None and not args.text.exists():
        parser.error(f"--text {args.text}: there is no such file or folder")
    check_run(parser, args)
    for name, allowed in (
        ("plan", ("text", "data", "most_words", "most_text", "seed", "out")),
        ("results", ("out",)),
    ):
        if getattr(args, name):
            refuse_others(parser, args, name, allowed)
            return args
    if args.seed is None:
        args.seed = 1
    if args.configuration is None:
        parser.error("name a configuration; --list tells them")
    method = args.method
    for given, users, name in (
        (args.keep, SHARED, "keep"),
        (args.strength, PULLED, "strength"),
        (args.units or args.like, ("direct",), "units or --like"),
        (args.start, results.STARTED, "start"),
    ):
        if given is None and method in users:
            parser.error(f"--method {method} needs --{name}")
        if name == "start":
            users = [one for one in runs.METHODS if one not in ("direct", "magnitude")]
        if given is not None and method not in users:
            parser.error(f"--{name} is for --method {' and '.join(users)}")
    if args.keep is not None and not 0 < args.keep <= 1:
        parser.error(f"--keep must lie in (0, 1], not {args.keep:g}")
    if args.strength is not None and not 0 <= args.strength < float("inf"):
        parser.error(f"--strength must be a number from 0 on, not {args.strength:g}")
    if args.units is not None and args.like is not None:
        parser.error("--units and --like both say how many units; give one")
    own = CONFIGURATIONS[args.configuration].units
    layers = len(own)
    if method in ("scheduled", "one-shot") and args.keep * sum(own) < layers:
        parser.error(
            f"--keep {args.keep:g} of the {sum(own)} units of {layers} layers is less "
            "than one for each"
        )
    if args.units is not None and len(args.units) != layers:
        parser.error(
            f"{args.configuration} has {layers} recurrent layers: --units takes as "
            f"many numbers, not {len(args.units)}"
        )
    for name, least in (
        ("epochs", 1),
        ("most_words", 2),
        ("most_text", 1),
        ("units", 1),
    ):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < least:
                parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if args.start is not None and not args.start.is_file():
        parser.error(f"--start {args.start}: there is no such file")
    return args


def run_of(args: argparse.Namespace) -> runs.Run:
    """The run of these arguments, by name."""
    parts = [args.configuration]
    if args.method != "plain":
        parts.append(args.method)
    if args.keep is not None:
        parts.append(f"{args.keep:g}")
    if args.strength is not None:
        parts.append(f"{args.strength:g}")
    units = args.units
    if args.like is not None:
        units = finished("like", args.out, args.like, FIELD)["units"]
        layers = len(CONFIGURATIONS[args.configuration].units)
        if len(units) != layers:
            raise SystemExit(
                f"--like {args.like}: it has {len(units)} recurrent layers, and "
                f"{args.configuration} has {layers}."
            )
        parts.append(kind_of(args.like, args.configuration, args.seed))
    elif units is not None:
        parts += [str(one) for one in units]
    if args.start is not None and args.method not in results.STARTED:
        parts.append("tuned")
    parts.append(f"seed{args.seed}")
    return runs.Run(
        name=args.name or "-".join(parts),
        configuration=args.configuration,
        method=args.method,
        seed=args.seed,
        keep=args.keep,
        strength=args.strength,
        units=None if units is None else tuple(units),
        like=args.like,
        start=args.start,
        epochs=args.epochs,
        folder=args.out,
    )


def main() -> None:
    args = arguments()
    if args.results:
        results.show(args.out)
        return
    if args.plan:
        names = ("text", "data", "most_words", "most_text")
        given = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
        source = [str(x) for pair in given.items() if pair[1] for x in pair]
        follow(PLANS[args.plan](), Path(__file__), args.out, source, args.seed)
        return
    text = texts.read(args.text, args.data, args.most_words, args.most_text)
    print(
        f"{text.source}: {len(text.train):,} words to learn, {len(text.valid):,} for "
        f"validation, {len(text.test):,} for the test, {len(text.vocabulary):,} "
        "different ones"
    )
    args.out.mkdir(parents=True, exist_ok=True)
    run = run_of(args)
    by = magnitude if run.method == "magnitude" else runs
    found = by.trained(run, text)
    print(
        f"{found['run']}: perplexity {found['valid']:.2f} in validation, "
        f"{found['test']:.2f} in the test; units {found['units']}, "
        f"{found['parameters']:,} weights, {found['seconds']:.0f} s of training"
    )
    if args.ship and run.method != "magnitude":
        for line in shipping.ship(run.name, run.file, text):
            print(
                f"{line['quantize'] or 'float32':10} {line['bytes']:>12,} bytes, "
                f"perplexity {line['test']:.2f}, {line['word_ms']:.3f} ms a word, "
                f"{line['window_ms']:.2f} ms for {shipping.WINDOW}"
            )
    for file in found.get("files", []):
        latency = file["window_ms"]
        runs_in = "LiteRT can't run it" if latency is None else f"{latency:.2f} ms"
        print(
            f"{file['kind']:14} {file['bytes']:>12,} bytes ({file['gzip_bytes']:,} by "
            f"gzip), {runs_in} for {shipping.WINDOW}"
        )


if __name__ == "__main__":
    main()
