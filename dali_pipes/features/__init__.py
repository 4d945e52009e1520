"""The outputs of a frozen module, kept in the same stores as images: `CachedModule` and what it is made of."""
