"""Trains on one device, then under MirroredStrategy on two logical CPUs."""

import json

import tensorflow as tf
import training

from keras_sparse_rnn import GroupedLSTM, ISSPruning


def layer():
    return GroupedLSTM(32, 4, input_density=0.5)


def pruned(model):
    """The losses of training with pruning, and what is left of the layer."""
    pruning = ISSPruning(0.5)
    x, y = training.data()
    history = model.fit(
        x, y, training.BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[pruning]
    )
    small = pruning.pruned_model.layers[0]
    return {"losses": history.history["loss"], "group_sizes": small.group_sizes}


(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
one = training.trained(training.model_of(layer))
one_pruned = pruned(training.model_of(layer))
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = training.model_of(layer)
    to_prune = training.model_of(layer)
many = training.trained(model)
(replicas,) = {
    len(strategy.experimental_local_results(v.value)) for v in model.trainable_variables
}
print(
    json.dumps(
        {
            "replicas": replicas,
            "one": one,
            "many": many,
            "one pruned": one_pruned,
            "many pruned": pruned(to_prune),
        }
    )
)
