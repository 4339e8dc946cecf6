"""`shrink`: a smaller model, all at once."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_sparse_rnn.command_line import loading, words
from keras_sparse_rnn.command_line.output import (
    PROGRAM,
    CommandError,
    as_json,
    log_held_back,
    pairs,
    table,
    tell,
    warnings_as_notes,
)
from keras_sparse_rnn.export.files import new_file

_TEXT = """\
Removes the weakest hidden units of a trained model until it is as small as
wanted, and writes the smaller model."""
_EXAMPLE = f"""\
examples:
  {PROGRAM} shrink model.keras small.keras --keep 0.5
  {PROGRAM} shrink masked.keras small.keras --dead

Units that are removed from a trained model at once take some of its accuracy
along, which is not looked at here. Train with `ISSPruning` or `fit_shrinking`,
which lose less, or train the smaller model on."""
_UNSEEN = (
    "What the smaller model predicts was not looked at. Evaluate it, and train it on; "
    "ISSPruning or fit_shrinking in training lose less."
)


def add(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds the command to a parser's."""
    parser = commands.add_parser(
        "shrink",
        parents=[common],
        help="remove the weakest hidden units of a .keras file",
        description=_TEXT,
        epilog=_EXAMPLE,
        usage="%(prog)s [-h] IN.keras OUT.keras TARGET [OPTION …]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN.keras")
    parser.add_argument("destination", type=Path, metavar="OUT.keras")
    targets = parser.add_argument_group("targets, of which to give one")
    target = targets.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--keep", type=words.share, metavar="SHARE", help="share of the units to keep"
    )
    target.add_argument(
        "--keep-parameters",
        type=words.share,
        metavar="SHARE",
        help="share of the parameters to keep",
    )
    target.add_argument(
        "--max-bytes",
        type=words.positive,
        metavar="N",
        help="most bytes of weights, as they are stored in the model",
    )
    target.add_argument(
        "--max-multiply-adds",
        type=words.positive,
        metavar="N",
        help="most multiply-adds for one token",
    )
    target.add_argument(
        "--dead",
        action="store_true",
        help="remove dead units only, as pruning in training leaves them: the outputs "
        "stay the same",
    )
    parser.add_argument(
        "--minimum",
        type=words.positive,
        metavar="N",
        help="fewest units a layer keeps (default: 1)",
    )
    parser.add_argument(
        "--round-to",
        type=words.positive,
        metavar="N",
        help="make the units of each layer and group a multiple of this",
    )
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="LAYER",
        help="leave a layer alone; may be given several times",
    )
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Loads, shrinks, writes and tells what was removed."""
    source, destination = arguments.source, arguments.destination
    if arguments.dead and (arguments.minimum or arguments.round_to):
        arguments.parser.error("--minimum and --round-to do not go with --dead")
    loading.check(source, (".keras",))
    if destination.suffix.lower() != ".keras":
        raise CommandError(f"'{destination}' must end in .keras.")
    if destination.exists() and destination.samefile(source):
        raise CommandError(
            f"'{destination}' is the model itself, of which no copy would be left; "
            "name another file."
        )
    tell(arguments, f"loading Keras and {source}")
    with new_file(destination) as temporary, warnings_as_notes():
        model = loading.load(source, compiled=True)
        tell(arguments, "removing units")
        with log_held_back():
            small, report = _shrunk(model, arguments)
        tell(arguments, f"writing {destination}")
        # Keras goes by the suffix.
        saved = temporary.with_suffix(".keras")
        try:
            small.save(saved)
            os.replace(saved, temporary)
        finally:
            saved.unlink(missing_ok=True)
    optimizer = small.compiled and bool(small.optimizer.built)
    if arguments.json:
        print(as_json(_facts(arguments, report, optimizer)))
    else:
        print("\n".join(_text(arguments, report, optimizer)))
    return 0


def _shrunk(model: Any, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The smaller model, and the report on what was removed."""
    from keras_sparse_rnn.iss import ISSPruning, report, shrink
    from keras_sparse_rnn.iss.continuing import lost_in
    from keras_sparse_rnn.iss.shrink import rebuild, warn_of_lost

    if arguments.dead:
        return shrink(model, arguments.ignore), report(model, ignore=arguments.ignore)
    pruning = ISSPruning(
        arguments.keep,
        keep_parameters=arguments.keep_parameters,
        max_bytes=arguments.max_bytes,
        max_multiply_adds=arguments.max_multiply_adds,
        ignore=arguments.ignore,
        minimum=arguments.minimum or 1,
        round_to=arguments.round_to or 1,
    )
    plan = pruning.traced(model)
    every = [np.ones(family.units, bool) for family in plan.families]
    values = plan.values()
    # As `report` has it: what is dead goes in any case.
    alive = [
        living & ~family.dead(values)
        for living, family in zip(
            pruning.aim(plan).left(every, 1.0), plan.families, strict=True
        )
    ]
    small = rebuild(model, plan, alive)
    warn_of_lost(model, lost_in(model, small))
    return small, report(model, pruning)


