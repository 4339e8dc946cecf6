"""Tags for the words of a sentence, with short vectors for rare words.

The tagger of "Predefined Sparseness in Recurrent Sequence Models" (CoNLL 2018, section
4.2): an embedding of 20 features, a bidirectional LSTM of 10 + 10 units, two dense
layers. Almost all of its weights are in the embedding, so it asks the paper's two
questions of that: how short can vectors be on average, all alike or by how frequent a
word is (figure 3), and does it matter that the frequent words have the long ones
(table 3)?

    python examples/pos_tagging.py
    python examples/pos_tagging.py --data universal_dependencies/en_ewt
    python examples/pos_tagging.py --files train.tsv dev.tsv test.tsv --tags 2
    python examples/pos_tagging.py --study --seeds 1 2 3     # both questions; hours

With no data it learns what each name in the source of Python's standard library is: a
function, a class, an argument, an attribute, a module, a variable, and so on. Files
hold a token and its tags on each line, separated by tabs, and an empty line after each
sentence; --tags is the column to learn. Names of data sets are those of
tensorflow-datasets. It runs on TensorFlow, of which it needs tf.data and the export, so
KERAS_BACKEND must be unset or "tensorflow".
"""

import argparse
import ast
import builtins
import collections
import datetime
import hashlib
import io
import json
import keyword
import os
import platform
import re
import sysconfig
import time
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_sparse_rnn as ksr

WIDTH = 20
PADDING, UNKNOWN = 0, 1
RESERVED = 2
# Of figure 3, and the densities of table 3.
LENGTHS = (2, 3, 4, 5, 10, 20)
DENSITIES = (0.25, 0.1)
ORDERS = ("frequent first", "in no order", "rare first")

Sentence = list[tuple[str, str]]


# Data ---------------------------------------------------------------------------------


def of_file(path: Path, column: int) -> list[Sentence]:
    """Sentences of a file with a token on each line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--files {path}: {error}") from error
    sentences: list[Sentence] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            sentences.append([])
            continue
        cells = line.split("\t")
        if not 0 < column < len(cells):
            raise SystemExit(
                f"--files {path}: line {number} has {len(cells)} columns, and --tags "
                f"{column} is none behind the token: {line!r}"
            )
        sentences[-1].append((cells[0], cells[column]))
    return [sentence for sentence in sentences if sentence]


def of_dataset(name: str) -> dict[str, list[Sentence]]:
    """Sentences of a tensorflow-datasets data set of Universal Dependencies."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise SystemExit(
            "--data needs tensorflow-datasets: pip install keras-sparse-rnn[datasets]"
        ) from error
    found = {}
    for ours, theirs in (("train", "train"), ("dev", "dev"), ("test", "test")):
        sentences = []
        for example in tfds.as_numpy(tfds.load(name, split=theirs)):
            if "tokens" not in example or "xpos" not in example:
                raise SystemExit(
                    f"--data {name}: its examples have no features 'tokens' and "
                    f"'xpos', only {sorted(example)}."
                )
            words = [word.decode() for word in example["tokens"]]
            tags = [tag.decode() for tag in example["xpos"]]
            sentences.append(list(zip(words, tags, strict=True)))
        found[ours] = sentences
    return found


def of_python() -> dict[str, list[Sentence]]:
    """Logical lines of Python's standard library; every tenth file is for tests."""
    folder = Path(sysconfig.get_path("stdlib"))
    found: dict[str, list[Sentence]] = {"train": [], "dev": [], "test": []}
    paths = sorted(folder.glob("*.py"))
    for number, path in enumerate(paths):
        part = {0: "test", 5: "dev"}.get(number % 10, "train")
        found[part] += lines_of_source(path.read_text(encoding="utf-8"))
    return found


