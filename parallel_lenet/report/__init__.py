"""Pages about a trained network, in one HTML file each."""
