"""Each module here adapts one library or one thing of the outside world to a port of the model.

Nothing is decided here: the features above decide, and call the adapters through their ports.
"""

import os

# gRPC reads this variable when it is imported. It would write its errors to standard error; the
# agent logs each of them itself, once.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
