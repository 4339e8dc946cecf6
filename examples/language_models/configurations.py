"""What is trained, and how: named configurations.

Those of the papers have the papers' settings. Settings of `wide-256` and of `medium-13`
are ours: the two sizes that two cores can train on all of the Penn Treebank.
"""

from dataclasses import dataclass, replace
from typing import Any

import keras_sparse_rnn as ksr

# What the records of this example tell, and those of others do not.
FIELD = "train_words"


@dataclass(frozen=True)
class Configuration:
    """One model and its training.

    Attributes:
        about: What it is, in words.
        embedding: Length of word vectors.
        units: Units of each recurrent layer.
        dense_units: For groups: the units of the dense layers that a layer matches in
            weights, with `dense_embedding`.
        dense_embedding: The same of the embedding.
        depth: Of a recurrent highway layer; 0 for LSTMs.
        tied: Whether the table of the words makes the logits, too.
        density: Share of a table's weights to keep, rare words shorter.
        blocks: In how many steps their lengths fall.
        epochs: How often the text is read.
        batch: Parts of the text that are read side by side.
        steps: Words in a window.
        rate: Learning rate of SGD, for a loss that is the mean over words.
        full_rate: Epochs at that rate.
        decay: What it is multiplied with after `decay_every` further ones.
        decay_every: See `decay`.
        clip: Largest norm of all gradients, for the same loss.
        momentum: Of SGD.
        weight_decay: Share of a weight that a step takes away, over the rate.
        l2: Strength of half of the squares of all weights, in the loss.
        scale: Weights start uniformly within this; `None` for within 1 over the root
            of a group's units, as PyTorch's do.
        word_dropout: Share of the words that are dropped.
        input_dropout: Dropout of word vectors.
        hidden_dropout: Dropout between layers.
        output_dropout: Dropout before the logits.
        locked: Whether a sequence's steps share a mask.
        weight_drop: Share of the recurrent weights that are dropped.
        recurrent_dropout: Share of a highway layer's states that are dropped.
        alpha: Strength of activation regularization.
        beta: Strength of temporal activation regularization.
        jitter: Deviation of windows' lengths.
        averaging: Epochs without a best one after which weights are averaged; 0 never.
        best: Whether the best epoch's weights count, not the last one's.
        recite: Whether the accuracy on the training text counts.
    """

    about: str
    embedding: int
    units: tuple[int, ...]
    dense_units: tuple[int, ...] | None = None
    dense_embedding: int | None = None
    depth: int = 0
    tied: bool = False
    density: float | None = None
    blocks: int = 10
    epochs: int = 13
    batch: int = 20
    steps: int = 35
    rate: float = 35.0
    full_rate: int = 4
    decay: float = 0.5
    decay_every: int = 1
    clip: float | None = 5 / 35
    momentum: float = 0.0
    weight_decay: float = 0.0
    l2: float = 0.0
    scale: float | None = 0.1
    word_dropout: float = 0.0
    input_dropout: float = 0.0
    hidden_dropout: float = 0.0
    output_dropout: float = 0.0
    locked: bool = False
    weight_drop: float = 0.0
    recurrent_dropout: float = 0.0
    alpha: float = 0.0
    beta: float = 0.0
    jitter: float = 0.0
    averaging: int = 0
    best: bool = False
    recite: bool = False

    def groups(self) -> list[ksr.Budget | None]:
        """For each layer how it matches a dense one, `None` where it is dense."""
        if self.dense_units is None:
            return [None] * len(self.units)
        embedding = self.dense_embedding or self.embedding
        dense = [embedding, *self.dense_units]
        own = [self.embedding, *self.units]
        found: list[ksr.Budget | None] = []
        for k in range(len(self.units)):
            if own[k : k + 2] == dense[k : k + 2]:
                found.append(None)
            else:
                found.append(
                    ksr.match_dense(own[k], own[k + 1], dense[k], dense[k + 1])
                )
        return found


def _dropouts(rate: float) -> dict[str, float]:
    """The same before, between and behind the layers."""
    return {
        "input_dropout": rate,
        "hidden_dropout": rate,
        "output_dropout": rate,
    }


def _summed(steps: int, rate: float, clip: float) -> dict[str, float]:
    """Rate and clip of a loss that is summed over the steps of a window.

    SGD with a rate r on a sum over n steps, its gradient clipped at c, is SGD with the
    rate r·n on the mean, clipped at c/n.
    """
    return {"steps": steps, "rate": rate * steps, "clip": clip / steps}


