"""One run: a model, trained by one method, from one seed, on some questions."""

import hashlib
import json
import platform
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from experiments.course import Course, epochs_at
from experiments.records import (
    Records,
    check_same,
    digest_of,
    settings_of,
    where,
    write,
)

import keras_sparse_rnn as ksr
from answering import encoding, models, spans, squad
from answering.configurations import (
    CONFIGURATIONS,
    CONTEXTUAL,
    FIELD,
    PRUNED,
    Configuration,
)
from answering.encoding import Encoded, Vocabulary
from answering.squad import Question

METHODS = {
    "plain": "nothing is removed",
    "scheduled": "units go on a schedule, the model is rebuilt smaller on the way",
    "lasso": "the group lasso of the ISS paper, as strong as --strength",
    "proximal": "the same in its proximal form, as strong as --strength",
    "direct": "LSTMs of the sizes --units, or those of --like, from the beginning",
}
# That of the paper's code for this model.
THRESHOLD = 4e-4


@dataclass(frozen=True)
class Data:
    """Questions to train with, to look at while training, and to test with.

    Attributes:
        train: Those to train with.
        valid: Those to look at; maybe none.
        test: Those that the reported scores are of.
        source: Where they come from.
        hash: Of all of them, whichever article is held out.
        left_out: The article that is held out, if one is.
        articles: How many there are that can be.
    """

    train: list[Question]
    valid: list[Question]
    test: list[Question]
    source: str
    hash: str
    left_out: str | None = None
    articles: int = 0


def data_of(
    paths: Sequence[Path] | None,
    name: str | None,
    hold_out: str | None,
    unanswerable: bool = False,
) -> list[Data]:
    """What to train with and to test with.

    Args:
        paths: A file of SQuAD's, or two of which the second is for the test.
        name: A tensorflow-datasets name, in place of files.
        hold_out: With one file the title of the article to test with, or "all" for each
            in turn.
        unanswerable: Whether questions without an answer count; else they are left out.

    Returns:
        One, or as many as there are articles to hold out.
    """
    if name is not None:
        parts = squad.of_dataset(name)
        if not {"train", "validation"} <= set(parts):
            raise SystemExit(f"--data {name} has no train and validation parts.")
        return [_data([parts["train"], [], parts["validation"]], name, unanswerable)]
    if not paths:
        parts = spans.of_python()
        source = f"documentation of Python {platform.python_version()}"
        own = [parts["train"], parts["valid"], parts["test"]]
        return [_data(own, source, unanswerable)]
    source = " ".join(path.name for path in paths)
    if len(paths) == 2:
        train, test = (squad.of_file(path) for path in paths)
        return [_data([train, [], test], source, unanswerable)]
    everything = squad.of_file(paths[0])
    questions = _asked(everything, source, unanswerable)
    titles = sorted({one.title for one in questions})
    if hold_out not in (*titles, "all") or len(titles) < 2:
        raise SystemExit(
            f"--squad {paths[0]}: with one file, --hold-out says which article the "
            f"test is of: 'all' for each in turn, or one of {titles}; there must be "
            "two at least. Articles of questions without an answer are among them with "
            f"--unanswerable score. Received: {hold_out}."
        )
    digest = squad.hash_of(everything)
    return [
        Data(
            [one for one in questions if one.title != title],
            [],
            [one for one in questions if one.title == title],
            source,
            digest,
            title,
            len(titles),
        )
        for title in (titles if hold_out == "all" else [hold_out])
    ]


def _data(parts: Sequence[list[Question]], source: str, unanswerable: bool) -> Data:
    digest = squad.hash_of([one for part in parts for one in part])
    train, valid, test = (_asked(part, source, unanswerable) for part in parts)
    if not test:
        raise SystemExit(f"{source}: no question of its test has an answer.")
    return Data(train, valid, test, source, digest)


