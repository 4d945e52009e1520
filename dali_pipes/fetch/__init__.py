"""From a sample's number to its base image: where decoding and the cache meet. See `fetcher`."""
