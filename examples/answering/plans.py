"""Which runs the tables of `docs/results.md` are made of, in order.

Each plan is told what the names of its runs say of words: "vectors" where a file of
them is given, else nothing.
"""

from collections.abc import Iterator, Sequence

from experiments.plans import Step


def _table(
    name: str, keeps: Sequence[str], seeds: Sequence[int], words: str, more: Step
) -> Iterator[Step]:
    """Dense, pruned from the start and from a trained model, and direct design."""
    for seed in seeds:
        own = ["--seed", str(seed), *more]
        ending = f"-{words}-seed{seed}" if words else f"-seed{seed}"
        yield [name, *own]
        for keep in keeps:
            yield [name, "--method", "scheduled", "--keep", keep, *own]
            pruned = f"{name}-scheduled-{keep}{ending}"
            yield [name, "--method", "direct", "--like", pruned, *own]
            start = ["--start", f"@file {name}{ending}"]
            yield [name, "--method", "scheduled", "--keep", keep, *start, *own]


def tiny(words: str) -> Iterator[Step]:
    """Widths of 12, three seeds, at three sizes."""
    yield from _table("tiny", ("0.7", "0.5", "0.3"), (1, 2, 3), words, ["--ship"])


def small(words: str) -> Iterator[Step]:
    """Widths of 32, three seeds, at three sizes."""
    yield from _table("small", ("0.7", "0.5", "0.3"), (1, 2, 3), words, ["--ship"])


def bidaf(words: str) -> Iterator[Step]:
    """Widths of 100 for 8 epochs, three seeds, at two sizes: nine hours on one core."""
    more = ["--epochs", "8", "--ship"]
    yield from _table("bidaf", ("0.5", "0.2"), (1, 2, 3), words, more)


def held_out(words: str) -> Iterator[Step]:
    """Widths of 32, each article of one file of SQuAD's held out in turn."""
    more = ["--hold-out", "all", "--ship"]
    yield from _table("small", ("0.5",), (1,), words, more)


PLANS = {"tiny": tiny, "small": small, "bidaf": bidaf, "held-out": held_out}
