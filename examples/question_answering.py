"""Question answering with attention flow (BiDAF), of which ISS removes units.

    python examples/question_answering.py tiny
    python examples/question_answering.py small --method scheduled --keep 0.5 --ship
    python examples/question_answering.py bidaf --data squad/v1.1
    python examples/question_answering.py bidaf --squad train-v1.1.json dev-v1.1.json
    python examples/question_answering.py small --squad sample.json --hold-out all
    python examples/question_answering.py --list
    python examples/question_answering.py --results
    python examples/question_answering.py --plan small       # hours, see --list

With no questions it makes some of Python's documentation: a sentence with its subject
or a name cut out asks for that. Names after --data are those of tensorflow-datasets.
With one file of SQuAD's an article of it is held out, or each in turn.

Each run writes `NAME.jsonl` (a line for each epoch, and one at the end with exact match
and F1 by SQuAD's rules) and `NAME.keras`. A run that was interrupted goes on behind its
last whole epoch when the same command is given again, and comes to the same end.
"""

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from answering import results, runs, shipping, spans, squad
from answering.configurations import (
    CONFIGURATIONS,
    CONTEXTUAL,
    FIELD,
    MOST_WORDS,
    PRUNED,
)
from answering.plans import PLANS
from experiments.arguments import check_run, refuse_others
from experiments.plans import follow
from experiments.records import finished, kind_of

