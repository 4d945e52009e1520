"""Source files, on this machine or behind a URL: what tells one version from another, and their bytes."""
