"""What tests put into a pool where `bytearray` and `object` do not do. Numbered ones: `mempool.testing.Element`."""


class Weak:
    """An object that allows weak references."""
