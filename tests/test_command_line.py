"""The command line, against counts made by hand and models run by Keras."""

import configparser
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import conftest
import keras
import numpy as np
import pytest
from keras import layers

from keras_sparse_rnn import GroupedLSTM, TieredEmbedding
from keras_sparse_rnn.command_line import benchmark, inspect, main, output

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need the TensorFlow backend", allow_module_level=True)
pytest.importorskip("ai_edge_litert")

import chains
from ai_edge_litert import schema_py_generated as schema

from keras_sparse_rnn import TFLiteModel, export_tflite

FEATURES, UNITS = 6, 5


def lstm_parameters(inputs, units):
    return 4 * units * (inputs + units + 1)


def lstm_products(inputs, units):
    return 4 * units * (inputs + units)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def small(folder):
    model = keras.Sequential(
        [
            keras.Input((8, FEATURES), name="x"),
            layers.LSTM(UNITS, name="lstm"),
            layers.Dense(3, name="scores"),
        ]
    )
    path = folder / "small.keras"
    model.save(path)
    return model, path


@pytest.fixture(scope="module")
def step(folder, small):
    path = folder / "step.tflite"
    export_tflite(small[0], path, streaming="states")
    return path


@pytest.fixture(scope="module")
def fused(folder, small):
    path = folder / "fused.tflite"
    export_tflite(small[0], path, "fused", target="interpreter")
    return path


@pytest.fixture(scope="module")
def any_length(folder):
    path = folder / "any.tflite"
    x = keras.Input((None, 3), name="x")
    export_tflite(keras.Model(x, layers.LSTM(2, return_sequences=True)(x)), path)
    return path


@pytest.fixture(scope="module")
def with_code(folder):
    marker = folder / "the code was run"
    where = str(marker)
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.LSTM(2),
            layers.Lambda(lambda x: (open(where, "a").close(), x)[1], name="sly"),
        ]
    )
    path = folder / "code.keras"
    model.save(path)
    marker.unlink()
    return path, marker


