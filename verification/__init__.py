"""What is proved about the pool, and by what. See README.md."""