_SMALL = Configuration(
    "two LSTMs of 200, as Zaremba et al. (2014): small",
    embedding=200,
    units=(200, 200),
    **_summed(20, 1.0, 5.0),
)
_MEDIUM = Configuration(
    "two LSTMs of 650, as Zaremba et al. (2014): medium",
    embedding=650,
    units=(650, 650),
    epochs=39,
    **_summed(35, 1.0, 5.0),
    full_rate=6,
    decay=0.8,
    scale=0.05,
    **_dropouts(0.5),
)
_MEDIUM_13 = replace(_MEDIUM, about="two LSTMs of 650, 13 epochs", epochs=13, decay=0.5)
_LARGE = Configuration(
    "two LSTMs of 1500, as Zaremba et al. (2014): large, the baseline of ISS",
    embedding=1500,
    units=(1500, 1500),
    epochs=55,
    **_summed(35, 1.0, 10.0),
    full_rate=14,
    decay=1 / 1.15,
    scale=0.04,
    **_dropouts(0.65),
)
_AWD = Configuration(
    "AWD-LSTM, as Merity et al. (2018)",
    embedding=400,
    units=(1150, 1150, 400),
    tied=True,
    epochs=500,
    steps=70,
    rate=30.0,
    full_rate=500,
    clip=0.25,
    weight_decay=1.2e-6,
    scale=None,
    word_dropout=0.1,
    input_dropout=0.4,
    hidden_dropout=0.25,
    output_dropout=0.4,
    locked=True,
    weight_drop=0.5,
    alpha=2.0,
    beta=1.0,
    jitter=5.0,
    averaging=5,
    best=True,
)
_RECITE = Configuration(
    "recite PTB, as Demeester et al. (2018), section 5: dense, 24.2M weights",
    embedding=400,
    units=(1150, 1150, 400),
    tied=True,
    epochs=150,
    steps=70,
    rate=5.0,
    full_rate=1,
    decay=0.97,
    clip=0.25,
    momentum=0.9,
    scale=None,
    jitter=5.0,
    recite=True,
)
_HIGHWAY = Configuration(
    "recurrent highway network, width 830, depth 10, as Zilly et al. (2017)",
    embedding=830,
    units=(830,),
    depth=10,
    tied=True,
    epochs=500,
    **_summed(35, 0.2, 10.0),
    full_rate=20,
    decay=1 / 1.02,
    l2=1e-7 / 35,
    scale=0.04,
    word_dropout=0.25,
    input_dropout=0.75,
    recurrent_dropout=0.25,
    output_dropout=0.75,
    locked=True,
    best=True,
)
_WIDE = Configuration(
    "two LSTMs of 256, untied",
    embedding=256,
    units=(256, 256),
    epochs=10,
    **_summed(35, 1.0, 5.0),
    full_rate=5,
    **_dropouts(0.35),
)
_TIED = replace(_WIDE, about="two LSTMs of 256, tied", tied=True)
_ALL = replace(
    _TIED,
    about="LSTMs of 384 in groups and 256, tied by a third of a table",
    units=(384, 256),
    dense_units=(256, 256),
    density=1 / 3,
)
_TINY = Configuration(
    "two LSTMs of 96",
    embedding=96,
    units=(96, 96),
    epochs=6,
    **_summed(35, 1.0, 5.0),
    full_rate=4,
    **_dropouts(0.2),
)


def _recite(about: str, embedding: int, *units: int, **changed: Any) -> Configuration:
    about = f"recite PTB, as Demeester et al. (2018), section 5: {about}"
    return replace(
        _RECITE, about=about, embedding=embedding, units=(*units, embedding), **changed
    )


def _narrow(full: tuple[int, ...], fraction: float) -> tuple[int, ...]:
    return tuple(round(width * fraction) for width in full)


_THIRD = _narrow((1150, 1150), 1 / 3)


def _recite_third_as_wide() -> dict[str, Configuration]:
    """What recites a tenth of the Penn Treebank: widths a third of the paper's."""
    found = {"recite-tenth": _recite("a third as wide, dense", 128, 384, 384)}
    for name, embedding, narrow, density in (
        ("half", 64, 192, 1 / 2),
        ("third", 43, 128, 1 / 3),
    ):
        dense = (narrow, narrow, embedding)
        about = f"a third as wide, as many weights as {narrow} units have"
        found[f"recite-tenth-{name}"] = _recite(
            f"{about}, dense", embedding, narrow, narrow
        )
        found[f"recite-tenth-{name}-sparse"] = _recite(
            f"{about}, in groups", embedding, 384, 384, dense_units=dense
        )
        found[f"recite-tenth-{name}-tiers"] = _recite(
            f"{about}, in groups with tiers",
            128,
            384,
            384,
            dense_units=dense,
            dense_embedding=embedding,
            density=density,
        )
    return found