def _asked(
    questions: Sequence[Question], source: str, unanswerable: bool
) -> list[Question]:
    """Those that count; exits if one of them is about nothing."""
    found = [one for one in questions if one.answers or unanswerable]
    for one in found:
        if not one.passage.strip():
            raise SystemExit(
                f"{source}: the passage of question {one.id} has no word in it. Leave "
                "the question out."
            )
    return found


@dataclass(frozen=True)
class Run:
    """What one run is.

    Attributes:
        name: It names its files.
        base: The name of the configuration that its own was made of.
        config: The sizes, and how it is trained.
        method: One of `METHODS`.
        seed: Of weights, dropout and the order of questions.
        keep: Share of the units that stay.
        strength: Of a lasso.
        contextual: Whether the contextual layer loses units, too.
        like: The run that the units are of, if they are of one.
        start: A model to start from, `None` for new weights.
        unanswerable: Whether questions without an answer count.
        vectors: A file of words' vectors, if any.
        most_words: Size of the largest vocabulary.
        folder: Where files go.
    """

    name: str
    base: str
    config: Configuration
    method: str
    seed: int
    keep: float | None
    strength: float | None
    contextual: bool
    like: str | None
    start: Path | None
    unanswerable: bool
    vectors: Path | None
    most_words: int
    folder: Path

    @property
    def file(self) -> Path:
        """The trained model."""
        return self.folder / f"{self.name}.keras"

    def vocabulary(self, data: Data) -> Vocabulary:
        """The words of the questions to train with."""
        found = encoding.vocabulary_of(data.train, self.most_words)
        if self.vectors is None:
            return found
        questions = [*data.train, *data.valid, *data.test]
        return encoding.with_vectors(found, self.vectors, questions, self.seed)

    def encoded(self, questions: Sequence[Question]) -> list[Encoded]:
        """Questions in tokens."""
        return encoding.encoded(questions, self.config, self.unanswerable)


def ending(left_out: str | None) -> str:
    """What the name of a run ends with if an article is left out."""
    if left_out is None:
        return ""
    name = re.sub(r"[^\w.-]+", "_", left_out)[:60]
    if name != left_out:
        # Two titles may look alike without what no file can be named.
        name += f"-{hashlib.sha256(left_out.encode()).hexdigest()[:6]}"
    return f"-without-{name}"


def trained(run: Run, data: Data) -> dict[str, Any]:
    """Trains, unless that was done before; the last line of the run's records."""
    facts = {
        "run": run.name,
        "configuration": run.base,
        "method": run.method,
        "seed": run.seed,
        "settings": {
            **settings_of(run.config),
            "keep": run.keep,
            "strength": run.strength,
            "contextual": run.contextual,
            "like": run.like,
            "start": run.start.name if run.start else None,
            "start_hash": digest_of(run.start) if run.start else None,
            "unanswerable": run.unanswerable,
            "vectors": run.vectors.name if run.vectors else None,
            **({"vectors_hash": digest_of(run.vectors)} if run.vectors else {}),
            "most_words": run.most_words,
        },
        "data": data.source,
        "data_hash": data.hash,
        "left_out": data.left_out,
        "articles": data.articles,
    }
    records = Records(run.folder / f"{run.name}.jsonl", facts)
    if (final := records.done_before()) is not None:
        return final
    if run.like is not None:
        name = run.like + ending(data.left_out)
        check_same("like", run.folder, name, FIELD, _shared(facts))
    if run.start is not None:
        folder, name = run.start.parent, run.start.stem
        check_same("start", folder, name, FIELD, _shared(facts))
    vocabulary = run.vocabulary(data)
    everything = run.encoded(data.train)
    questions = [one for one in everything if one.span is not None]
    if not questions:
        raise SystemExit(
            f"{data.source} has no question that could be trained with. Those without "
            "an answer can be, with --unanswerable score."
        )
    course = Course(run.file, records)
    if not course.ended():
        print(
            f"{len(questions):,} questions of {len(everything):,} can be trained with"
        )
        _train(run, questions, run.encoded(data.valid), vocabulary, course)
    # Without it nobody knows what the numbers mean.
    write(
        run.file.with_suffix(".vocabulary.json"),
        json.dumps({"words": vocabulary.words, "characters": vocabulary.characters}),
    )
    model = keras.models.load_model(run.file)
    records.add(
        final=True,
        **scores(model, run.encoded(data.test), vocabulary, run),
        **sizes(model),
        train_questions=len(questions),
        seconds=sum(records.values("seconds")),
        **where(),
    )
    return records.lines()[-1]