PULLED = ("lasso", "proximal")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", nargs="?", choices=list(CONFIGURATIONS))
    parser.add_argument(
        "--list", action="store_true", help="all configurations and methods"
    )
    parser.add_argument(
        "--results", action="store_true", help="a table of what is in --out"
    )
    parser.add_argument(
        "--plan", choices=list(PLANS), help="all runs of a table, in order"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--squad", type=Path, nargs="+", help="a file, or one to train and one to test"
    )
    source.add_argument("--data", help="a tensorflow-datasets name, e.g. squad/v1.1")
    parser.add_argument(
        "--hold-out", help="with one file: the article to test with, or all"
    )
    parser.add_argument(
        "--unanswerable",
        choices=["skip", "score"],
        default="skip",
        help="questions without an answer (SQuAD v2)",
    )
    parser.add_argument("--method", choices=list(runs.METHODS), default="plain")
    parser.add_argument("--keep", type=float, help="share of the units that stay")
    parser.add_argument("--strength", type=float, help="of a lasso")
    parser.add_argument(
        "--contextual", action="store_true", help="prune the contextual layer, too"
    )
    parser.add_argument(
        "--units", type=int, nargs="+", help="of the six LSTMs, for --method direct"
    )
    parser.add_argument(
        "--like", help="for --method direct: a finished run, whose units it gets"
    )
    parser.add_argument("--start", type=Path, help="a model that was trained before")
    parser.add_argument("--vectors", type=Path, help="words' vectors, as GloVe's files")
    parser.add_argument(
        "--groups",
        nargs="+",
        default=[],
        metavar="LAYER=N",
        help=f"grouped LSTMs in {', '.join((CONTEXTUAL, *PRUNED))}",
    )
    parser.add_argument(
        "--density", type=float, help="share of the word table to keep, in tiers"
    )
    parser.add_argument("--width", type=int, help="in place of the configuration's")
    parser.add_argument("--epochs", type=int, help="in place of the configuration's")
    parser.add_argument("--batch", type=int, help="in place of the configuration's")
    parser.add_argument("--dropout", type=float, help="in place of the configuration's")
    parser.add_argument(
        "--average", type=float, help="most momentum of the averages that are tested"
    )
    parser.add_argument(
        "--ship", action="store_true", help="export it, and measure the files"
    )
    parser.add_argument("--most-words", type=int, default=MOST_WORDS, help="vocabulary")
    parser.add_argument("--seed", type=int, help="1 by default; of a plan all")
    parser.add_argument("--name", help="of the run; made of its settings by default")
    parser.add_argument(
        "--out", type=Path, default=Path("saved_models/question_answering")
    )
    args = parser.parse_args(argv)
    if args.list:
        for name, config in CONFIGURATIONS.items():
            print(f"{name:12} {config.about}")
        print("\nMethods:")
        for name, about in runs.METHODS.items():
            print(f"{name:12} {about}")
        print("\nPlans:")
        for name, plan in PLANS.items():
            print(f"{name:12} {plan.__doc__}")
        raise SystemExit
    check_run(parser, args)
    for name in ("squad", "vectors"):
        given = getattr(args, name) or []
        for path in given if isinstance(given, list) else [given]:
            if not path.is_file():
                parser.error(f"--{name} {path}: there is no such file")
    if args.squad is not None and len(args.squad) > 2:
        parser.error("--squad takes one file or two")
    alone = args.squad is not None and len(args.squad) == 1
    if args.plan and alone != (args.plan == "held-out"):
        parser.error(
            "--plan held-out takes --squad with one file, and the other plans none "
            f"or two; not --plan {args.plan} with {len(args.squad or ())}"
        )
    for name, allowed in (
        ("plan", ("squad", "data", "vectors", "most_words", "seed", "out")),
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
        (args.keep, ("scheduled",), "keep"),
        (args.strength, PULLED, "strength"),
        (args.units or args.like, ("direct",), "units or --like"),
    ):
        if given is None and method in users:
            parser.error(f"--method {method} needs --{name}")
        if given is not None and method not in users:
            parser.error(f"--{name} is for --method {' and '.join(users)}")
    if args.units is not None and args.like is not None:
        parser.error("--units and --like both say how many units; give one")
    if args.start is not None and method == "direct":
        parser.error("--start has sizes of its own; --method direct begins anew")
    for name in ("keep", "density"):
        value = getattr(args, name)
        if value is not None and not 0 < value <= 1:
            parser.error(f"--{name} must lie in (0, 1], not {value:g}")
    for name in ("average", "dropout"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < 1:
            parser.error(f"--{name} must lie in [0, 1), not {value:g}")
    if args.strength is not None and not 0 <= args.strength < math.inf:
        parser.error(f"--strength must be 0 or more, not {args.strength:g}")
    if args.contextual and method not in ("scheduled", *PULLED):
        parser.error(f"--contextual is for what removes units; {method} does not")
    if args.units is not None and len(args.units) not in (6, 8):
        parser.error(
            "--units takes those of the six LSTMs, forward and backward of "
            f"{', '.join(PRUNED)}, or eight with those of {CONTEXTUAL} before them; "
            f"not {len(args.units)} numbers"
        )
    for name in ("width", "epochs", "batch", "most_words", "units"):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < 1:
                parser.error(f"--{name.replace('_', '-')} must be at least 1")
    if args.start is not None and args.hold_out is None and not args.start.is_file():
        parser.error(f"--start {args.start}: there is no such file")
    if args.hold_out is not None and not alone:
        parser.error("--hold-out is for --squad with one file")
    if args.density is not None and args.vectors is not None:
        parser.error("--density is for words whose vectors are learned: no --vectors")
    args.groups = [_group(parser, one) for one in args.groups]
    if len(dict(args.groups)) < len(args.groups):
        parser.error("--groups names a layer twice")
    if method == "scheduled" and args.start is None:
        sizes = runs.changed(args.configuration, width=args.width).sizes()
        pruned = (CONTEXTUAL, *PRUNED) if args.contextual else PRUNED
        units = sum(sum(sizes[name]) for name in pruned)
        least = sum(2 * dict(args.groups).get(name, 1) for name in pruned)
        if args.keep * units < least:
            parser.error(
                f"--keep {args.keep:g} of {units} units is less than one for each of "
                f"the {least} LSTMs and groups that lose some"
            )
    return args


def _group(parser: argparse.ArgumentParser, given: str) -> tuple[str, int]:
    name, _, count = given.partition("=")
    if name not in (CONTEXTUAL, *PRUNED) or not count.isdecimal() or int(count) < 1:
        parser.error(
            f"--groups takes LAYER=N, such as output=4, with one of "
            f"{', '.join((CONTEXTUAL, *PRUNED))}; not {given}"
        )
    return name, int(count)


def run_of(args: argparse.Namespace, left_out: str | None = None) -> runs.Run:
    """The run of these arguments, by name.

    Args:
        args: The arguments.
        left_out: The article that is held out. What it starts from, or is like, was
            trained without that, too.
    """
    ending = runs.ending(left_out)
    parts = [args.configuration]
    if args.width is not None:
        parts.append(f"width{args.width}")
    if args.method != "plain":
        parts.append(args.method)
    for value in (args.keep, args.strength):
        if value is not None:
            parts.append(f"{value:g}")
    units, start, like_name = args.units, args.start, None
    if args.like is not None:
        # That of the fold is as right as what all folds have in common.
        like_name = args.like.removesuffix(ending)
        like = finished("like", args.out, like_name + ending, FIELD)
        units = like["units"]
        if set(like["contextual_units"]) != {like["settings"]["width"]}:
            units = [*like["contextual_units"], *units]
        parts.append(kind_of(like_name, args.configuration, args.seed))
    else:
        parts += [str(one) for one in units or ()]
    tuned = []
    if start is not None:
        start_name = start.stem.removesuffix(ending)
        start = start.with_name(f"{start_name}{ending}{start.suffix}")
        kind = kind_of(start_name, args.configuration, args.seed)
        tuned = ["tuned"] if kind == "plain" else ["tuned", kind]
        if not start.is_file():
            raise SystemExit(f"--start {start}: there is no such file.")
    # What must be alike in the run that this one is like stands in that one's name.
    own = args.like is None
    if own:
        parts += [f"{name}{count}" for name, count in args.groups]
    if own and args.density is not None:
        parts.append(f"density{args.density:g}")
    if args.dropout is not None:
        parts.append(f"dropout{args.dropout:g}")
    for given, what in (
        (args.contextual, "contextual"),
        (own and args.vectors is not None, "vectors"),
        (own and args.unanswerable == "score", "unanswerable"),
    ):
        if given:
            parts.append(what)
    parts += tuned
    parts.append(f"seed{args.seed}")
    return runs.Run(
        name=(args.name or "-".join(parts)) + ending,
        base=args.configuration,
        config=runs.changed(
            args.configuration,
            width=args.width,
            epochs=args.epochs,
            batch=args.batch,
            dropout=args.dropout,
            average=args.average,
            density=args.density,
            units=tuple(units) if units else None,
            groups=tuple(args.groups) or None,
        ),
        method=args.method,
        seed=args.seed,
        keep=args.keep,
        strength=args.strength,
        contextual=args.contextual,
        like=like_name,
        start=start,
        unanswerable=args.unanswerable == "score",
        vectors=args.vectors,
        most_words=args.most_words,
        folder=args.out,
    )


def main() -> None:
    args = arguments()
    if args.results:
        results.show(args.out)
        return
    if args.plan:
        source = ["--most-words", str(args.most_words)]
        for name in ("squad", "data", "vectors"):
            if (value := getattr(args, name)) is not None:
                values = value if isinstance(value, list) else [value]
                source += [f"--{name}", *map(str, values)]
        steps = PLANS[args.plan]("vectors" if args.vectors else "")
        follow(steps, Path(__file__), args.out, source, args.seed)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    none = args.unanswerable == "score"
    for data in runs.data_of(args.squad, args.data, args.hold_out, none):
        run = run_of(args, data.left_out)
        print(
            f"{data.source}: {len(data.train):,} questions to learn from, "
            f"{len(data.valid):,} to look at, {len(data.test):,} for the test"
        )
        if args.squad is None and args.data is None:
            by_search = [spans.by_search(one) for one in data.test]
            em, f1 = map(statistics.mean, squad.scores(data.test, by_search))
            print(
                "A search for the words around the gap, which learns nothing: exact "
                f"match {em:.1f}, F1 {f1:.1f}"
            )
        final = runs.trained(run, data)
        found.append(final)
        print(
            f"{final['run']}: exact match {final['em']:.1f}, F1 {final['f1']:.1f} of "
            f"{final['questions']:,} questions; units {final['units']}, "
            f"{final['parameters']:,} weights ({final['without_words']:,} without "
            f"words), {final['seconds']:.0f} s of training"
        )
        for line in shipping.ship(run, data) if args.ship else []:
            print(
                f"{line['quantize'] or 'float32':10} {line['bytes']:>12,} bytes, exact "
                f"match {line['em']:.1f}, F1 {line['f1']:.1f}, the spans of Keras for "
                f"{line['same_spans']:,} of {line['questions']:,} questions, "
                f"{line['ms']:.2f} ms"
            )
    if len(found) > 1:
        em, f1 = (results.pooled(found, name) for name in ("em", "f1"))
        count = sum(one["questions"] for one in found)
        print(f"All {count:,} questions: exact match {em:.1f}, F1 {f1:.1f}")


if __name__ == "__main__":
    main()
