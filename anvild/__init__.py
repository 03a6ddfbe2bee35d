"""anvild, the daemon of a device lab."""

import atexit
import gc

__version__ = "0.1.0"

# msgspec frees its types in the wrong order when the interpreter ends, and now and then crashes (msgspec issue 717).
# What is frozen is not freed.
atexit.register(gc.freeze)
