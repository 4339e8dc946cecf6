"""`python -m keras_sparse_rnn`: the command line."""

import sys

from keras_sparse_rnn.command_line import main

sys.exit(main())
