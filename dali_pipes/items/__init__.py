"""The items of any map-style dataset, kept in a cache: `CachedDataset` and what it is made of."""
