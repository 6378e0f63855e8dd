"""Networks of our layers: layers, losses, LeNet-5, and the check of all gradients."""
