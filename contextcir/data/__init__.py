"""Images, triplets and pairs: read, check, write and publish them."""
