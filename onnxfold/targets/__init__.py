"""What each backend wants of a quantized graph, and what it makes of it."""
