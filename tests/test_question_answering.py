"""Question answering: SQuAD's rules, attention with masks, the paper's components."""

import importlib
import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_iss_graphs import masked

import keras_sparse_rnn as ksr
from keras_sparse_rnn.iss.trace import trace

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PARTS = (
    "configurations",
    "encoding",
    "models",
    "results",
    "runs",
    "shipping",
    "spans",
    "squad",
)


@pytest.fixture(scope="module")
def qa():
    """The script, with the modules of its package as attributes."""
    sys.path.insert(0, str(EXAMPLES))
    script = importlib.import_module("question_answering")
    for name in PARTS:
        setattr(script, name, importlib.import_module(f"answering.{name}"))
    for name in ("plans", "records"):
        setattr(script, name, importlib.import_module(f"experiments.{name}"))
    yield script
    sys.path.remove(str(EXAMPLES))
    for name in list(sys.modules):
        if name.split(".")[0] in ("question_answering", "answering", "experiments"):
            del sys.modules[name]


# Data ---------------------------------------------------------------------------------

NAMES = ("Ann", "Bob", "Eve", "Kim", "Max", "Zoë")
THINGS = ("apple", "book", "car", "drum")


def article(title, rows):
    """Passages that say who has what, with questions; the last one has no answer."""
    paragraphs = []
    for number in range(rows):
        who = [NAMES[(number + k) % len(NAMES)] for k in range(4)]
        facts = [f"{one} has an {it}." for one, it in zip(who, THINGS, strict=True)]
        passage = " ".join(facts[: 2 + number % 3])
        asked = []
        for one, it in zip(who, THINGS, strict=True):
            begin = passage.find(f"{one} has")
            found = [{"text": one, "answer_start": begin}]
            asked.append(
                {
                    "id": f"{title}{number}{it}",
                    "question": f"Who has an {it}?",
                    "answers": found if begin >= 0 else [],
                    "is_impossible": begin < 0,
                }
            )
        paragraphs.append({"context": passage, "qas": asked})
    return {"title": title, "paragraphs": paragraphs}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "squad.json"
    articles = [article("One", 6), article("Two", 4)]
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return path


def answered(qa, file):
    """The questions of a file that have an answer."""
    return [one for one in qa.squad.of_file(file) if one.answers]


@pytest.mark.parametrize(
    ("given", "wanted", "match", "f1"),
    [
        ("The Normans", "normans", 1, 1),
        ("in  the 10th century!", "10th century", 0, 0.8),
        ("a cat", "cat, an", 1, 1),
        ("$1.50", "150", 1, 1),
        ("theatre", "the theatre", 1, 1),
        ("dog dog cat", "dog cat cat", 0, 2 / 3),
        ("red", "blue", 0, 0),
        ("", "", 1, 1),
        ("something", "", 0, 0),
        ("", "something", 0, 0),
        ("the", "", 1, 1),
    ],
)
def test_scores_are_those_of_squad(qa, given, wanted, match, f1):
    assert qa.squad.exact(given, wanted) == match
    assert qa.squad.overlap(given, wanted) == pytest.approx(f1)


def test_the_best_of_several_answers_counts(qa):
    Question = qa.squad.Question
    several = Question(
        "1", "t", "in the year 911 AD", "When?", (("911", 12), ("AD", 0))
    )
    none = Question("2", "t", "a passage", "Why?", ())
    matches, f1 = qa.squad.scores(
        [several, several, none, none], ["the AD", "x", "", "y"]
    )
    assert matches == [100, 0, 100, 0]
    assert f1 == [100, 0, 100, 0]
    _, (f1,) = qa.squad.scores([several], ["year 911"])
    assert f1 == pytest.approx(200 / 3)


def test_answers_are_tokens_of_the_passage(qa):
    passage = "“Zoë’s drum” — 1,000 of them (in 911) — is_loud; l'été."
    tokens = qa.squad.tokens_of(passage)
    assert [passage[one.begin : one.end] for one in tokens] == [t.text for t in tokens]
    assert "".join(one.text for one in tokens) == passage.replace(" ", "")
    for answer in ("Zoë", "1,000", "911", "Zoë’s drum", "is_loud", "été"):
        begin = passage.index(answer)
        first, last = qa.squad.span_of(tokens, begin, begin + len(answer))
        assert passage[tokens[first].begin : tokens[last].end] == answer
    # Part of a token gives the whole.
    begin = passage.index("loud")
    first, last = qa.squad.span_of(tokens, begin, begin + 2)
    assert (tokens[first].text, first) == ("is_loud", last)
    assert qa.squad.span_of(tokens, len(passage), len(passage) + 3) is None