def lines_of_source(source: str) -> list[Sentence]:
    """The tokens of each logical line, with the role of each."""
    roles = roles_of(ast.parse(source), source.splitlines())
    lines: list[Sentence] = [[]]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            lines.append([])
        elif token.type == tokenize.NAME:
            role = roles.get((*token.start, token.string))
            if role is None:
                # What the tree gives no place of: words of the language, and names
                # that a statement binds in passing.
                soft = keyword.issoftkeyword(token.string)
                of_language = soft or keyword.iskeyword(token.string)
                role = "keyword" if of_language else "variable"
            lines[-1].append((token.string, role))
        elif token.type == tokenize.OP:
            lines[-1].append((token.string, "operator"))
        elif token.type == tokenize.NUMBER:
            lines[-1].append(("<number>", "number"))
        elif token.type == tokenize.STRING:
            lines[-1].append(("<string>", "string"))
    return [line for line in lines if any(role != "operator" for _, role in line)]


def roles_of(tree: ast.AST, lines: Sequence[str]) -> dict[tuple[int, int, str], str]:
    """What the name at each place is, by line, column and name."""
    found: dict[tuple[int, int, str], str] = {}

    def note(line: int, column: int, name: str, role: str) -> None:
        # The tree counts bytes, tokens count characters.
        before = lines[line - 1].encode()[:column].decode()
        found[line, len(before), name] = role

    def behind(node: ast.AST, words: str) -> int:
        """Where the name begins that follows words at the beginning of a node."""
        text = lines[node.lineno - 1].encode()[node.col_offset :].decode()
        match = re.match(words.replace(" ", r"\s+"), text)
        return node.col_offset + (len(match.group().encode()) if match else 0)

    def dotted(line: int, column: int, name: str) -> None:
        for part in name.split("."):
            note(line, column, part, "module")
            column += len(part.encode()) + 1

    builtin = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            word = "def " if isinstance(node, ast.FunctionDef) else "async def "
            note(node.lineno, behind(node, word), node.name, "function")
        elif isinstance(node, ast.ClassDef):
            note(node.lineno, behind(node, "class "), node.name, "class")
        elif isinstance(node, ast.arg):
            note(node.lineno, node.col_offset, node.arg, "argument")
        elif isinstance(node, ast.keyword) and node.arg:
            note(node.lineno, node.col_offset, node.arg, "keyword argument")
        elif isinstance(node, ast.Attribute) and node.end_col_offset is not None:
            column = node.end_col_offset - len(node.attr.encode())
            note(node.end_lineno or 0, column, node.attr, "attribute")
        elif isinstance(node, ast.Name):
            role = "builtin" if node.id in builtin else "variable"
            if isinstance(node.ctx, ast.Store):
                role = "assigned variable"
            note(node.lineno, node.col_offset, node.id, role)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                dotted(alias.lineno, alias.col_offset, alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                dotted(node.lineno, behind(node, "from "), node.module)
            for alias in node.names:
                note(alias.lineno, alias.col_offset, alias.name, "imported name")
        if isinstance(node, ast.alias) and node.asname and node.end_col_offset:
            column = node.end_col_offset - len(node.asname.encode())
            note(node.end_lineno or 0, column, node.asname, "imported as")
    return found


@dataclass(frozen=True)
class Corpus:
    """Sentences as numbers.

    Attributes:
        words: For each part the ids of each sentence, `UNKNOWN` for words that the
            training part has not.
        tags: For each part the tags of each sentence.
        counts: How often each id occurs in training.
        names: The tags' names.
    """

    words: dict[str, list[np.ndarray]]
    tags: dict[str, list[np.ndarray]]
    counts: np.ndarray
    names: list[str]


def corpus(parts: dict[str, list[Sentence]], order: str, seed: int) -> Corpus:
    """Words numbered in one of `ORDERS`."""
    seen = collections.Counter(w for s in parts["train"] for w, _ in s)
    words = [word for word, _ in seen.most_common()]
    if order == "rare first":
        words.reverse()
    elif order == "in no order":
        np.random.default_rng(seed).shuffle(words)
    index = {word: number for number, word in enumerate(words, RESERVED)}
    names = sorted({tag for s in parts["train"] for _, tag in s})
    tag_index = {name: number for number, name in enumerate(names)}
    ids, tags = {}, {}
    for part, sentences in parts.items():
        ids[part] = [
            np.array([index.get(word, UNKNOWN) for word, _ in s], "int32")
            for s in sentences
        ]
        # A tag that training has not is never right.
        tags[part] = [
            np.array([tag_index.get(tag, -1) for _, tag in s], "int32")
            for s in sentences
        ]
    counts = np.array([0, 0, *(seen[word] for word in words)])
    return Corpus(ids, tags, counts, names)


class Batches:
    """Sentences of about the same length together, padded to the longest.

    A word that occurs once in training is unknown every other time, so that there is a
    vector for words that were never seen.
    """

    def __init__(self, data: Corpus, part: str, size: int, seed: int = 0):
        self.data, self.part, self.size = data, part, size
        self.random = np.random.default_rng(seed)
        self.once = data.counts == 1
        self.training = part == "train"
        self.count = -(-len(data.words[part]) // size)

    def order(self) -> list[np.ndarray]:
        """The sentences of each batch, by number."""
        lengths = np.array([len(one) for one in self.data.words[self.part]])
        noise = self.random.random(len(lengths)) if self.training else 0
        order = np.argsort(lengths + noise, kind="stable")
        found = [order[k : k + self.size] for k in range(0, len(order), self.size)]
        if self.training:
            self.random.shuffle(found)
        return found

    def arrays(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids, tags, and which of them count, for one batch."""
        longest = max(len(self.data.words[self.part][k]) for k in chosen)
        x = np.full((len(chosen), longest), PADDING, "int32")
        y = np.zeros((len(chosen), longest), "int32")
        weight = np.zeros((len(chosen), longest), "float32")
        for row, k in enumerate(chosen):
            ids, tags = self.data.words[self.part][k], self.data.tags[self.part][k]
            if self.training:
                lost = self.once[ids] & (self.random.random(len(ids)) < 0.5)
                ids = np.where(lost, UNKNOWN, ids)
            x[row, : len(ids)] = ids
            y[row, : len(ids)] = np.maximum(tags, 0)
            weight[row, : len(ids)] = tags >= 0
        return x, y, weight

    def dataset(self) -> Any:
        """All batches as a `tf.data.Dataset`, in another order in each epoch."""
        import tensorflow as tf

        signature = tuple(
            tf.TensorSpec((None, None), dtype)
            for dtype in ("int32", "int32", "float32")
        )
        batches = tf.data.Dataset.from_generator(
            lambda: map(self.arrays, self.order()), output_signature=signature
        )
        counted = tf.data.experimental.assert_cardinality(self.count)
        return batches.apply(counted).prefetch(2)


# The tagger ---------------------------------------------------------------------------


def tagger(
    data: Corpus, length: float, short: bool, args: argparse.Namespace
) -> keras.Model:
    """The paper's model.

    Args:
        data: What it is for.
        length: How long vectors are on average.
        short: Whether those of rare words are shorter; else all are alike.
        args: Settings.
    """
    words = len(data.counts)
    options = {
        "mask_zero": True,
        "word_dropout": args.word_dropout,
        "dropout": args.dropout,
        "name": "words",
    }
    if short:
        # A block for each feature, as in the paper: the shortest vectors are of one.
        table = ksr.TieredEmbedding(words, WIDTH, length / WIDTH, WIDTH, **options)
    else:
        # One block of all words: a dense table.
        table = ksr.TieredEmbedding(words, int(length), 1, 1, **options)
    recurrent = (
        ksr.GroupedLSTM(args.units, args.groups, return_sequences=True)
        if args.groups > 1
        else keras.layers.LSTM(args.units, return_sequences=True)
    )
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="ids"),
            table,
            keras.layers.Bidirectional(recurrent),
            keras.layers.Dense(WIDTH, "tanh"),
            keras.layers.Dense(len(data.names), name="tags"),
        ]
    )


def train(
    model: keras.Model, data: Corpus, args: argparse.Namespace, seed: int
) -> list[float]:
    """Trains a model, slower and slower; the loss after each epoch."""
    batches = Batches(data, "train", args.batch, seed)
    rate = keras.optimizers.schedules.CosineDecay(
        args.learning_rate, args.epochs * batches.count
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    history = model.fit(
        batches.dataset(), epochs=args.epochs, shuffle=False, verbose=args.verbose
    )
    return history.history["loss"]


def tags_of(model: keras.Model, data: Corpus, part: str) -> list[np.ndarray]:
    """The tag of each word, by the model, sentence by sentence."""
    import tensorflow as tf

    batches = Batches(data, part, 64)
    any_shape = [tf.TensorSpec((None, None), "int32")]
    call = tf.function(lambda x: model(x, training=False), input_signature=any_shape)
    found: list[Any] = [None] * len(data.words[part])
    for chosen in batches.order():
        x, _, _ = batches.arrays(chosen)
        best = np.argmax(call(x), -1)
        for row, k in enumerate(chosen):
            found[k] = best[row, : len(data.words[part][k])]
    return found


def share_alike(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The share of all words that have the same tag."""
    same = sum(int((a == b).sum()) for a, b in zip(one, other, strict=True))
    return same / sum(map(len, one))


def of_the_file(path: Path, data: Corpus, part: str) -> list[np.ndarray]:
    """The tags of an exported file, one sentence after the other."""
    run = ksr.TFLiteModel(path)
    return [np.argmax(run(ids[None]), -1)[0] for ids in data.words[part]]


# What is asked of it ------------------------------------------------------------------


def shipped(
    model: keras.Model, data: Corpus, folder: Path, name: str
) -> list[dict[str, Any]]:
    """Exports a tagger and lets the files tag the test part."""
    keras_tags = tags_of(model, data, "test")
    accuracy = share_alike(data.tags["test"], keras_tags)
    found = []
    for kind, quantize in (("float32", None), ("int8", "dynamic")):
        path = folder / f"{name}_{kind}.tflite"
        report = ksr.export_tflite(model, path, quantize=quantize)
        tags = of_the_file(path, data, "test")
        found.append(
            {
                "name": f"{name} {kind}",
                "parameters": model.count_params(),
                "embedding": model.get_layer("words").count_params(),
                "bytes": report.bytes,
                "keras_accuracy": accuracy,
                "accuracy": share_alike(data.tags["test"], tags),
                "same_as_keras": share_alike(keras_tags, tags),
                "operators": list(report.operators),
            }
        )
    return found


def both(args: argparse.Namespace, parts: dict[str, list[Sentence]]) -> dict[str, Any]:
    """A dense and a tiered tagger, trained and exported."""
    data = corpus(parts, ORDERS[0], args.seeds[0])
    rows = []
    for name, length, short in (
        ("dense", WIDTH, False),
        ("tiered", args.density * WIDTH, True),
    ):
        print(f"\nTraining with {name} vectors", flush=True)
        keras.utils.set_random_seed(args.seeds[0])
        model = tagger(data, length, short, args)
        train(model, data, args, args.seeds[0])
        rows += shipped(model, data, args.out, name)
    print(
        f"\n{'':16}{'parameters':>12}{'embedding':>12}{'kB':>8}"
        f"{'accuracy':>10}{'same as Keras':>15}"
    )
    for row in rows:
        print(
            f"{row['name']:16}{row['parameters']:>12,}{row['embedding']:>12,}"
            f"{row['bytes'] / 1000:>8,.0f}{100 * row['accuracy']:>9.2f}%"
            f"{100 * row['same_as_keras']:>14.2f}%"
        )
    for plain, small in zip(rows[::2], rows[1::2], strict=True):
        if small["bytes"] == plain["bytes"]:
            print(
                f"'{small['name']}' is as large as '{plain['name']}': blocks of fewer "
                "than 1,024 weights stay float."
            )
    return {"files": rows}


def study(args: argparse.Namespace, parts: dict[str, list[Sentence]]) -> None:
    """Figure 3 and table 3, on this data."""
    path = args.out / "study.json"
    found: dict[str, Any] = {}
    if path.exists():
        # What an interrupted study has done is not done again.
        before = json.loads(path.read_text())
        if before["settings"] != facts(args, parts)["settings"]:
            raise SystemExit(
                f"{path} holds runs with other settings or other data: "
                f"{before['settings']}. Give this study another --out."
            )
        found = before["runs"]
    plans: list[tuple[str, str, float, bool]] = []
    for length in LENGTHS:
        plans.append((f"dense, {length}", ORDERS[0], length, False))
        if length < WIDTH:
            plans.append((f"tiered, {length}", ORDERS[0], length, True))
    for density in DENSITIES:
        for order in ORDERS:
            name = f"tiered, {density * WIDTH:g}"
            if order != ORDERS[0]:
                name += f", {order}"
            plans.append((name, order, density * WIDTH, True))
    plans = list({plan[0]: plan for plan in plans}.values())
    for seed in args.seeds:
        for name, order, length, short in plans:
            key = f"{name}, seed {seed}"
            if key in found:
                continue
            data = corpus(parts, order, seed)
            keras.backend.clear_session()
            keras.utils.set_random_seed(seed)
            begin = time.perf_counter()
            model = tagger(data, length, short, args)
            loss = train(model, data, args, seed)
            found[key] = {
                "accuracy": share_alike(
                    data.tags["test"], tags_of(model, data, "test")
                ),
                "parameters": model.count_params(),
                "loss": loss[-1],
                "seconds": time.perf_counter() - begin,
            }
            print(f"{key}: {100 * found[key]['accuracy']:.2f} %", flush=True)
            save(path, {**facts(args, parts), "runs": found})
    draw(args.out / "lengths.png", found, args.seeds)
    print("\n".join(tables(found, args.seeds)))


def over_seeds(found: dict[str, Any], name: str, seeds: Sequence[int]) -> np.ndarray:
    """The accuracy in per cent, for each seed."""
    return np.array([100 * found[f"{name}, seed {seed}"]["accuracy"] for seed in seeds])


def told(accuracies: np.ndarray) -> str:
    spread = f" ± {accuracies.std(ddof=1):.2f}" if len(accuracies) > 1 else ""
    return f"{accuracies.mean():.2f}{spread}"


def tables(found: dict[str, Any], seeds: Sequence[int]) -> list[str]:
    """Both questions, answered in Markdown."""
    lines = ["", "| average length | all alike | long for frequent words |"]
    lines.append("|--:|--:|--:|")
    for length in LENGTHS:
        cells = [told(over_seeds(found, f"dense, {length}", seeds))]
        cells.append(
            told(over_seeds(found, f"tiered, {length}", seeds))
            if length < WIDTH
            else ""
        )
        lines.append(f"| {length} | {' | '.join(cells)} |")
    lines += ["", f"| density | {' | '.join(ORDERS)} |", "|--:|--:|--:|--:|"]
    for density in DENSITIES:
        cells = []
        for order in ORDERS:
            name = f"tiered, {density * WIDTH:g}"
            name += "" if order == ORDERS[0] else f", {order}"
            cells.append(told(over_seeds(found, name, seeds)))
        lines.append(f"| {density:g} | {' | '.join(cells)} |")
    lines += ["", f"Test accuracy in per cent, mean ± deviation of seeds {seeds}."]
    return lines


def draw(path: Path, found: dict[str, Any], seeds: Sequence[int]) -> None:
    """Accuracy against the average length of vectors, as figure 3."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, label, color in (
        ("dense", "all alike", "#d95f02"),
        ("tiered", f"long for frequent words, at most {WIDTH}", "#1b9e77"),
    ):
        lengths = [n for n in LENGTHS if kind == "dense" or n < WIDTH]
        values = [over_seeds(found, f"{kind}, {n}", seeds) for n in lengths]
        axes.errorbar(
            lengths,
            [one.mean() for one in values],
            [one.std(ddof=1) if len(one) > 1 else 0 for one in values],
            label=label,
            color=color,
            marker="o",
            capsize=4,
        )
    axes.set_xlabel("average length of a word's vector")
    axes.set_ylabel("test accuracy, %")
    axes.set_xticks(LENGTHS)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def facts(args: argparse.Namespace, parts: dict[str, list[Sentence]]) -> dict[str, Any]:
    """Where and with what something was measured."""
    unimportant = ("data", "files", "out", "seeds", "study", "verbose")
    settings = {k: v for k, v in vars(args).items() if k not in unimportant}
    settings["data"] = args.data or f"Python {platform.python_version()}"
    if args.files:
        settings["data"] = " ".join(path.name for path in args.files)
    settings["hash"] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    return {
        "settings": settings,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": str(datetime.date.today()),
        "keras": f"{keras.__version__} on {keras.backend.backend()}",
    }


def save(path: Path, results: dict[str, Any]) -> None:
    """Writes beside and renames, so that a file is never half."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    beside.replace(path)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", help="a tensorflow-datasets name")
    source.add_argument("--files", type=Path, nargs=3, metavar=("TRAIN", "DEV", "TEST"))
    parser.add_argument("--tags", type=int, default=1, help="column of the tags")
    parser.add_argument("--study", action="store_true", help="the paper's questions")
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--units", type=int, default=10, help="in each direction")
    parser.add_argument("--groups", type=int, default=1, help="of the LSTMs")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--word-dropout", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--most", type=int, help="sentences of each part")
    parser.add_argument("--verbose", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("saved_models/pos_tagging"))
    args = parser.parse_args(argv)
    least = {"epochs": 1, "batch": 1, "units": 1, "groups": 1, "tags": 1, "most": 1}
    for name, bound in least.items():
        value = getattr(args, name)
        if value is not None and value < bound:
            parser.error(f"--{name} must be at least {bound}, not {value}")
    if not 1 / WIDTH <= args.density <= 1:
        parser.error(
            f"--density must lie between {1 / WIDTH:g}, one of {WIDTH} features for "
            f"each word, and 1, not {args.density:g}"
        )
    if args.groups > args.units:
        parser.error(f"{args.units} units can't be in {args.groups} --groups")
    for name in ("word_dropout", "dropout"):
        if not 0 <= getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must lie in [0, 1)")
    return args


def main() -> None:
    args = arguments()
    if keras.backend.backend() != "tensorflow":
        raise SystemExit(
            "This example needs Keras on TensorFlow, for tf.data and the export, but "
            f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow."
        )
    args.out.mkdir(parents=True, exist_ok=True)
    if args.files:
        names = ("train", "dev", "test")
        parts = {
            name: of_file(path, args.tags)
            for name, path in zip(names, args.files, strict=True)
        }
    else:
        parts = of_dataset(args.data) if args.data else of_python()
    parts = {name: sentences[: args.most] for name, sentences in parts.items()}
    for name, sentences in parts.items():
        print(
            f"{name}: {len(sentences):,} sentences, {sum(map(len, sentences)):,} words"
        )
    if args.study:
        study(args, parts)
    else:
        save(args.out / "files.json", {**facts(args, parts), **both(args, parts)})
    print(f"\nEverything is in {args.out}/.")


if __name__ == "__main__":
    main()
