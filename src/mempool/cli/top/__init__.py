"""`mempool top`: the pools of this machine, live. Its modules use the standard library only, and few pages of memory."""
