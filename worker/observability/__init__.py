"""What the gateway says of itself."""
