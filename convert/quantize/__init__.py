"""What the converter quantizes with: a search for better scales, and the pool of threads."""
