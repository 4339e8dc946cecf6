"""One initializer for a weight that is stored in several parts."""

from typing import Any

import keras


def of_part(initializer: Any, part: int) -> Any:
    """The initializer of part `part`, drawing values of its own.

    A Keras initializer draws the same values each time it is called, so parts that
    shared one would start as copies of each other. An integer seed is raised by
    `part`, so that part 0 is what an undivided weight would have been.

    Args:
        initializer: Anything `keras.initializers.get` takes.
        part: Index of the part, from 0.

    Returns:
        A `keras.initializers.Initializer`, or the callable that was given.
    """
    initializer = keras.initializers.get(initializer)
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    if isinstance(config["seed"], int):
        config["seed"] += part
    elif config["seed"] is not None:
        # A seed generator draws anew by itself; a copy of it would not.
        return initializer
    return type(initializer).from_config(config)


def of_block(
    initializer: Any, part: int, shape: tuple[int, int], whole: tuple[int, int]
) -> Any:
    """The initializer of a block of a matrix, as large as in the whole matrix.

    Initializers that scale with the shape of what they fill would make the entries of
    a small block larger.

    Args:
        initializer: Anything `keras.initializers.get` takes.
        part: Index of the block, from 0.
        shape: Its shape.
        whole: The shape of the matrix it is cut from.

    Returns:
        A `keras.initializers.Initializer`, or the callable that was given.
    """
    initializer = of_part(initializer, part)
    if isinstance(initializer, keras.initializers.Orthogonal):
        gain = initializer.gain * (max(shape) / max(whole)) ** 0.5
        return keras.initializers.Orthogonal(gain, initializer.seed)
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    fans = {
        "fan_in": lambda rows, columns: rows,
        "fan_out": lambda rows, columns: columns,
        "fan_avg": lambda rows, columns: (rows + columns) / 2,
    }
    fan = fans[initializer.mode]
    return keras.initializers.VarianceScaling(
        initializer.scale * fan(*shape) / fan(*whole),
        initializer.mode,
        initializer.distribution,
        initializer.seed,
    )
