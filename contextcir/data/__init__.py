"""Images and triplets: reading, checking, writing, publishing."""
