"""Rank a gallery for queries: `base` is the contract; `dense` searches by embeddings, `imagescope` by chat models."""