def run(capsys, *words):
    """The exit status, and what was printed on stdout and on stderr."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def table(capsys, monkeypatch, command, path, *words):
    """What is printed with a short name of the file, for a terminal."""
    monkeypatch.chdir(path.parent)
    status, out, err = run(capsys, command, path.name, *words)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    return out


def run_json(capsys, *words):
    status, out, err = run(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


def in_keras(path, x):
    return keras.models.load_model(path)(x).numpy()


def constants(path):
    """Bytes of the constants in a file, each once."""
    flat = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    held = {one.buffer for graph in flat.subgraphs for one in graph.tensors}
    data = [flat.buffers[number].data for number in held]
    return sum(len(one) for one in data if one is not None)


# inspect


def test_inspect_counts_what_is_counted_by_hand(capsys, monkeypatch, folder):
    tiers = [(10, 8), (90, 4)]
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            TieredEmbedding(100, 8, tiers=tiers, name="table"),
            GroupedLSTM(12, 3, return_sequences=True, name="grouped"),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both"),
            layers.Dropout(0.5, name="dropout"),
            layers.LSTM(7, name="lstm"),
            layers.Dense(3, name="scores"),
        ]
    )
    path = folder / "model.keras"
    model.save(path)
    (found,) = run_json(capsys, "inspect", path)["files"]
    by_name = {one["layer"]: one for one in found["layers"]}

    counts = {
        "table": (10 * 8 + 90 * 4, 0),
        "grouped": (3 * lstm_parameters(8, 4), 3 * lstm_products(8, 4)),
        "both": (2 * lstm_parameters(12, 5), 2 * lstm_products(12, 5)),
        "dropout": (0, 0),
        "lstm": (lstm_parameters(10, 7), lstm_products(10, 7)),
        "scores": (3 * (7 + 1), 3 * 7),
    }
    assert {
        name: (one["parameters"], one["multiply_adds"]) for name, one in by_name.items()
    } == counts
    assert all(one["bytes"] == 4 * one["parameters"] for one in found["layers"])
    assert found["total"]["parameters"] == sum(a for a, _ in counts.values())
    assert found["total"]["multiply_adds"] == sum(b for _, b in counts.values())
    assert found["total"]["bytes"] == 4 * found["total"]["parameters"]
    assert found["bytes"] == path.stat().st_size
    assert by_name["table"]["tiers"] == [list(tier) for tier in tiers]
    (recurrent,) = by_name["grouped"]["recurrent"]
    assert recurrent["groups"] == [{"units": 4, "alive": 4}] * 3
    units = {name: one["units"] for name, one in by_name.items() if one["units"]}
    assert units == {"grouped": 12, "both": 10, "lstm": 7}
    assert found["inputs"][0]["shape"] == [None, None]

    out = table(capsys, monkeypatch, "inspect", path)
    for shown in ("10×8 + 90×4", "3 groups: 4 units each", "12/12", "forward_lstm"):
        assert shown in out


def test_inspect_tells_the_living_from_the_dead(capsys, folder):
    model = chains.chain(6, (8, 2))
    (first, readers), (second, heads) = chains.recurrent_of(model)
    chains.kill(first, readers, [0, 3])
    chains.kill(second, heads, [1, 2, 7])
    path = folder / "masked.keras"
    model.save(path)
    (found,) = run_json(capsys, "inspect", path)["files"]
    by_name = {one["layer"]: one for one in found["layers"]}
    assert (by_name["r0"]["alive"], by_name["r0"]["units"]) == (4, 6)
    groups = by_name["r1"]["recurrent"][0]["groups"]
    assert groups == [{"units": 4, "alive": 2}, {"units": 4, "alive": 3}]
    assert (found["total"]["alive"], found["total"]["units"]) == (9, 14)
    # Each group reads all four units that are left below, by default.
    left = lstm_parameters(chains.FEATURES, 4)
    left += lstm_parameters(4, 2) + lstm_parameters(4, 3) + 2 * (5 + 1)
    assert found["after_shrinking"]["parameters"] == left


def test_inspect_tells_what_it_can_of_a_model_that_pruning_cannot_follow(
    capsys, monkeypatch, folder
):
    x = keras.Input((4, 3))
    sorted_units = keras.ops.sort(layers.LSTM(8, name="lstm")(x), axis=-1)
    path = folder / "sorted.keras"
    keras.Model(x, layers.Dense(2, name="head")(sorted_units)).save(path)
    (found,) = run_json(capsys, "inspect", path)["files"]
    assert [(one["layer"], one["parameters"]) for one in found["layers"]] == [
        ("lstm", lstm_parameters(3, 8)),
        ("head", 2 * 9),
    ]
    assert found["total"]["bytes"] == 4 * (lstm_parameters(3, 8) + 2 * 9)
    assert found["layers"][0]["units"] == 8
    assert found["layers"][0]["alive"] is None
    assert "Sort" in found["remarks"][0]
    assert "?/8" in table(capsys, monkeypatch, "inspect", path)


def test_inspect_shows_what_a_tflite_file_takes_gives_and_stores(
    capsys, monkeypatch, small, step
):
    (found,) = run_json(capsys, "inspect", step)["files"]
    states = {"state_lstm_h": [1, UNITS], "state_lstm_c": [1, UNITS]}
    for side, own in (("inputs", {"x": [1, 1, FEATURES]}), ("outputs", {})):
        shapes = {one["name"]: one["shape"] for one in found[side] if one["state"]}
        assert shapes == states
        plain = {one["name"]: one["shape"] for one in found[side] if not one["state"]}
        assert not own or plain == own
    assert {one["dtype"] for one in found["inputs"]} == {"float32"}

    flat = schema.ModelT.InitFromPackedBuf(step.read_bytes(), 0)
    codes = [code.builtinCode for code in flat.operatorCodes]
    (graph,) = flat.subgraphs
    assert sum(found["operations"].values()) == len(graph.operators)
    fully = schema.BuiltinOperator.FULLY_CONNECTED
    assert found["operations"]["FULLY_CONNECTED"] == sum(
        codes[one.opcodeIndex] == fully for one in graph.operators
    )
    assert sum(one["bytes"] for one in found["stored"].values()) == constants(step)
    # All kernels; of biases that are zero the converter keeps one.
    kernels = lstm_products(FEATURES, UNITS) + 3 * UNITS
    assert kernels <= found["stored"]["float32"]["numbers"] <= kernels + 4 * UNITS + 9
    assert found["runtimes"] == {
        name: {"runs": True, "reason": None}
        for name in ("Interpreter", "CompiledModel")
    }
    out = table(capsys, monkeypatch, "inspect", step)
    for shown in ("state_lstm_c  1×5", "runs in  LiteRT's Interpreter"):
        assert shown in out


def test_inspect_counts_what_tensors_share_once(capsys, any_length):
    (found,) = run_json(capsys, "inspect", any_length)["files"]
    assert sum(one["bytes"] for one in found["stored"].values()) == constants(
        any_length
    )
    assert found["inputs"][0]["shape"] == [1, None, 3]
    assert found["runtimes"]["CompiledModel"]["runs"]


def test_inspect_says_which_runtime_does_not_run_a_file(capsys, fused):
    (found,) = run_json(capsys, "inspect", fused)["files"]
    assert found["runtimes"]["Interpreter"]["runs"]
    assert not found["runtimes"]["CompiledModel"]["runs"]
    status, out, _ = run(capsys, "inspect", fused)
    assert status == 0
    assert "fails in  LiteRT's CompiledModel: it has no UNIDIRECTIONAL" in out


@pytest.mark.parametrize("keys", [["a"], ["b", "serving_default"], []], ids=len)
def test_files_of_others_may_have_any_signatures(capsys, tmp_path, keys):
    import flatbuffers
    import tensorflow as tf

    def times(factor):
        spec = tf.TensorSpec((1, 4), name="x")
        scale = tf.function(lambda x: {"y": x * factor}, input_signature=[spec])
        return scale.get_concrete_function()

    functions = {key: times(2.0 + i) for i, key in enumerate(keys or ["a"])}
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), functions)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "saved"), signature_keys=list(functions)
    )
    content = converter.convert()
    if not keys:
        flat = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        flat.signatureDefs = None
        builder = flatbuffers.Builder(0)
        builder.Finish(flat.Pack(builder), b"TFL3")
        content = bytes(builder.Output())
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    (found,) = run_json(capsys, "inspect", path)["files"]
    assert found["signatures"] == keys
    assert [one["shape"] for one in found["inputs"]] == [[1, 4]]
    assert found["runtimes"]["Interpreter"]["runs"]
    timed = run_json(capsys, "benchmark", path, "--repeats", "2")
    assert "error" not in str(timed)


def test_a_terminal_of_ascii_letters_is_enough(monkeypatch, step):
    letters = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", letters)
    assert main(["inspect", str(step)]) == 0
    letters.seek(0)
    assert "operations" in letters.read()


def test_one_bad_file_does_not_keep_inspect_from_the_others(capsys, step):
    status, out, err = run(capsys, "inspect", "missing.tflite", step, "--json")
    assert status == 1
    assert "'missing.tflite' does not exist" in err
    assert [one["file"] for one in json.loads(out)["files"]] == [str(step)]


# shrink


def test_shrink_keeps_the_strongest_units(capsys, tmp_path):
    model = chains.chain(6)
    source, destination = tmp_path / "in.keras", tmp_path / "out.keras"
    model.save(source)
    ((layer, readers),) = chains.recurrent_of(model)
    strongest = np.sort(np.argsort(chains.norms(layer, readers))[3:])

    found = run_json(capsys, "shrink", source, destination, "--keep", 0.5)
    assert found["layers"] == [
        {"layer": "r0", "before": 6, "after": 3, "groups": [3], "fixed": 0}
    ]
    after = lstm_parameters(chains.FEATURES, 3) + 2 * (3 + 1)
    assert found["total"]["after"]["parameters"] == after
    assert found["total"]["after"]["bytes"] == 4 * after
    assert "not looked at" in found["remark"]
    small = keras.models.load_model(destination)
    assert small.count_params() == after
    columns = np.concatenate([gate * 6 + strongest for gate in range(4)])
    kernel = layer.get_weights()[0][:, columns]
    np.testing.assert_array_equal(small.layers[0].get_weights()[0], kernel)
    dead = np.setdiff1d(np.arange(6), strongest)
    chains.kill(layer, readers, dead)
    x = chains.inputs()
    np.testing.assert_allclose(small(x), model(x), atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"in.keras", "out.keras"}


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--max-bytes", 1000], lambda small: 4 * small.count_params() <= 1000),
        (["--keep-parameters", 0.5], lambda small: small.count_params() <= 329),
        (["--max-multiply-adds", 200], lambda small: small.count_params() <= 300),
        (
            ["--keep", 0.8, "--round-to", 3],
            lambda small: small.get_layer("r1").cell.group_sizes == [3, 3],
        ),
        (["--keep", 0.5, "--ignore", "r1"], lambda s: s.get_layer("r1").units == 8),
        (["--keep", 0.57, "--minimum", 4], lambda s: s.get_layer("r0").units == 4),
    ],
)
def test_shrink_goes_for_what_is_asked(capsys, monkeypatch, tmp_path, options, size):
    model = chains.chain(6, (8, 2))
    source, destination = tmp_path / "in.keras", tmp_path / "out.keras"
    model.save(source)
    table(capsys, monkeypatch, "shrink", source, destination.name, *options)
    small = keras.models.load_model(destination)
    assert small.count_params() < model.count_params()
    assert size(small)


def test_shrink_dead_changes_no_output(capsys, tmp_path):
    model = chains.chain(6)
    ((layer, readers),) = chains.recurrent_of(model)
    chains.kill(layer, readers, [1, 4], columns=False)
    model.compile("adam", "mse")
    x = chains.inputs()
    source, destination = tmp_path / "in.keras", tmp_path / "out.keras"
    model.save(source)
    status, out, _ = run(capsys, "shrink", source, destination, "--dead")
    assert status == 0
    assert "The outputs stay the same." in out
    small = keras.models.load_model(destination)
    assert small.layers[0].units == 4
    assert small.compiled
    np.testing.assert_allclose(small(x), model(x), atol=1e-6)


def test_shrink_leaves_nothing_when_writing_fails(capsys, monkeypatch, small, tmp_path):
    def save(model, path):
        Path(path).write_bytes(b"a part")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "save", save)
    destination = tmp_path / "out.keras"
    status, _, err = run(capsys, "shrink", small[1], destination, "--keep", 0.5)
    assert status == 1
    assert err == "keras-sparse-rnn: error: No space left on device\n"
    assert not list(tmp_path.iterdir())


def test_shrink_says_when_a_model_is_small_enough(capsys, small, tmp_path):
    destination = tmp_path / "out.keras"
    status, _, err = run(capsys, "shrink", small[1], destination, "--max-bytes", 10**6)
    assert status == 0
    assert err.startswith("note: ISSPruning removes nothing")


# export


def test_export_writes_what_keras_computes(capsys, small, tmp_path):
    path = tmp_path / "model.tflite"
    found = run_json(capsys, "export", small[1], path, "--lowering", "lstm=unrolled")
    assert found["layers"] == {"lstm": "unrolled"}
    assert found["bytes"] == path.stat().st_size
    x = np.random.default_rng(0).standard_normal((1, 8, FEATURES)).astype("float32")
    np.testing.assert_allclose(TFLiteModel(path)(x), small[0](x), atol=1e-5)


def test_export_quantizes_with_data_from_a_file(capsys, small, tmp_path):
    data = tmp_path / "data.npz"
    x = np.random.default_rng(0).standard_normal((20, 8, FEATURES))
    np.savez(data, x=x.astype("float32"))
    path = tmp_path / "model.tflite"
    options = ["--quantize", "int8", "--representative-data", data, "--max-error", 1]
    status, out, err = run(capsys, "export", small[1], path, *options)
    assert (status, err) == (0, "")
    assert "int8" in out
    assert path.exists()


def test_export_writes_a_saved_model_into_a_directory(capsys, small, tmp_path):
    found = run_json(capsys, "export", small[1], tmp_path / "serving")
    assert found["signatures"] == ["serving_default", "sequence", "step"]
    assert (tmp_path / "serving" / "saved_model.pb").exists()


# benchmark


def test_benchmark_puts_files_side_by_side(capsys, small, step):
    options = ["--repeats", 12, "--warm-up", 1, "--threads", 1]
    found = run_json(capsys, "benchmark", small[1], step, *options)
    first, second = found["files"]
    assert "predict_on_batch" in first["timed"]
    assert "Interpreter" in second["timed"]
    assert first["inputs"] == [{"name": "x", "shape": [1, 8, FEATURES]}]
    assert second["inputs"] == [{"name": "x", "shape": [1, 1, FEATURES]}]
    for one in found["files"]:
        times = one["milliseconds"]
        assert 0 < times["min"] <= times["p50"] <= times["p90"] <= times["p99"]
        assert one["peak_memory"] > 0
    assert first["bytes"] == small[1].stat().st_size
    assert (first["ratio"], first["bytes_ratio"]) == (1, 1)
    expected = second["milliseconds"]["p50"] / first["milliseconds"]["p50"]
    assert second["ratio"] == pytest.approx(expected)


def test_benchmark_fills_open_axes(capsys, monkeypatch, any_length):
    options = ["--repeats", 2, "--time-steps", 7, "--runtime", "CompiledModel"]
    out = table(capsys, monkeypatch, "benchmark", any_length, *options)
    assert "x 1×7×3" in out
    assert "2 calls of each file in 2 rounds" in out


def test_benchmark_says_once_how_files_are_called():
    def one(file, width):
        return {
            "file": file,
            "timed": "LiteRT's Interpreter",
            "inputs": [{"name": "x", "shape": [1, width]}],
            "milliseconds": dict.fromkeys(("p50", "p90", "p99", "min"), 1.0),
            "bytes": 1,
            "peak_memory": None,
            **dict.fromkeys(("ratio", "bytes_ratio", "peak_memory_ratio")),
        }

    def told(*files):
        facts = {"files": files, "repeats": 1, "rounds": 1, "warm_up": 0, "threads": 1}
        lines = [" ".join(line.split()) for line in benchmark._text(facts)]
        return [line for line in lines if "LiteRT" in line]

    call = "each call LiteRT's Interpreter, on x 1×"
    assert told(one("a", 2), one("b", 2)) == [f"{call}2"]
    assert told(one("a", 2), one("b", 3), one("c", 2)) == [
        "each call a, c: LiteRT's Interpreter, on x 1×2",
        "b: LiteRT's Interpreter, on x 1×3",
    ]


class Timer:
    def __init__(self, path, log):
        self.path, self.log = path, log

    def time(self, warm_up, repeats):
        self.log.append((self.path, repeats))
        return [1.0] * repeats


def test_benchmark_times_files_in_turn(small):
    log = []
    timers = [Timer("a", log), Timer("b", log)]
    arguments = benchmark.argparse.Namespace(repeats=12, warm_up=1, verbose=False)
    seconds, rounds = benchmark._timed(timers, arguments)
    assert rounds == 5
    assert [len(times) for times in seconds] == [12, 12]
    assert [path for path, _ in log] == ["a", "b"] * 5
    assert {repeats for _, repeats in log} == {2, 3}


# What goes wrong.


@keras.saving.register_keras_serializable("nobody_knows")
class Unknown(layers.Layer):
    def call(self, inputs):
        return inputs


def broken(folder, small, with_code):
    """Files that can't be loaded, and what must be said of them."""
    whole = small[1].read_bytes()
    for name, content in {
        "empty.keras": b"",
        "cut.keras": whole[: len(whole) // 2],
        "text.keras": b"no zip",
        "old.h5": b"\x89HDF",
        "empty.tflite": b"",
        "text.tflite": b"no TFLite, but longer than a mark",
    }.items():
        (folder / name).write_bytes(content)
    yield "missing.keras", "does not exist"
    yield "missing.tflite", "does not exist"
    yield ".", "is a directory"
    yield folder / "empty.keras", "is empty"
    yield folder / "cut.keras", "cut short"
    yield folder / "text.keras", "is no Keras file"
    yield folder / "old.h5", "must end in .keras"
    yield folder / "empty.tflite", "is empty"
    yield folder / "text.tflite", "is no TFLite file"
    yield with_code[0], "holds code in layer 'sly'"


def test_files_that_cannot_be_loaded_are_errors_of_one_line(
    capsys, tmp_path, small, with_code
):
    for path, message in broken(tmp_path, small, with_code):
        status, out, err = run(capsys, "inspect", path)
        assert (status, out) == (1, "")
        assert err.startswith("keras-sparse-rnn: error: ")
        assert message in err
        assert err.count("\n") == 1


def test_a_cut_tflite_file_is_an_error(capsys, tmp_path, step):
    path = tmp_path / "cut.tflite"
    path.write_bytes(step.read_bytes()[:2000])
    for command in ("inspect", "benchmark"):
        status, _, err = run(capsys, command, path)
        assert status == 1
        assert "damaged" in err


@pytest.mark.parametrize(
    "command",
    conftest.often(
        ["inspect", "shrink", "export", "benchmark"], "inspect", "shrink", "export"
    ),
)
def test_code_in_a_file_is_never_run(capsys, tmp_path, with_code, command):
    path, marker = with_code
    words = {
        "shrink": [tmp_path / "out.keras", "--keep", 0.5],
        "export": [tmp_path / "out.tflite"],
    }
    status, _, err = run(capsys, command, path, *words.get(command, []))
    assert status == 1
    assert "safe_mode=False" in err
    assert not marker.exists()
    assert not list(tmp_path.iterdir())


def test_the_code_would_run_if_it_were_let(with_code):
    path, marker = with_code
    keras.models.load_model(path, safe_mode=False)
    assert marker.exists()
    marker.unlink()


def test_an_unknown_class_is_named(capsys, tmp_path, monkeypatch):
    path = tmp_path / "unknown.keras"
    keras.Sequential([keras.Input((4, 3)), layers.LSTM(2), Unknown()]).save(path)
    registered = keras.saving.get_custom_objects()
    monkeypatch.delitem(registered, "nobody_knows>Unknown")
    status, _, err = run(capsys, "inspect", path)
    assert status == 1
    assert "nobody_knows>Unknown" in err
    assert "register_keras_serializable" in err


def test_what_cannot_be_shrunk_or_exported_leaves_nothing(capsys, small, tmp_path):
    source = small[1]
    before = source.read_bytes()
    out = tmp_path / "out.keras"
    cases = [
        (["shrink", source, out, "--max-bytes", 1], "can't reach its target"),
        (["shrink", source, out, "--keep", 0.5, "--ignore", "no"], "does not have"),
        (["shrink", source, tmp_path / "out.h5", "--dead"], "must end in .keras"),
        (["shrink", source, source, "--keep", 0.5], "the model itself"),
        (["shrink", source, tmp_path / "no" / "o.keras", "--dead"], "does not exist"),
        (["export", source, tmp_path / "out.onnx"], "neither"),
        (["export", source, tmp_path / "o.tflite", "--quantize", "int8"], "needs"),
        (["export", source, tmp_path / "o.tflite", "--time-steps", 9], "fixes it at 8"),
        (
            [
                *("export", source, tmp_path / "o.tflite", "--quantize", "int8"),
                *("--representative-data", "no.npy"),
            ],
            "'no.npy' does not exist",
        ),
    ]
    for words, message in cases:
        status, printed, err = run(capsys, *words)
        assert (status, printed) == (1, ""), words
        assert message in err
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert source.read_bytes() == before


def test_a_runtime_that_does_not_take_a_file_is_an_error(capsys, fused):
    status, _, err = run(capsys, "benchmark", fused, "--runtime", "CompiledModel")
    assert status == 1
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in err


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["inspect"],
        ["shrink", "a.keras", "b.keras"],
        ["shrink", "a.keras", "b.keras", "--keep", "0.5", "--max-bytes", "9"],
        ["shrink", "a.keras", "b.keras", "--keep", "1.5"],
        ["shrink", "a.keras", "b.keras", "--keep", "nan"],
        ["shrink", "a.keras", "b.keras", "--max-bytes", "0"],
        ["shrink", "a.keras", "b.keras", "--dead", "--round-to", "4"],
        ["export", "a.keras", "b.tflite", "--quantize", "int4"],
        ["export", "a.keras", "b.tflite", "--lowering", "lstm=flex"],
        ["export", "a.keras", "directory", "--quantize", "dynamic"],
        ["benchmark", "a.keras", "--threads", "0"],
        ["benchmark", "a.keras", "--warm-up", "-1"],
    ],
)
def test_wrong_usage_has_a_status_of_its_own(capsys, words):
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert err.startswith("usage: keras-sparse-rnn")