def test_files_of_squad(qa, file):
    questions = qa.squad.of_file(file)
    assert len(questions) == 40
    assert {one.title for one in questions} == {"One", "Two"}
    config = qa.configurations.Configuration("own", width=2)
    kept = qa.encoding.encoded(answered(qa, file), config, none=False)
    assert len(kept) < 40
    for one in kept:
        assert one.text_of(*one.span) == one.question.answers[0][0]
    with pytest.raises(ValueError, match="has no answer, and none can be given"):
        qa.encoding.encoded(questions, config, none=False)
    # With a token that stands for no answer before each passage.
    scored = qa.encoding.encoded(questions, config, none=True)
    assert len(scored) == 40
    for one in scored:
        assert one.tokens[0].text == qa.squad.NO_ANSWER
        if one.question.answers:
            assert one.text_of(*one.span) == one.question.answers[0][0]
        else:
            assert one.span == (0, 0)
    # A space behind an answer is no part of it.
    one = replace(kept[0].question, answers=(("apple ", 11),))
    (spaced,) = qa.encoding.encoded([one], config, none=False)
    assert spaced.text_of(*spaced.span) == "apple"
    # What is not read can't be found, but counts.
    short = replace(config, context=5)
    short = qa.encoding.encoded(answered(qa, file), short, none=False)
    assert len(short) == len(kept)
    assert sum(one.span is None for one in short) > 0
    # Nor is it learned that an answer is where the passage says something else.
    one = replace(kept[0].question, answers=(("apple", 3),))
    (wrong,) = qa.encoding.encoded([one], config, none=False)
    assert wrong.span is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": None}, "a text is no string"),
        ({"context": 3}, "a text is no string"),
        ({"question": None}, "a text is no string"),
        ({"answers": [{"text": "Ann", "answer_start": "0"}]}, "an answer_start"),
        ({"answers": [{"text": None, "answer_start": 0}]}, "a text is no string"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(qa, tmp_path, change, message):
    one = article("One", 1)
    for part in (one, *one["paragraphs"], one["paragraphs"][0]["qas"][0]):
        part.update({name: change[name] for name in change if name in part})
    path = tmp_path / "squad.json"
    # As some editors write it.
    path.write_text(json.dumps({"data": [one]}), encoding="utf-8-sig")
    with pytest.raises(SystemExit, match=message):
        qa.squad.of_file(path)


def test_passages_have_words(qa, tmp_path):
    one = article("One", 2)
    one["paragraphs"].append({**article("", 1)["paragraphs"][0], "context": " \n"})
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [one]}))
    with pytest.raises(SystemExit, match="passage of question 0apple has no word"):
        qa.runs.data_of([path, path], None, None)
    # Nobody is asked about it.
    for asked in one["paragraphs"][-1]["qas"]:
        asked["is_impossible"] = True
    path.write_text(json.dumps({"data": [one]}))
    (data,) = qa.runs.data_of([path, path], None, None)
    assert len(data.test) == 5


def test_examples_of_tensorflow_datasets(qa):
    example = {
        "id": b"1",
        "title": b"t",
        "context": "Zoë has a drum.".encode(),
        "question": b"Who?",
        "answers": {
            "text": np.array(["Zoë".encode()], object),
            "answer_start": np.array([0], "int32"),
        },
    }
    found = qa.squad.of_example("squad/v1.1", example)
    assert found.answers == (("Zoë", 0),)
    assert found.passage == "Zoë has a drum."
    with pytest.raises(SystemExit, match="its examples need the features"):
        qa.squad.of_example("other", {"text": b""})


def test_python_asks_about_itself(qa):
    parts = qa.spans.of_python()
    assert len(parts["train"]) > 2000
    assert len(parts["test"]) > 300
    for part in parts.values():
        for one in part:
            for answer, begin in one.answers:
                assert one.passage[begin : begin + len(answer)] == answer
                assert qa.squad.normalized(answer)
            assert qa.spans.MISSING in one.text
            tokens = len(qa.squad.tokens_of(one.passage))
            assert qa.spans.PASSAGE[0] <= tokens <= qa.spans.PASSAGE[1]
        asked = [(one.passage, one.text) for one in part]
        assert len(set(asked)) == len(asked)
    for one, other in (("train", "test"), ("train", "valid"), ("valid", "test")):
        for what in ("title", "passage"):
            ours = {getattr(question, what) for question in parts[one]}
            assert not ours & {getattr(question, what) for question in parts[other]}


def test_a_sentence_asks_for_its_subject_and_for_names(qa):
    text = (
        'The first argument must be a string; then "str.join()" puts them together. '
        "It raises ValueError when there is nothing that could be joined at all. "
        "Some more words follow, so that the passage is as long as passages must be, "
        "and then it says very little for quite a while before it comes to an end."
    )
    questions = qa.spans.questions_of("t", [text, text, "x ::= y and so on."], set())
    asked = {one.answers[0][0]: one.text for one in questions}
    assert asked["The first argument"].startswith("what must be a string; then")
    assert 'then "what()" puts them together.' in asked["str.join"]
    assert asked["ValueError"].startswith("It raises what when")
    assert len(questions) == len(asked) == 3
    # All three stand word for word in the passage.
    assert [qa.spans.by_search(one) for one in questions] == list(asked)
    other = replace(questions[0], text="what is nowhere.")
    assert qa.spans.by_search(other) == ""


def test_one_article_is_held_out(qa, file):
    both = qa.runs.data_of([file], None, "all")
    assert [one.left_out for one in both] == ["One", "Two"]
    for one in both:
        assert {question.title for question in one.test} == {one.left_out}
        assert one.left_out not in {question.title for question in one.train}
    (own,) = qa.runs.data_of([file], None, "Two")
    assert own.test == both[1].test
    assert own.hash == both[0].hash == both[1].hash
    assert own.articles == 2
    with pytest.raises(SystemExit, match=r"one of \['One', 'Two'\]"):
        qa.runs.data_of([file], None, "Three")
    (given,) = qa.runs.data_of([file, file], None, None, unanswerable=True)
    assert len(given.train) == len(given.test) == 40
    (given,) = qa.runs.data_of([file, file], None, None)
    assert given.train == given.test == answered(qa, file)
    # An article without a question that has an answer can't be a test.
    none = article("None", 1)
    for asked in none["paragraphs"][0]["qas"]:
        asked["is_impossible"] = True
    more = [article("One", 6), article("Two", 4), none]
    file.write_text(json.dumps({"data": more}))
    found = qa.runs.data_of([file], None, "all")
    assert [one.left_out for one in found] == ["One", "Two"]
    assert len(qa.runs.data_of([file], None, "all", unanswerable=True)) == 3
    with pytest.raises(SystemExit, match=r"one of \['One', 'Two'\]"):
        qa.runs.data_of([file], None, "None")
    file.write_text(json.dumps({"data": [none]}))
    with pytest.raises(SystemExit, match="no question of its test has an answer"):
        qa.runs.data_of([file, file], None, None)
    file.write_text("{}")
    with pytest.raises(SystemExit, match="must be JSON with articles"):
        qa.runs.data_of([file], None, "all")


