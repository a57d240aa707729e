"""What the gateway tells about itself: log, metrics, traces."""