@pytest.mark.parametrize("command", ["inspect", "shrink", "export", "benchmark"])
def test_help_has_an_example_and_fits_a_terminal(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert f"keras-sparse-rnn {command} model.keras" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_mistake_of_ours_shows_where_only_if_asked(capsys, monkeypatch):
    def fail(arguments):
        raise KeyError("x")

    monkeypatch.setattr(inspect, "run", fail)
    status, _, err = run(capsys, "inspect", "a.keras")
    assert status == 1
    assert err.startswith("keras-sparse-rnn: error: KeyError: 'x'")
    status, _, err = run(capsys, "inspect", "a.keras", "--verbose")
    assert status == 1
    assert "Traceback" in err


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspect, "run", stop)
    assert run(capsys, "inspect", "a.keras") == (
        130,
        "",
        "keras-sparse-rnn: error: interrupted\n",
    )


# What is printed.


def test_progress_is_told_where_it_is_asked_for(capsys, step):
    _, _, silent = run(capsys, "inspect", step)
    _, out, told = run(capsys, "inspect", step, "--verbose", "--json")
    assert silent == ""
    assert told.startswith("… ")
    json.loads(out)


def test_a_table_fits_a_narrow_terminal(monkeypatch):
    monkeypatch.setattr(output, "_width", lambda: 40)
    name = "a_very_long_name_of_a_layer_or_a_file.tflite"
    rows = [[name, "1,000", "2.50"], ["b", "10", "1.00"]]
    lines = output.table(("file", "bytes", "ratio"), rows)
    assert max(map(len, lines)) == 40
    assert lines[1].startswith("a_very_long_")
    assert lines[1].endswith("1,000   2.50")
    assert ".tflite" in lines[1]