def test_words_and_vectors_of_a_file(qa, file, tmp_path):
    questions = qa.squad.of_file(file)
    vocabulary = qa.encoding.vocabulary_of(questions, 100)
    ksr.check_order(vocabulary.counts, reserved=2)
    assert len(vocabulary.counts) == len(vocabulary.words)
    ids = vocabulary.word_ids(["Who", "HAS", "never", qa.squad.NO_ANSWER])
    assert [vocabulary.words[k] for k in ids] == [
        "who",
        "has",
        "<unknown>",
        qa.squad.NO_ANSWER,
    ]
    spelled = vocabulary.character_ids(["car", "carpenter"], 5)
    assert [vocabulary.characters[k] for k in spelled[0]] == [
        *"car",
        *["<padding>"] * 2,
    ]
    np.testing.assert_array_equal(spelled[1][:3], spelled[0][:3])
    path = tmp_path / "vectors.txt"
    path.write_text("has 1 2 3\nunrelated 4 5 6\nann 7 8 9\n")
    given = qa.encoding.with_vectors(vocabulary, path, questions, 0)
    assert given.words[3:] == ["has", "ann"]
    np.testing.assert_array_equal(given.vectors[3:], [[1, 2, 3], [7, 8, 9]])
    assert given.characters == vocabulary.characters
    # Words with spaces, as in GloVe's largest file, are none of a text's.
    path.write_text("100 3\nhas 1 2 3\n. . . 4 5 6\nat an 4 5 6\nann 7 8 9\n")
    again = qa.encoding.with_vectors(vocabulary, path, questions, 0)
    np.testing.assert_array_equal(again.vectors, given.vectors)
    for text, message in (
        ("has 1 2 3\nann 7 8\n", "line 2 has 2 numbers"),
        ("has 1 2 3\nann 7 8 9 10\n", "line 2 has 4 numbers"),
        ("has\nann\n", "line 1 has 0 numbers"),
        ("has 1 nan 2\n", "line 1 has a number that is none"),
        ("unrelated 1 2\n", "none of the words"),
    ):
        path.write_text(text)
        with pytest.raises(SystemExit, match=message):
            qa.encoding.with_vectors(vocabulary, path, questions, 0)


@pytest.fixture
def small(qa):
    return qa.configurations.Configuration(
        "small enough for a test",
        width=6,
        character_width=3,
        height=2,
        word_length=5,
        context=40,
        question=8,
        batch=5,
        epochs=3,
        average=0.5,
        rate=1e-2,
    )


def test_batches_are_the_same_for_an_epoch(qa, file, small):
    questions = qa.encoding.encoded(answered(qa, file), small, none=False)
    vocabulary = qa.encoding.vocabulary_of(answered(qa, file), 100)
    batches = qa.encoding.Batches(questions, vocabulary, small, seed=1)

    def read():
        found = [batches[k] for k in range(batches.num_batches)]
        return [(x[0][row], y[0][row]) for x, y in found for row in range(len(x[0]))]

    first = read()
    assert len(first) == len(questions)
    batches.epoch = 1
    second = read()
    batches.epoch = 0
    again = read()
    same = [
        len(a[0]) == len(b[0]) and (a[0] == b[0]).all()
        for a, b in zip(first, again, strict=True)
    ]
    assert all(same)
    other = [
        len(a[0]) == len(b[0]) and (a[0] == b[0]).all()
        for a, b in zip(first, second, strict=True)
    ]
    assert not all(other)
    # Of whatever lengths the batches are, Keras must take them for open.
    for number in range(4):
        assert batches[0][0][number].shape[1] != batches[1][0][number].shape[1]


def test_the_best_span(qa):
    start = np.array([1.0, 5.0, 0.0, 3.0])
    end = np.array([9.0, 0.0, 1.0, 2.0])
    assert qa.encoding.best_span(start, end, 17, none=False) == (0, 0)
    start[0] = -9
    assert qa.encoding.best_span(start, end, 17, none=False) == (1, 3)
    assert qa.encoding.best_span(start, end, 2, none=False) == (1, 2)
    assert qa.encoding.best_span(start, end, 1, none=False) == (1, 1)
    # Nothing reaches from the token that stands for no answer into the passage.
    start, end = np.array([6.0, 5.0]), np.array([0.0, 5.0])
    assert qa.encoding.best_span(start, end, 17, none=False) == (0, 1)
    assert qa.encoding.best_span(start, end, 17, none=True) == (1, 1)
    assert qa.encoding.best_span(start + np.array([9, 0]), end, 17, none=True) == (0, 0)


# Model --------------------------------------------------------------------------------


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def test_attention_is_that_of_the_paper(qa):
    random = np.random.default_rng(0)
    h = random.normal(size=(2, 5, 4)).astype("float32")
    u = random.normal(size=(2, 3, 4)).astype("float32")
    there = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    asked = np.array([[1, 1, 0], [1, 1, 1]], bool)
    inputs = [keras.Input(one.shape[1:], dtype=one.dtype.name) for one in (h, u)]
    inputs += [keras.Input(one.shape[1:], dtype="bool") for one in (there, asked)]
    model = keras.Model(inputs, qa.models.attention_flow(*inputs))
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    got = ops.convert_to_numpy(model([h, u, there, asked]))
    kernel, bias = model.get_layer("attention_context").get_weights()
    (other,) = model.get_layer("attention_question").get_weights()
    (both,) = model.get_layer("attention_both").get_weights()
    w = np.concatenate([kernel[:, 0], other[:, 0], both])
    for b in range(2):
        t, j = there[b].sum(), asked[b].sum()
        own, theirs = h[b, :t], u[b, :j]
        similar = np.array(
            [[w @ np.concatenate([x, y, x * y]) for y in theirs] for x in own]
        )
        similar += bias
        a = softmax(similar, 1) @ theirs
        beside = softmax(similar.max(1), 0) @ own
        wanted = np.concatenate([own, a, own * a, own * beside], axis=1)
        np.testing.assert_allclose(got[b, :t], wanted, atol=1e-5)


