"""Which runs the tables of `docs/results.md` are made of, in order."""

from collections.abc import Iterator, Sequence

from experiments.plans import Step


def _table(
    name: str, keeps: Sequence[str], seeds: Sequence[int], more: Step = ()
) -> Iterator[Step]:
    """Dense, pruned from the start and from a trained model, and direct design."""
    for seed in seeds:
        own = ["--seed", str(seed), *more]
        yield [name, *own]
        for keep in keeps:
            yield [name, "--method", "scheduled", "--keep", keep, *own]
            pruned = f"{name}-scheduled-{keep}-seed{seed}"
            yield [name, "--method", "direct", "--like", pruned, *own]
            start = ["--start", f"@file {name}-seed{seed}"]
            yield [name, "--method", "scheduled", "--keep", keep, *start, *own]


def tiny() -> Iterator[Step]:
    """Widths of 12, three seeds, at three sizes."""
    yield from _table("tiny", ("0.7", "0.5", "0.3"), (1, 2, 3), ["--ship"])


def small() -> Iterator[Step]:
    """Widths of 32, three seeds, at three sizes."""
    yield from _table("small", ("0.7", "0.5", "0.3"), (1, 2, 3), ["--ship"])


def bidaf() -> Iterator[Step]:
    """Widths of 100 for 8 epochs, three seeds, at two sizes: nine hours on one core."""
    more = ["--epochs", "8", "--ship"]
    yield from _table("bidaf", ("0.5", "0.2"), (1, 2, 3), more)


def held_out() -> Iterator[Step]:
    """Widths of 32, each article of one file of SQuAD's held out in turn."""
    yield from _table("small", ("0.5",), (1,), ["--hold-out", "all", "--ship"])


PLANS = {"tiny": tiny, "small": small, "bidaf": bidaf, "held-out": held_out}
