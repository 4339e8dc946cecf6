"""Texts as numbers: where they come from, and words by how frequent they are."""

import collections
import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

END, UNKNOWN = "<eos>", "<unk>"
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Text:
    """A text in three parts, as ids.

    Attributes:
        train: What is learned.
        valid: What is looked at while learning.
        test: What is reported.
        vocabulary: The words, the most frequent first.
        counts: How often each occurs in training.
        source: Where it came from.
        hash: Of all its words.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: list[str]
    counts: np.ndarray
    source: str
    hash: str

    @property
    def end(self) -> int:
        """The id of what ends a line."""
        return self.vocabulary.index(END)


def read(
    path: Path | None, data: str | None, most_words: int, most: int | None = None
) -> Text:
    """The text of a path, of a tensorflow-datasets name, or of Python's documentation.

    Args:
        path: A folder with three files whose names hold "train", "valid" and "test", or
            one file, of which a twentieth each is for validation and test.
        data: A tensorflow-datasets name with a text feature.
        most_words: Size of the largest vocabulary.
        most: Words of the training part to use; all by default.
    """
    if path is not None:
        parts, source = of_path(path), path.name
    elif data is not None:
        parts, source = of_dataset(data, most), data
    else:
        parts, source = of_python(), "documentation of Python"
    return as_ids(parts, source, most_words, most)


def of_path(path: Path) -> dict[str, list[str]]:
    """Words, with `END` for the end of each line."""
    if not path.is_dir():
        return cut(lines_of(path))
    found = {}
    for part in PARTS:
        files = sorted(one for one in path.iterdir() if part in one.name)
        if len(files) != 1:
            raise SystemExit(
                f"--text {path}: a folder must have one file with '{part}' in its "
                f"name, as in 'ptb.{part}.txt'. It has {[one.name for one in files]}."
            )
        found[part] = flat(lines_of(files[0]))
    return found


def of_dataset(name: str, most: int | None) -> dict[str, list[str]]:
    """Words of the text feature of a tensorflow-datasets data set.

    Of a large one give `most`: it is read no further than that.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise SystemExit(
            "--data needs tensorflow-datasets: pip install keras-sparse-rnn[datasets]"
        ) from error
    builder = tfds.builder(name)
    builder.download_and_prepare()
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise SystemExit(f"--data {name}: it has no split 'train', only {splits}.")

    def lines_in(split: str) -> list[list[str]]:
        lines: list[list[str]] = []
        words = 0
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            if "text" not in example:
                raise SystemExit(
                    f"--data {name}: its examples have no feature 'text', only "
                    f"{sorted(example)}."
                )
            for line in example["text"].decode("utf-8").splitlines():
                # The same word is the same object: else they are most of the memory.
                found = [sys.intern(word) for word in line.split()]
                if found:
                    lines.append(found)
                    words += len(found) + 1
            if most is not None and words > 1.2 * most:
                break
        return lines

    train = lines_in("train")
    valid = next((one for one in ("validation", "valid") if one in splits), None)
    if valid and "test" in splits:
        return {
            "train": flat(train),
            "valid": flat(lines_in(valid)),
            "test": flat(lines_in("test")),
        }
    # lm1b has no part for validation, others have training only.
    found = cut(train)
    if "test" in splits:
        found["test"] = flat(lines_in("test"))
    return found


def of_python() -> dict[str, list[str]]:
    """The topics of Python's own `help()`, lower case; a repeated line counts once.

    It repeats itself, and what is held out must not be trained on as well.
    """
    from pydoc_data.topics import topics

    seen = set()
    lines = []
    for name in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = re.findall(r"\w+|[^\w\s]", paragraph.lower())
            if words and tuple(words) not in seen:
                seen.add(tuple(words))
                lines.append(words)
    return cut(lines)


def lines_of(path: Path) -> list[list[str]]:
    """The words of each line of a file that has any."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"--text {path}: {error}") from error
    return [line.split() for line in text.splitlines() if line.strip()]


def cut(lines: Sequence[list[str]]) -> dict[str, list[str]]:
    """A twentieth each from the end for validation and for test."""
    held = max(1, len(lines) // 20)
    if len(lines) < 3:
        raise SystemExit(f"The text has {len(lines)} lines; it needs three or more.")
    return {
        "train": flat(lines[: -2 * held]),
        "valid": flat(lines[-2 * held : -held]),
        "test": flat(lines[-held:]),
    }


def flat(lines: Iterable[list[str]]) -> list[str]:
    """All words, with `END` behind those of each line."""
    return [word for line in lines for word in (*line, END)]


def as_ids(
    parts: dict[str, list[str]], source: str, most_words: int, most: int | None
) -> Text:
    """Words numbered by how frequent they are in training; rare ones are unknown."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(" ".join(parts[part]).encode() + b"\n")
    for part in PARTS:
        if not parts[part]:
            raise SystemExit(f"{source}: its part '{part}' has no words.")
    train = parts["train"][:most]
    seen = collections.Counter(train)
    # Whatever is rare, a line ends; and words that training has not are unknown, as
    # are the rarest.
    lacks = any(word not in seen for part in PARTS for word in parts[part])
    special = {END, UNKNOWN} if lacks or len(seen) > most_words else {END}
    common = [word for word, _ in seen.most_common() if word not in special]
    kept = {word: seen[word] for word in common[: most_words - len(special)]}
    kept[END] = seen[END]
    if UNKNOWN in special:
        kept[UNKNOWN] = len(train) - sum(kept.values())
    vocabulary = sorted(kept, key=lambda word: -kept[word])
    index = {word: number for number, word in enumerate(vocabulary)}
    unknown = index.get(UNKNOWN, 0)

    def ids(words: Sequence[str]) -> np.ndarray:
        return np.array([index.get(word, unknown) for word in words], "int32")

    return Text(
        train=ids(train),
        valid=ids(parts["valid"]),
        test=ids(parts["test"]),
        vocabulary=vocabulary,
        counts=np.array([kept[word] for word in vocabulary]),
        source=source,
        hash=digest.hexdigest()[:16],
    )