def questions_of(qa, file, config, count=None):
    """Real questions, as a batch."""
    asked = answered(qa, file)
    vocabulary = qa.encoding.vocabulary_of(asked, 100)
    questions = qa.encoding.encoded(asked, config, none=False)[:count]
    x = qa.encoding.arrays_of(questions, vocabulary, config.word_length)
    return questions, vocabulary, x


def built(qa, config, vocabulary, **more):
    model = qa.models.build(
        config, len(vocabulary.words), len(vocabulary.characters), **more
    )
    random = np.random.default_rng(0)
    model.set_weights([random.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def lstm(x, layer):
    kernel, recurrent, bias = layer.get_weights()
    if layer.go_backwards:
        x = x[::-1]
    h = c = np.zeros(layer.units)
    found = []
    for one in x:
        i, f, new, o = np.split(one @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.array(found[::-1] if layer.go_backwards else found)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def forward(model, context, context_characters, question, question_characters):
    """BiDAF as the paper's text has it, for one question, in NumPy."""

    def weights(name):
        return model.get_layer(name).get_weights()

    def dense(name, x):
        kernel, *bias = weights(name)
        return x @ kernel + (bias[0] if bias else 0)

    def both_ways(name, x):
        layer = model.get_layer(name)
        sides = (layer.forward_layer, layer.backward_layer)
        return np.concatenate([lstm(x, side) for side in sides], axis=1)

    def embedded(words, characters):
        ((table,), (spelling,)) = weights("words"), weights("characters")
        kernel, bias = weights("filters")
        letters = spelling[characters]
        steps = letters.shape[1] - kernel.shape[1] + 1
        seen = [
            np.einsum("thc,hcf->tf", letters[:, k : k + kernel.shape[1]], kernel[0])
            for k in range(steps)
        ]
        spelled = np.maximum(np.array(seen) + bias, 0).max(axis=0)
        x = np.concatenate([spelled, table[words]], axis=1)
        for number in (1, 2):
            gate = sigmoid(dense(f"highway_{number}_gate", x))
            new = np.maximum(dense(f"highway_{number}", x), 0)
            x = gate * new + (1 - gate) * x
        return x

    h = both_ways("contextual", embedded(context, context_characters))
    u = both_ways("contextual", embedded(question, question_characters))
    (both,) = weights("attention_both")
    similar = dense("attention_context", h) + dense("attention_question", u).T
    similar = similar + (h * both) @ u.T
    asked = softmax(similar, 1) @ u
    told = softmax(similar.max(axis=1), 0) @ h
    p0 = np.concatenate([h, asked, h * asked, h * told], axis=1)
    g1 = both_ways("modelling_2", both_ways("modelling_1", p0))
    start = dense("start_logits", np.concatenate([g1, p0], axis=1))[:, 0]
    a1i = np.tile(softmax(start, 0) @ g1, (len(g1), 1))
    together = np.concatenate([p0, g1, a1i, g1 * a1i], axis=1)
    g2 = both_ways("output", together)
    end = dense("end_logits", np.concatenate([g2, p0], axis=1))[:, 0]
    return start, end


def test_the_model_is_that_of_the_paper(qa, file, small):
    questions, vocabulary, x = questions_of(qa, file, small, 6)
    model = built(qa, small, vocabulary)
    got = [ops.convert_to_numpy(one) for one in model(x)]
    for row, one in enumerate(questions):
        sizes = (len(one.tokens), len(one.asked))
        given = [one[row, : sizes[number // 2]] for number, one in enumerate(x)]
        for ours, theirs in zip(got, forward(model, *given), strict=True):
            np.testing.assert_allclose(ours[row, : sizes[0]], theirs, atol=1e-4)


@pytest.mark.long
def test_a_question_without_words(qa, file, small):
    questions, vocabulary, _ = questions_of(qa, file, small, 3)
    empty = replace(questions[0], asked=())
    model = built(qa, small, vocabulary)
    config = replace(small, batch=1)
    (alone,) = qa.encoding.logits_of(model, [empty], vocabulary, config)
    together = next(
        qa.encoding.logits_of(model, [empty, *questions], vocabulary, small)
    )
    size = len(empty.tokens)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a[:size], b[:size], atol=1e-5)
    short = qa.encoding.arrays_of([empty], vocabulary, small.word_length)
    for a, b in zip(alone, model(short), strict=True):
        np.testing.assert_allclose(a[:size], ops.convert_to_numpy(b)[0], atol=1e-5)


def test_padding_changes_nothing(qa, file, small):
    questions, vocabulary, _ = questions_of(qa, file, small)
    # Of each length one.
    questions = list({len(one.tokens): one for one in questions}.values())
    x = qa.encoding.arrays_of(questions, vocabulary, small.word_length)
    model = built(qa, small, vocabulary)
    longer = qa.encoding.arrays_of(questions, vocabulary, small.word_length, 29, 11)
    starts, ends = (ops.convert_to_numpy(one) for one in model(x))
    padded = [ops.convert_to_numpy(one) for one in model(longer)]
    assert len(questions) > 2
    for row, one in enumerate(questions):
        size = len(one.tokens)
        alone = qa.encoding.arrays_of([one], vocabulary, small.word_length)
        for got, far, expected in zip(
            (starts, ends), padded, model(alone), strict=True
        ):
            expected = ops.convert_to_numpy(expected)[0]
            np.testing.assert_allclose(got[row, :size], expected, atol=1e-5)
            np.testing.assert_allclose(far[row, :size], expected, atol=1e-5)
            assert (softmax(far[row], 0)[size:] == 0).all()


def test_components_are_those_of_the_paper(qa):
    config = qa.configurations.CONFIGURATIONS["bidaf"]
    model = qa.models.build(config, 10, 10)
    plan = trace(model, ignore=[qa.configurations.CONTEXTUAL])
    families = {family.name.split("/")[0]: [] for family in plan.families}
    for family in plan.families:
        families[family.name.split("/")[0]].append(family)
    assert all(family.fixed.all() for family in families.pop("contextual"))
    # Those of modelling_2 are read by the output layer as they are, times a1i and as
    # a1i, which the paper's code forgets: 3201 and 2 · 400 more.
    sizes = {"modelling_1": 4800, "modelling_2": 4001, "output": 6401}
    assert list(families) == list(sizes)
    for name, (forth, back) in families.items():
        for family in (forth, back):
            assert family.units == 100
            assert not family.fixed.any()
            assert set(family.sizes("paper")) == {sizes[name]}
            assert set(family.sizes()) == {sizes[name] - 4}
    # The contextual one is followed as well, through the attention and what it makes.
    forth, back = trace(model).families[:2]
    for family in (forth, back):
        assert not family.fixed.any()
        # Row and columns; three weights of the similarity; where p0 is read, as h, u_a,
        # and their products with h: by modelling_1, output and both logits.
        own = 400 + 4 * 300
        readers = 4 * (2 * 400 + 2 * 400 + 2)
        assert set(family.sizes("paper")) == {own + 3 + readers}
    # The paper's 2.69M less its vectors of words and characters: 2.5707M.
    vectors = [model.get_layer(name).count_params() for name in ("words", "characters")]
    assert model.count_params() - sum(vectors) == 2_570_703


@pytest.mark.parametrize(
    "variant",
    [
        {},
        pytest.param({"contextual": True}, marks=pytest.mark.long),
        {
            "contextual": True,
            "groups": (("contextual", 2), ("modelling_1", 3), ("output", 2)),
            "density": 0.5,
        },
        pytest.param(
            {"units": (4, 6, 5, 3, 2, 6)},
            marks=pytest.mark.long,
        ),
    ],
)
def test_shrunk_equals_masked(qa, file, small, tmp_path, variant):
    variant = dict(variant)
    ignore = () if variant.pop("contextual", False) else ["contextual"]
    config = replace(small, **variant)
    _, vocabulary, x = questions_of(qa, file, config, 6)
    model = built(qa, config, vocabulary)
    masked(trace(model, ignore), np.random.default_rng(1))
    small_model = ksr.shrink(model, ignore)
    before, after = qa.models.sizes_of(model), qa.models.sizes_of(small_model)
    assert (before["contextual"] == after["contextual"]) == bool(ignore)
    assert sum(qa.models.units_of(small_model)) < sum(qa.models.units_of(model))

    def furthest(other):
        """Of tokens alone: logits of padding are all the same, and huge."""
        logits = [
            np.array([ops.convert_to_numpy(one)[x[0] != 0] for one in own(x)])
            for own in (other, model)
        ]
        return np.abs(logits[0] - logits[1]).max()

    assert furthest(small_model) < 1e-5
    small_model.save(tmp_path / "small.keras")
    assert furthest(keras.models.load_model(tmp_path / "small.keras")) < 1e-5
    kernel = small_model.get_layer("output").trainable_variables[0]
    kernel.assign(kernel + 0.5)
    assert furthest(small_model) > 1e-3


# Runs ---------------------------------------------------------------------------------


def run_of(qa, tmp_path, config, *more):
    args = qa.arguments(["tiny", *more, "--out", str(tmp_path / "out")])
    args.out.mkdir(exist_ok=True)
    return replace(qa.run_of(args), config=config)


class Killed(keras.callbacks.Callback):
    """Raises in the midst of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, 1):
            raise KeyboardInterrupt


@pytest.fixture
def interrupted(qa, monkeypatch):
    """Trains a run that is interrupted in its last epoch, and then goes on."""

    def trained(run, data):
        with monkeypatch.context() as patched:
            given = qa.encoding.EpochByEpoch

            def both(batches):
                callback, killing = given(batches), Killed(run.config.epochs - 1)
                begin = callback.on_epoch_begin

                def on_epoch_begin(epoch, logs=None):
                    killing.on_epoch_begin(epoch)
                    begin(epoch, logs)

                callback.on_epoch_begin = on_epoch_begin
                callback.on_train_batch_end = killing.on_train_batch_end
                return callback

            patched.setattr(qa.encoding, "EpochByEpoch", both)
            with pytest.raises(KeyboardInterrupt):
                qa.runs.trained(run, data)
        return qa.runs.trained(run, data)

    return trained


def test_a_run_is_trained_recorded_and_shipped(
    qa, file, small, tmp_path, capsys, monkeypatch
):
    (data,) = qa.runs.data_of([file], None, "Two", unanswerable=True)
    data = replace(data, valid=data.test)
    more = ("--seed", "3", "--unanswerable", "score")
    run = run_of(qa, tmp_path, replace(small, batch=16), *more)
    run = replace(run, name=f"one{qa.runs.ending('Two')}")
    final = qa.runs.trained(run, data)
    written = (run.folder / f"{run.name}.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]
    assert final == lines[-1]
    assert final["units"] == [6] * 6
    assert final["questions"] == 16
    assert final["train_questions"] == 24
    assert final["data_hash"] == data.hash
    assert {"machine", "date", "seconds", "keras", "em", "f1"} <= set(final)
    assert lines[2]["train_loss"] < lines[0]["train_loss"]
    # What is looked at after an epoch is what would be tested then.
    assert final["f1"] == pytest.approx(lines[2]["valid_f1"])

    # Once is enough.
    capsys.readouterr()
    assert qa.runs.trained(run, data) == final
    assert "was trained before" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is of a run with other settings"):
        qa.runs.trained(replace(run, seed=4), data)
    # What is like it, or begins with it, has the same questions and sizes.
    for option, given in (("like", "one"), ("start", run.file)):
        other = {"name": "other", option: given}
        for wrong, change in (
            ("data_hash", {"data": replace(data, hash="other")}),
            ("width", {"config": replace(run.config, width=5)}),
            ("unanswerable", {"unanswerable": False}),
        ):
            asked = change.pop("data", data)
            with pytest.raises(SystemExit, match=f"--{option} .*other.*{wrong}"):
                qa.runs.trained(replace(run, **{**other, **change}), asked)

    # Its files say the same.
    monkeypatch.setattr(qa.shipping, "KINDS", (None,))
    (shipped,) = qa.shipping.ship(run, data)
    assert shipped["same_spans"] == shipped["questions"] == 16
    assert shipped["max_difference"] < 1e-4
    assert (shipped["em"], shipped["f1"]) == (final["em"], final["f1"])
    assert shipped["ms"] > 0
    assert qa.shipping.ship(run, data) == [shipped]
    qa.results.show(run.folder)
    printed = capsys.readouterr().out
    assert "| tiny, width 6, " in printed
    row = "no answer scored (squad.json), 1 of 2 articles: Two | 3 | 16 |"
    assert row in printed
    assert "16 of 16" in printed
    run.file.unlink()
    (run.folder / f"{run.name}.shipped.jsonl").unlink()
    with pytest.raises(SystemExit, match="is gone; its records say"):
        qa.shipping.ship(run, data)


@pytest.mark.long
def test_an_interrupted_run_comes_to_the_same_end(
    qa, file, small, tmp_path, interrupted
):
    (data,) = qa.runs.data_of([file], None, "Two")
    run = run_of(qa, tmp_path, small, "--name", "whole")
    final = qa.runs.trained(run, replace(data, valid=data.test))
    resumed = replace(run, name="resumed")
    found = interrupted(resumed, replace(data, valid=data.test))
    assert {**found, "seconds": 0, "run": ""} == {**final, "seconds": 0, "run": ""}
    ours, theirs = (
        keras.models.load_model(one.file).get_weights() for one in (run, resumed)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # Whether somebody looks at it while it trains makes no difference.
    blind = replace(run, name="blind")
    found = qa.runs.trained(blind, data)
    assert found["f1"] == pytest.approx(final["f1"])


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [
        ["--method", "scheduled", "--keep", "0.5"],
        ["--method", "scheduled", "--keep", "0.5", "--contextual"],
    ],
)
def test_a_pruned_run_comes_to_the_same_end(
    qa, file, small, tmp_path, interrupted, more
):
    (data,) = qa.runs.data_of([file], None, "Two")
    config = replace(small, epochs=4)
    run = run_of(qa, tmp_path, config, *more, "--name", "whole")
    final = qa.runs.trained(run, data)
    kept = [*final["units"]]
    if "--contextual" in more:
        kept += final["contextual_units"]
        assert sum(final["contextual_units"]) < 12
    else:
        assert final["contextual_units"] == [6, 6]
    assert sum(kept) == 3 * len(kept)
    found = interrupted(replace(run, name="resumed"), data)
    assert {**found, "seconds": 0, "run": ""} == {**final, "seconds": 0, "run": ""}
    plain, dynamic = qa.shipping.ship(run, data)
    assert plain["same_spans"] == plain["questions"] == final["questions"]
    assert dynamic["questions"] == plain["questions"]


@pytest.mark.long
def test_every_method_trains(qa, file, small, tmp_path):
    (data,) = qa.runs.data_of([file], None, "Two")
    config = replace(small, epochs=2)
    dense = run_of(qa, tmp_path, config)
    qa.runs.trained(dense, data)
    start = ["--start", str(dense.file)]

    def size_of(run):
        variables = keras.models.load_model(run.file).get_layer("output").variables
        return np.mean([np.abs(v).mean() for v in variables if "kernel" in v.path])

    # So few steps of Adam take no unit to zero, whatever pulls.
    lasso = ["--method", "lasso", "--strength", "10"]
    for more in (lasso, [*lasso, *start]):
        run = run_of(qa, tmp_path, config, *more)
        assert qa.runs.trained(run, data)["units"] == [6] * 6
        assert size_of(run) < 0.8 * size_of(dense)
    for more, left in (
        (["--method", "proximal", "--strength", "1e3", "--contextual"], [1] * 6),
        (["--method", "proximal", "--strength", "0"], [6] * 6),
        (["--method", "scheduled", "--keep", "0.6", *start], None),
    ):
        run = run_of(qa, tmp_path, config, *more)
        final = qa.runs.trained(run, data)
        if left is None:
            assert sum(final["units"]) == 22
        else:
            assert final["units"] == left
        gone = "--contextual" in more
        assert final["contextual_units"] == ([1, 1] if gone else [6, 6])
    # The sizes that pruning came to, from the beginning and tuned further.
    own = ["--method", "direct", "--units", "1", "2", "3", "4", "5", "6"]
    run = run_of(qa, tmp_path, replace(config, units=(1, 2, 3, 4, 5, 6)), *own)
    assert qa.runs.trained(run, data)["units"] == [1, 2, 3, 4, 5, 6]
    args = ["tiny", "--method", "direct", "--like", run.name, "--out", str(run.folder)]
    assert qa.run_of(qa.arguments(args)).config.units == (1, 2, 3, 4, 5, 6)
    tuned = run_of(qa, tmp_path, config, "--start", str(run.file), "--name", "tuned")
    assert qa.runs.trained(tuned, data)["units"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.long
def test_what_was_pruned_in_groups_is_tuned(qa, file, small, tmp_path):
    (data,) = qa.runs.data_of([file], None, "Two")
    # Groups of other sizes in either direction, as pruning leaves them.
    config = replace(small, epochs=2, groups=(("contextual", 2), ("output", 3)))
    more = ["--method", "scheduled", "--keep", "0.5", "--contextual"]
    run = run_of(qa, tmp_path, config, *more)
    final = qa.runs.trained(run, data)
    start = ["--start", str(run.file)]
    lasso = ["--method", "lasso", "--strength", "0", "--contextual", *start]
    for own in (start, lasso):
        tuned = run_of(qa, tmp_path, replace(config, dropout=0.1), *own)
        found = qa.runs.trained(tuned, data)
        assert found["units"] == final["units"]
        rates = {
            layer.rate
            for layer in keras.models.load_model(tuned.file).layers
            if isinstance(layer, layers.Dropout)
        }
        assert rates == {0.1}
    # Not on what it was tested with, nor with other words.
    (other,) = qa.runs.data_of([file], None, "One")
    wrong = run_of(qa, tmp_path, config, *start, "--name", "wrong")
    with pytest.raises(SystemExit, match="'left_out': \\('Two', 'One'\\)"):
        qa.runs.trained(wrong, other)
    with pytest.raises(SystemExit, match="'most_words': "):
        qa.runs.trained(replace(wrong, most_words=20), data)


@pytest.mark.long
def test_given_vectors_stay_as_they_are(qa, file, small, tmp_path):
    (data,) = qa.runs.data_of([file], None, "Two")
    path = tmp_path / "vectors.txt"
    path.write_text("has 1 2 3\nann 7 8 9\n")
    config = replace(small, epochs=1)
    given = run_of(qa, tmp_path, config, "--vectors", str(path))
    final = qa.runs.trained(given, data)
    assert final["parameters"] - final["without_words"] == 3 * 5
    model = keras.models.load_model(given.file)
    np.testing.assert_array_equal(
        model.get_layer("words").get_weights()[0][3], [1, 2, 3]
    )


def test_runs_of_one_kind_are_one_row(qa):
    def row(seed, left_out="Two", em=10.0, **more):
        settings = {
            **asdict(qa.configurations.CONFIGURATIONS["tiny"]),
            **dict.fromkeys(("keep", "strength", "like", "vectors", "start")),
            **{"contextual": False, "unanswerable": False, "most_words": 10_000},
            **more.pop("settings", {}),
        }
        return {
            **{"run": f"{seed}{left_out}", "configuration": "tiny", "method": "plain"},
            **{"seed": seed, "settings": settings, "data": "d", "data_hash": "h" * 16},
            **{"left_out": left_out, "articles": 2, "questions": 4, "em": em},
            **{"parameters": 10},
            **more,
        }

    whole = [row(1), row(1, "One", 40.0), row(2), row(2, "One")]
    found = qa.results.by_kind(whole)
    assert {name: list(seeds) for name, seeds in found.items()} == {"tiny (d)": [1, 2]}
    assert qa.results.pooled(found["tiny (d)"][1], "em") == 25
    # A fold without questions says nothing.
    none = row(1, "Three", math.nan, questions=0)
    assert qa.results.pooled([*whole[:2], none], "em") == 25
    assert math.isnan(qa.results.pooled([none], "em"))
    # Seeds with other folds, other settings or other data are other rows.
    for other in (
        row(3),
        row(3, settings={"epochs": 12}),
        row(3, settings={"average": 0.9}),
        row(3, settings={"most_words": 10}),
        row(3, settings={"start": "tiny-seed3-without-Two.keras"}),
        row(3, data_hash="other"),
    ):
        assert [3] in [list(x) for x in qa.results.by_kind([*whole, other]).values()]
    with pytest.raises(SystemExit, match="of one kind"):
        qa.results.by_kind([*whole, row(1)])
    # Of another start it is another run.
    starts = [f"tiny{name}-seed1-without-Two.keras" for name in ("", "-lasso-1")]
    tuned = [row(1, settings={"start": start}) for start in starts]
    assert len(qa.results.by_kind(tuned)) == 2
    # The largest first, which what was made smaller is compared with.
    small = row(1, method="lasso", settings={"strength": 1.0}, parameters=9)
    assert next(iter(qa.results.by_kind([small, *whole]))) == "tiny (d)"


def test_titles_become_names_of_files(qa, file, tmp_path):
    titles = ["Two", "AC/DC", "AC:DC", "Zoë", "x" * 300, "x" * 301]
    names = [qa.runs.ending(title) for title in titles]
    assert names[0] == "-without-Two"
    assert names[3] == "-without-Zoë"
    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 90
    assert not any("/" in name or ":" in name for name in names)
    assert qa.runs.ending(None) == ""
    # What a run starts from was trained without the same article.
    start = tmp_path / "dense-without-Two.keras"
    start.touch()
    given = ["tiny", "--squad", str(file), "--hold-out", "all", "--start"]
    args = qa.arguments([*given, str(tmp_path / "dense.keras")])
    assert qa.run_of(args, "Two").start == start
    with pytest.raises(SystemExit, match="there is no such file"):
        qa.run_of(args, "One")
    # Its own name is as right.
    args = qa.arguments([*given, str(start)])
    assert qa.run_of(args, "Two").start == start


def test_every_step_of_a_plan_is_a_run(qa, file, tmp_path, monkeypatch):
    made = []
    vectors = tmp_path / "glove.txt"
    vectors.touch()

    def run(command):
        args = qa.arguments(command[2:])
        left_out = "Two" if args.hold_out else None
        name = qa.run_of(args, left_out).name
        made.append(name)
        records = qa.records.Records(args.out / f"{name}.jsonl", {})
        units = {"units": [1, 2, 3, 4, 5, 6], "contextual_units": [7, 7]}
        records.add(final=True, left_out=None, **units, settings={"width": 7})
        (args.out / f"{name}.keras").touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(qa.plans.subprocess, "run", run)
    for name, plan in qa.PLANS.items():
        source = ["--squad", str(file)] if name == "held-out" else []
        given = ["--vectors", str(vectors)]
        qa.plans.follow(plan(""), Path("script.py"), tmp_path, source)
        qa.plans.follow(plan("vectors"), Path("script.py"), tmp_path, source + given)
    assert len(set(made)) == len(made) > 30
    assert "small-direct-scheduled-0.3-seed2" in made
    assert "bidaf-direct-scheduled-0.2-vectors-seed1" in made
    assert "small-scheduled-0.5-tuned-seed1-without-Two" in made


def test_direct_design_has_the_contextual_sizes_too(qa, tmp_path):
    for name, width in (("all", 8), ("six", 7)):
        records = qa.records.Records(tmp_path / f"{name}.jsonl", {})
        units = {"units": [1, 2, 3, 4, 5, 6], "contextual_units": [7, width]}
        records.add(final=True, left_out=None, **units, settings={"width": width})
    given = ["tiny", "--method", "direct", "--out", str(tmp_path), "--like"]
    everything, six = (qa.run_of(qa.arguments([*given, n])) for n in ("all", "six"))
    assert everything.config.units == (7, 8, 1, 2, 3, 4, 5, 6)
    assert six.config.units == (1, 2, 3, 4, 5, 6)
    with pytest.raises(SystemExit, match="not there, or not of a finished run"):
        qa.run_of(qa.arguments([*given, "none"]))


def test_runs_of_other_examples_are_refused(qa, tmp_path):
    # It has a configuration of this name, too.
    records = qa.records.Records(tmp_path / "tiny-seed1.jsonl", {"run": "tiny-seed1"})
    records.add(final=True, configuration="tiny", units=[3, 4], train_words=7)
    with pytest.raises(SystemExit, match=r"tiny-seed1\.jsonl is of another example's"):
        qa.results.show(tmp_path)
    given = ["tiny", "--method", "direct", "--like", "tiny-seed1"]
    with pytest.raises(SystemExit, match="is of another example's run"):
        qa.run_of(qa.arguments([*given, "--out", str(tmp_path)]))


def test_files_of_plans_are_checked_first(qa, file, capsys):
    one, two = ["--squad", str(file)], ["--squad", str(file), str(file)]
    for given, message in (
        (["--plan", "held-out"], "held-out takes --squad with one file"),
        (["--plan", "held-out", *two], "not --plan held-out with 2"),
        (["--plan", "tiny", *one], "not --plan tiny with 1"),
        (["--plan", "tiny", "--squad", "no.json", "no.json"], "no.json: there is no"),
        (["--plan", "tiny", "--vectors", "no.txt"], "--vectors no.txt: there is no"),
    ):
        with pytest.raises(SystemExit):
            qa.arguments(given)
        assert message in capsys.readouterr().err
    assert qa.arguments(["--plan", "held-out", *one]).plan == "held-out"
    assert qa.arguments(["--plan", "tiny", *two]).plan == "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a configuration"),
        (["tiny", "--method", "scheduled"], "needs --keep"),
        (["tiny", "--keep", "0.5"], "--keep is for --method scheduled"),
        (["tiny", "--method", "scheduled", "--keep", "2"], "must lie in (0, 1]"),
        (["tiny", "--method", "direct", "--units", "3"], "not 1 numbers"),
        (["tiny", "--method", "direct", "--units", *"012345"], "must be at least 1"),
        (["tiny", "--start", "nowhere.keras"], "there is no such file"),
        (["tiny", "--epochs", "0"], "must be at least 1"),
        (["tiny", "--average", "1"], "must lie in [0, 1)"),
        (["tiny", "--hold-out", "all"], "is for --squad with one file"),
        (["tiny", "--squad", *(__file__,) * 3], "takes one file or two"),
        (["tiny", "--squad", "no.json"], "--squad no.json: there is no such file"),
        (["tiny", "--groups", "words=2"], "takes LAYER=N"),
        (["tiny", "--groups", "output"], "takes LAYER=N"),
        (["tiny", "--groups", "output=2", "output=3"], "names a layer twice"),
        (["tiny", "--dropout", "1"], "must lie in [0, 1)"),
        (["tiny", "--seed", "-1"], "and less than 2**32, not -1"),
        (["tiny", "--seed", str(2**32)], "and less than 2**32, not 4294967296"),
        (["tiny", "--name", "a/b"], "must be no path: 'a/b'"),
        (["tiny", "--out", __file__], "it is there, and no folder"),
        (["tiny", "--groups", "output=²"], "takes LAYER=N"),
        (
            ["tiny", "--method", "scheduled", "--keep", "0.08"],
            "--keep 0.08 of 72 units is less than one for each of the 6",
        ),
        (["tiny", "--method", "lasso", "--strength", "nan"], "must be 0 or more"),
        (["tiny", "--contextual"], "is for what removes units; plain does not"),
        (
            ["tiny", "--method", "direct", "--units", *"123456", "--like", "x"],
            "give one",
        ),
    ],
)
def test_bad_arguments_are_explained(qa, capsys, arguments, message):
    with pytest.raises(SystemExit):
        qa.arguments(arguments)
    assert message in capsys.readouterr().err
