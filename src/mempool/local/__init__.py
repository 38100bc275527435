"""The engine of a pool in one process: what is decided in `_core`, done."""
