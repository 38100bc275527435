"""One page to look at: `mempool web`. A process of its own, which reads what others have written, like `mempool top`."""