def _facts(
    arguments: argparse.Namespace, report: Any, optimizer: bool
) -> dict[str, Any]:
    return {
        "source": arguments.source,
        "source_bytes": arguments.source.stat().st_size,
        "file": arguments.destination,
        "bytes": arguments.destination.stat().st_size,
        "optimizer_state": optimizer,
        "asked": report.asked,
        "layers": [
            {
                "layer": one.layer,
                "before": one.before,
                "after": one.after,
                "groups": _left(one),
                "fixed": one.fixed,
            }
            for one in report.layers
        ],
        "costs": report.costs,
        "total": {"before": report.before, "after": report.after},
        "units": {"before": report.units_before, "after": report.units_after},
        "left_alone": report.left_alone,
        "remark": _remark(arguments),
    }


def _text(arguments: argparse.Namespace, report: Any, optimizer: bool) -> list[str]:
    """Units, then costs; `str(report)` is wider than a terminal."""
    rows: list[list[str]] = []
    for one in report.layers:
        rows.append(_row(one.layer, one.before, one.after))
        if len(one.segments) > 1:
            rows.append([f"groups: {' + '.join(f'{left:,}' for left in _left(one))}"])
    rows.append(_row("all that may go", report.units_before, report.units_after))
    lines = table(("recurrent layer", "units", "left", "share"), rows)
    costs = [(one.layer, one.before, one.after) for one in report.costs]
    lines += [""]
    lines += table(
        ("layer", "parameters", "left", "multiply-adds", "left"),
        [
            [name, *_pair(before, after, "parameters", "multiply_adds")]
            for name, before, after in [*costs, ("all", report.before, report.after)]
        ],
    )
    source, destination = arguments.source, arguments.destination
    sizes = f"{destination.stat().st_size:,} bytes, not {source.stat().st_size:,}"
    if optimizer:
        sizes += ", with the optimizer's state"
    before, after = _pair(report.before, report.after, "bytes")
    facts = [("weights", f"{after} bytes are left of {before}")]
    facts += [("asked for", report.asked)] if report.asked else []
    facts += [("left alone", f"{k}: {why}") for k, why in report.left_alone.items()]
    facts.append(("written", f"{destination}, {sizes}"))
    facts.append(("remark", _remark(arguments)))
    return [*lines, "", *pairs(facts)]


def _remark(arguments: argparse.Namespace) -> str:
    return "The outputs stay the same." if arguments.dead else _UNSEEN


def _left(layer: Any) -> list[int]:
    """How many units each group of a layer keeps."""
    return [
        int((layer.removed_at[begin:end] < 0).sum()) for begin, end in layer.segments
    ]


def _row(name: str, before: int, after: int) -> list[str]:
    share = after / before if before else 1.0
    return [name, f"{before:,}", f"{after:,}", f"{share:.1%}"]


def _pair(before: Any, after: Any, *measures: str) -> list[str]:
    return [f"{getattr(one, name):,}" for name in measures for one in (before, after)]