def _shared(facts: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in two runs of which one takes up the other."""
    settings = facts["settings"]
    sizes = ("width", "groups", "density", "character_width", "height")
    read = ("word_length", "context", "question", "unanswerable", "most_words")
    words = ("vectors", "vectors_hash")
    return {
        **{name: settings.get(name) for name in (*sizes, *read, *words)},
        **{name: facts[name] for name in ("data_hash", "left_out")},
    }


def _train(
    run: Run,
    questions: Sequence[Encoded],
    looked_at: Sequence[Encoded],
    vocabulary: Vocabulary,
    course: Course,
) -> None:
    """Trains, and leaves the model in `run.file`."""
    config = run.config
    course.take_up(run.seed)
    batches = encoding.Batches(questions, vocabulary, config, run.seed)
    model = _beginning(run, vocabulary, batches.num_batches * config.epochs)
    print(
        f"{run.name}: a width of {config.width}, {model.count_params():,} weights; "
        f"{batches.num_batches:,} batches an epoch"
    )
    watch = Watch(run, looked_at, vocabulary, course.records)
    callbacks = [encoding.EpochByEpoch(batches), watch]
    at = rebuilt_after(run)
    course.fit(model, batches, config.epochs, callbacks, pruning_of(run), at)


def scores(
    model: keras.Model, questions: Sequence[Encoded], vocabulary: Vocabulary, run: Run
) -> dict[str, Any]:
    """Exact match and F1, in per cent of the questions."""
    logits = encoding.logits_of(model, questions, vocabulary, run.config)
    _, answers = encoding.answers_of(questions, logits, run.config, run.unanswerable)
    return mean_scores(questions, answers)


def mean_scores(questions: Sequence[Encoded], answers: Sequence[str]) -> dict[str, Any]:
    """Exact match and F1 of answers, in per cent of the questions."""
    asked = [one.question for one in questions]
    matches, overlaps = squad.scores(asked, answers)
    return {
        "em": float(np.mean(matches)),
        "f1": float(np.mean(overlaps)),
        "questions": len(questions),
    }


def sizes(model: keras.Model) -> dict[str, Any]:
    """Units and weights.

    Weights are told without those of the table of words, too: as the papers count them
    with vectors that are given.
    """
    table = model.get_layer("words").count_params()
    return {
        "units": models.units_of(model),
        "contextual_units": models.sizes_of(model)[CONTEXTUAL],
        "parameters": model.count_params(),
        "without_words": model.count_params() - table,
    }


def rebuilt_after(run: Run) -> list[int]:
    """Epochs after which the model is rebuilt smaller."""
    epochs = run.config.epochs
    shares = (0.35, 0.6) if run.method == "scheduled" else (2 / 3,)
    return epochs_at(shares, epochs)


def pruning_of(run: Run) -> Any:
    """The callback that removes units, if the method has one."""
    ignore = () if run.contextual else (CONTEXTUAL,)
    if run.method == "scheduled":
        return ksr.ISSPruning(keep=run.keep, ignore=ignore)
    if run.method in ("lasso", "proximal"):
        # What the lasso makes zero goes; it pulls until the last third.
        return ksr.ISSPruning(end=2 / 3, ignore=ignore)
    return None


def _beginning(run: Run, vocabulary: Vocabulary, steps: int) -> keras.Model:
    """The model that training begins with, compiled."""
    config = run.config
    regularizers: dict[str, Any] = {}
    if run.method in ("lasso", "proximal"):
        assert run.strength is not None
        paper = run.method == "lasso"
        for name in (CONTEXTUAL, *PRUNED) if run.contextual else PRUNED:
            regularizers[name] = ksr.ISSRegularizer(
                run.strength,
                form="paper" if paper else "proximal",
                scale_by_size=not paper,
                threshold=THRESHOLD,
            )
    if run.start is None:
        try:
            model = models.build(
                config,
                len(vocabulary.words),
                len(vocabulary.characters),
                vocabulary.vectors,
                regularizers,
            )
        except ValueError as error:
            raise SystemExit(
                f"{run.name}: there is no model of these sizes. {error}"
            ) from error
    else:
        try:
            start = keras.models.load_model(run.start, compile=False)
        except ValueError as error:
            raise SystemExit(f"--start {run.start}: {error}") from error
        model = models.again(start, config.dropout, regularizers)
    if vocabulary.vectors is None and config.density is not None:
        ksr.check_order(vocabulary.counts, reserved=len(encoding.RESERVED))
    return compiled(model, config, steps, pulled=bool(regularizers))


def compiled(
    model: keras.Model, config: Configuration, steps: int, pulled: bool = False
) -> keras.Model:
    """Compiled with Adam, and with averages of the weights.

    Args:
        model: The model.
        config: How it is trained.
        steps: How many training steps there will be.
        pulled: Whether it has regularizers, which are bound later.
    """
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # The paper's 0.999 remembers a tenth of its 10,000 steps; it would remember what
    # came before any training if there were but a thousand.
    average = min(config.average, max(0.0, 1 - 10 / steps))
    model.compile(
        keras.optimizers.Adam(config.rate, use_ema=True, ema_momentum=average),
        [loss, loss],
        # On a CPU it takes long to compile each length, and is no faster.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    # TensorFlow would trace the step twice, once only to make these variables.
    model.optimizer.build(model.trainable_variables)
    if not pulled:
        model.compute_loss(y=[np.zeros(1)] * 2, y_pred=[np.zeros((1, 2))] * 2)
        model.reset_metrics()
    return model


@contextmanager
def averages_in(model: keras.Model) -> Iterator[None]:
    """The model has the averages of its weights in this block."""
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    try:
        yield
    finally:
        swap.on_test_end()


class Watch(keras.callbacks.Callback):
    """Answers the questions to look at after each epoch, and writes it down.

    Args:
        run: Which run.
        questions: The questions; there may be none.
        vocabulary: Their words.
        records: Where to.
    """

    def __init__(
        self,
        run: Run,
        questions: Sequence[Encoded],
        vocabulary: Vocabulary,
        records: Records,
    ):
        super().__init__()
        self.run, self.questions = run, questions
        self.vocabulary, self.records = vocabulary, records
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begins to count the seconds."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Answers, and writes a line."""
        seconds = time.perf_counter() - self._began
        logs = logs or {}
        model: Any = self.model
        found: dict[str, Any] = {}
        if self.questions:
            with averages_in(model):
                own = scores(model, self.questions, self.vocabulary, self.run)
            found = {"valid_em": own["em"], "valid_f1": own["f1"]}
        self.records.add(
            epoch=epoch + 1,
            **found,
            train_loss=float(logs["loss"]),
            seconds=seconds,
            units=models.units_of(model),
            parameters=logs.get("parameters_left", model.count_params()),
            units_left=logs.get("units_left"),
        )
        told = "".join(f", {name} {value:.1f}" for name, value in found.items())
        print(
            f"{self.run.name}, epoch {epoch + 1}: {seconds:.0f} s, loss "
            f"{logs['loss']:.3f}{told}, units {models.units_of(model)}"
            + (f", {logs['units_left']} left" if "units_left" in logs else ""),
            flush=True,
        )


def changed(name: str, **changes: Any) -> Configuration:
    """A named configuration, with what was changed of it."""
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(CONFIGURATIONS[name], **given)
