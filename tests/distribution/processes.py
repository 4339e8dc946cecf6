"""Trains in one of several processes on JAX; how many, the environment says.

First with a share of each batch in each process, then with a share of the groups.
"""

import json

import keras
import numpy as np
import training


def groups_parallel(processes):
    """The groups divided among processes, which all see the whole batch."""
    mesh = keras.distribution.DeviceMesh((1, processes), ("batch", "model"))
    layout_map = keras.distribution.LayoutMap(mesh)
    layout_map[".*grouped_lstm.*/groups"] = ("model", None, None)
    return keras.distribution.ModelParallel(
        layout_map=layout_map, batch_dim_name="batch", auto_shard_dataset=False
    )


def share_of(array, distribution):
    """What this process sees of each batch."""
    shares, own = distribution.num_model_replicas, distribution.data_shard_id
    batches = np.split(array, training.BATCHES)
    return np.concatenate([np.split(batch, shares)[own] for batch in batches])


def trained(distribution):
    """The losses and weights, with a share of each batch or of the groups."""
    x, y = (share_of(array, distribution) for array in training.data())
    with distribution.scope():
        model = training.model_of(training.lstm)
        size = training.BATCH // distribution.num_model_replicas
        return training.trained(model, x, y, size)


keras.distribution.initialize()
processes = keras.distribution.get_device_count()
data_parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
result = {
    "processes": processes,
    "data": trained(data_parallel),
    "groups": trained(groups_parallel(processes)),
}
print(json.dumps(result))