CONFIGURATIONS = {
    "small": _SMALL,
    "medium": _MEDIUM,
    "large": _LARGE,
    "large-iss": replace(
        _LARGE,
        about="large, with the dropout and the rates that ISS was trained with",
        full_rate=18,
        decay=0.1,
        decay_every=18,
        **_dropouts(0.4),
    ),
    "large-direct": replace(
        _LARGE,
        about="large, with the dropout of the small one that ISS is compared with",
        **_dropouts(0.45),
    ),
    "large-tied-tiers": replace(
        _LARGE,
        about="large, tied by a table of a third of the weights",
        tied=True,
        density=1 / 3,
        full_rate=18,
        decay=0.1,
        decay_every=18,
        **_dropouts(0.4),
    ),
    "medium-13": _MEDIUM_13,
    "medium-13-iss": replace(
        _MEDIUM_13,
        about="medium-13 with a dropout of 0.35: few units need less, as in ISS",
        **_dropouts(0.35),
    ),
    "medium-13-tied": replace(
        _MEDIUM_13, about="two LSTMs of 650, 13 epochs, tied", tied=True
    ),
    "medium-13-all": replace(
        _MEDIUM_13,
        about="two LSTMs of 650 in groups, tied by a third of a table, dropout 0.35",
        tied=True,
        dense_units=(360, 360),
        dense_embedding=360,
        density=1 / 3,
        **_dropouts(0.35),
    ),
    "wide-256": _WIDE,
    "wide-256-sparse": replace(
        _WIDE,
        about="LSTMs of 384 in groups and 256, as many weights as two of 256",
        units=(384, 256),
        dense_units=(256, 256),
    ),
    "tied-256": _TIED,
    "tied-256-0.2": replace(
        _TIED,
        about="two LSTMs of 256, tied, with a dropout of 0.2",
        **_dropouts(0.2),
    ),
    "tied-256-sparse": replace(
        _TIED,
        about="LSTMs of 384 in groups and 256, as many weights as two of 256, tied",
        units=(384, 256),
        dense_units=(256, 256),
    ),
    "tied-256-tiers": replace(
        _TIED,
        about="two LSTMs of 256, tied by a table of a third of the weights",
        density=1 / 3,
    ),
    "tied-256-all": _ALL,
    "tied-256-all-0.2": replace(
        _ALL,
        about="tied-256-all with a dropout of 0.2: for few weights 0.35 is much",
        **_dropouts(0.2),
    ),
    "awd": _AWD,
    "awd-sparse": replace(
        _AWD,
        about="AWD-LSTM, 1.5 times as wide in groups, as Demeester et al. (2018)",
        units=(1725, 1725, 400),
        dense_units=(1150, 1150, 400),
    ),
    "recite": _RECITE,
    "recite-7m": _recite("dense, 7.07M weights", 200, 575, 575),
    "recite-7m-sparse": _recite(
        "wider in groups, 7.07M weights", 200, 1150, 1150, dense_units=(575, 575, 200)
    ),
    "recite-7m-tiers": _recite(
        "wider in groups with tiers, 7.07M weights",
        400,
        1150,
        1150,
        dense_units=(575, 575, 200),
        dense_embedding=200,
        density=1 / 2,
    ),
    "recite-4m": _recite("dense, 3.59M weights", 133, *_THIRD),
    "recite-4m-sparse": _recite(
        "wider in groups, 3.59M weights", 133, 1150, 1150, dense_units=(*_THIRD, 133)
    ),
    "recite-4m-tiers": _recite(
        "wider in groups with tiers, 3.59M weights",
        400,
        1150,
        1150,
        dense_units=(*_THIRD, 133),
        dense_embedding=133,
        density=1 / 3,
    ),
    **_recite_third_as_wide(),
    "highway": _HIGHWAY,
    "highway-iss": replace(
        _HIGHWAY,
        about="highway, with 0.6 of the dropout, as ISS was trained",
        word_dropout=0.15,
        input_dropout=0.45,
        recurrent_dropout=0.15,
        output_dropout=0.45,
    ),
    "tiny": _TINY,
    "tiny-sparse": replace(
        _TINY,
        about="LSTMs of 144 in groups and 96, as many weights as two of 96",
        units=(144, 96),
        dense_units=(96, 96),
    ),
    "tiny-awd": replace(
        _AWD,
        about="AWD-LSTM, a tenth as wide",
        embedding=64,
        units=(128, 128, 64),
        epochs=8,
        steps=35,
        averaging=2,
        **_dropouts(0.1),
        weight_drop=0.2,
    ),
    "tiny-highway": replace(
        _HIGHWAY,
        about="recurrent highway network, width 96, depth 4",
        embedding=96,
        units=(96,),
        depth=4,
        epochs=8,
        word_dropout=0.05,
        input_dropout=0.1,
        recurrent_dropout=0.05,
        output_dropout=0.1,
        rate=35 * 0.5,
    ),
    "tiny-recite": replace(
        _RECITE,
        about="recite, a tenth as wide",
        embedding=64,
        units=(128, 64),
        epochs=8,
    ),
    "tiny-recite-tiers": replace(
        _RECITE,
        about="recite, wider in groups with tiers, as many weights",
        embedding=128,
        units=(256, 128),
        dense_units=(128, 64),
        dense_embedding=64,
        density=0.5,
        epochs=8,
    ),
}