def test_json_has_no_numbers_that_json_has_not():
    text = output.as_json({"a": float("nan"), "b": (1, float("inf")), "c": Path("d")})
    assert json.loads(text) == {"a": None, "b": [1, None], "c": "d"}


# As a program.


def test_it_is_a_program(step):
    done = subprocess.run(
        [sys.executable, "-m", "keras_sparse_rnn", "inspect", str(step), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][0]["bytes"] == step.stat().st_size
    assert "Traceback" not in done.stderr


def test_the_entry_point_is_there():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parent.parent / "setup.cfg")
    name, target = setup["options.entry_points"]["console_scripts"].split(" = ")
    module, function = target.strip().split(":")
    assert name.strip() == "keras-sparse-rnn"
    assert getattr(importlib.import_module(module), function) is main


QUIET = """
import sys
sys.argv = ["keras-sparse-rnn", "inspect", {path!r}]
from keras_sparse_rnn.command_line import main
assert main() == 0
print(*[name for name in ("keras", "tensorflow") if name in sys.modules])
"""


@pytest.mark.parametrize(("kind", "loaded"), [(0, ""), (1, "keras tensorflow")])
def test_the_terminal_stays_quiet_and_tflite_needs_no_keras(small, step, kind, loaded):
    path = str([step, small[1]][kind])
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(
        [sys.executable, "-c", QUIET.format(path=path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == loaded
